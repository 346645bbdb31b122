"""End a run that is stuck, and say where it stands."""

import multiprocessing
import os
import sys
import threading
import time
import traceback
from typing import Any

from lightning import LightningModule, Trainer

from .quiet import Quiet

EXIT_CODE = 75  # "temporary failure; try again" in sysexits.h: slurm.sh requeues the job
DEBUGGERS = {"bdb", "pdb", "IPython.core.debugger", "pydevd"}
# Hooks between two batches, where the next one may be expected already.
HOOKS = {
    "configure_model",
    "on_fit_start",
    "on_sanity_check_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_end",
    "on_test_start",
    "on_test_epoch_start",
}


class Watchdog(Quiet):
    """When for `seconds` no batch is finished, print where each process stands, and end the run.

    Only batches are watched: what hooks do at the start or end of an epoch may take as long as it likes.
    Seconds are counted while this process runs, so Ctrl-Z, a suspended job and a sleeping laptop stop the
    clock.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.waited = 0.0
        self.watching = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.start()
        self.over = threading.Event()  # not made before: an Event cannot be sent to a spawned process
        threading.Thread(target=self.watch, args=(trainer, self.over), daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.over.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if hasattr(self, "over"):
            self.over.set()

    def start(self) -> None:
        """Expect a batch."""
        self.waited = 0.0
        self.watching = True

    def stop(self) -> None:
        """Expect no batch."""
        self.watching = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.start()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":  # the training goes on, or begins
            self.start()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.start()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def watch(self, trainer: Trainer, over: threading.Event) -> None:
        """Count the seconds since the last batch; runs in a thread of its own."""
        while self.waited < self.seconds:
            if over.wait(1):
                return
            if self.watching and not may_take_long():
                self.waited += 1
        self.end(trainer)

    def end(self, trainer: Trainer) -> None:
        """Print where the main thread stands, and end this process and those it started."""
        where = "".join(traceback.format_stack(main_frame(), limit=12))
        reason = f"no batch was finished for {self.seconds} s (--stuck_after); above is where it stands"
        print(f"{where}error: rank {trainer.global_rank}: {reason}", file=sys.stderr, flush=True)
        if trainer.world_size > 1:
            # For the others to say where they stand: one of them may keep this one waiting. Rank 0 leaves
            # first, since Lightning would kill it, and so hide the exit code, if another one failed.
            time.sleep(15 if trainer.global_rank else 5)
        ranks = getattr(trainer.strategy.launcher, "procs", [])
        for process in [*multiprocessing.active_children(), *ranks]:
            process.kill()
        os._exit(EXIT_CODE)


def main_frame() -> Any:
    """Return the frame in which the main thread stands."""
    return sys._current_frames()[threading.main_thread().ident or 0]


def may_take_long() -> bool:
    """Return whether the main thread waits in a debugger, or is in a hook between two batches."""
    frame = main_frame()
    while frame is not None:
        if frame.f_globals.get("__name__") in DEBUGGERS or frame.f_code.co_name in HOOKS:
            return True
        frame = frame.f_back
    return False

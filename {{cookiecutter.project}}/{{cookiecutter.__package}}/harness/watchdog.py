"""End a run that is stuck, and say where it stands."""

import multiprocessing
import os
import sys
import threading
import time
import traceback
from typing import Any

from lightning import Callback, LightningModule, Trainer

EXIT_CODE = 75  # "temporary failure; try again" in sysexits.h: slurm.sh requeues the job
DEBUGGERS = {"bdb", "pdb", "IPython.core.debugger", "pydevd"}


class Watchdog(Callback):
    """When for `seconds` no batch is finished, print where each process stands, and end the run.

    Only batches are watched: what hooks do at the end of an epoch may take as long as it likes. Seconds are
    counted while this process runs, so Ctrl-Z, a suspended job and a sleeping laptop stop the clock.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.waited = 0.0
        self.watching = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.watching = False
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
        self.watching = trainer.state.fn == "fit" and not trainer.sanity_checking

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.start()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop()

    def watch(self, trainer: Trainer, over: threading.Event) -> None:
        """Count the seconds since the last batch; runs in a thread of its own."""
        while self.waited < self.seconds:
            if over.wait(1):
                return
            if self.watching and not in_debugger():
                self.waited += 1
        self.end(trainer)

    def end(self, trainer: Trainer) -> None:
        """Print where the main thread stands, and end this process and those it started."""
        where = "".join(traceback.format_stack(main_frame(), limit=12))
        reason = f"no batch was finished for {self.seconds} s (--stuck_after); above is where it stands"
        print(f"{where}error: rank {trainer.global_rank}: {reason}", file=sys.stderr, flush=True)
        if trainer.world_size > 1:
            time.sleep(5)  # for the others to say where they stand: one of them may keep this one waiting
        ranks = getattr(trainer.strategy.launcher, "procs", [])
        for process in [*multiprocessing.active_children(), *ranks]:
            process.kill()
        os._exit(EXIT_CODE)


def main_frame() -> Any:
    """Return the frame in which the main thread stands."""
    return sys._current_frames()[threading.main_thread().ident or 0]


def in_debugger() -> bool:
    """Return whether the main thread waits in a debugger."""
    frame = main_frame()
    while frame is not None:
        if frame.f_globals.get("__name__") in DEBUGGERS:
            return True
        frame = frame.f_back
    return False

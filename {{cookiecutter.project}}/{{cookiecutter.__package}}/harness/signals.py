"""Ctrl-C and SIGTERM: finish the step, save, and leave with the exit code that says so."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from .folder import resume_command
from .quiet import Quiet

HEARD = (signal.SIGTERM, signal.SIGINT)


class Signals(Quiet):
    """Note that a signal came; `Resume` saves and leaves before the next step.

    Where nothing is trained, as in a test, the process leaves at once. A second signal always does.
    Lightning's own handlers would not save, or not stop, and it installs them at each of its stages, so
    the hooks below take the signals back.

    Attributes:
        received: The signal that came, 0 if none.
        training: Whether a step is due before which `Resume` can save.
    """

    def __init__(self, run: Path):
        self.run = run
        self.received = 0
        self.training = False
        self.before: dict[int, Any] = {}

    def listen(self) -> None:
        """Hear signals from here on; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in HEARD:
            handler = signal.signal(signum, self.on_signal)
            self.before.setdefault(signum, handler)

    def restore(self) -> None:
        """Give the signals back to whoever heard them before, such as a notebook."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.listen()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training = True
        self.listen()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training = False

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.listen()

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second one ends the run at once
        self.received = signum
        if self.training:
            self.say("stopping: the step or validation that runs is finished, then the run is saved")
            return
        if (self.run / "config.yaml").exists():
            self.say(f"stopped; continue: {resume_command(self.run)}")
        sys.exit(128 + signum)

    def say(self, text: str) -> None:
        """Print a line from within a signal handler, where `print` may not be called."""
        if rank_zero_only.rank == 0:
            os.write(2, f"\n{text}\n".encode())

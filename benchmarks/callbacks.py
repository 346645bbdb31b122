"""Callbacks for `--trainer.callbacks`, in a module of its own so that importing it costs nothing."""

import os
import time
from pathlib import Path

from lightning import Callback


class FirstStep(Callback):
    """Print when the first batch is trained on, in seconds since 1970, and stop."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> int:
        print(f"first step at {time.time()}")
        trainer.should_stop = True
        return -1


class Memory(Callback):
    """Print the memory of the process, in MB, each thousand steps. Linux only."""

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step % 1000 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"memory {pages * os.sysconf('SC_PAGE_SIZE') / 1e6:.0f}")


class Steps(Callback):
    """Print how many µs a step takes, from the hundredth to the last."""

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == 100:
            self.start = time.perf_counter()

    def on_train_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            seconds = time.perf_counter() - self.start
            print(f"step {1e6 * seconds / (trainer.global_step - 100):.0f}")

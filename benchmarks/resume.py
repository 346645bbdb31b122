"""What exact resume costs: `python benchmarks/resume.py PROJECT [REPEATS]` times a step with and without it.

A generated project's default job, with a network so narrow that it hides nothing, in turn with and without
the callback `Resume`, on one thread. Checkpoints are counted by themselves: what they take is bounded by
design. The time is the processor's, which other work on the machine does not lengthen.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

PROJECT, REPEATS = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
os.environ["WANDB_MODE"] = "disabled"
sys.path.insert(0, str(PROJECT))

import torch  # noqa: E402
from lightning import Callback  # noqa: E402
from my_project.data import DataModule  # noqa: E402
from my_project.harness.resume import Resume  # noqa: E402
from my_project.harness.training import Training  # noqa: E402
from my_project.model import Model  # noqa: E402

EPOCHS = 12


class Clock(Callback):
    """Time training from its start to its end."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.start = time.process_time()

    def on_fit_end(self, trainer, pl_module) -> None:
        self.seconds = time.process_time() - self.start


def train(resume: bool, root: str) -> tuple[float, int, float]:
    """Train once; return µs a step without checkpoints, how many there were, and ms for each."""
    sys.argv = ["train.py", f"--trainer.default_root_dir={root}", f"--trainer.max_epochs={EPOCHS}"]
    sys.argv += ["--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--model.width=1"]
    cli = Training(Model, DataModule, PROJECT)
    clock, saves = Clock(), []
    cli.trainer.callbacks.insert(0, clock)
    if not resume:
        cli.trainer.callbacks = [c for c in cli.trainer.callbacks if not isinstance(c, Resume)]

    def timed_save(self, trainer, batch_idx):
        start = time.process_time()
        save(self, trainer, batch_idx)
        saves.append(time.process_time() - start)

    save, Resume.save = Resume.save, timed_save
    with cli.recorded():
        cli.trainer.fit(cli.model, cli.datamodule)
    Resume.save = save
    steps = (clock.seconds - sum(saves)) / cli.trainer.global_step
    return steps * 1e6, len(saves), sum(saves) / max(1, len(saves)) * 1e3


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        train(True, root)  # warms up
        pairs = [(train(False, root), train(True, root)) for _ in range(REPEATS)]
    without, with_it = (statistics.median(pair[i][0] for pair in pairs) for i in range(2))
    difference = statistics.median(pair[1][0] - pair[0][0] for pair in pairs)
    print(f"\n{'exact resume':<14} {'µs a step':>10} {'ratio':>7}")
    print(f"{'without':<14} {without:>10.0f} {1:>7.3f}")
    print(f"{'with':<14} {with_it:>10.0f} {with_it / without:>7.3f}   median difference {difference:+.0f} µs")
    count, cost = (statistics.median(pair[1][i] for pair in pairs) for i in (1, 2))
    print(f"{count:.0f} checkpoints, {cost:.0f} ms each")


if __name__ == "__main__":
    main()

"""`training.py CASE PROJECT REPEATS` trains with the project and by hand, in turn, and prints times as JSON.

The training phase of the project lasts from `on_train_start`, after the sanity check and before the first
batch, to the return of `Trainer.fit`; by hand it is the whole of `plain_loop.fit`. Both run in this process,
with the same threads, initial weights and batches. Callbacks and loggers are those of train.py.
"""

import copy
import json
import sys
import time
from pathlib import Path

import plain_loop
import torch
from torch import Tensor, nn

CASE, PROJECT, REPEATS = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
BUDGET = 90  # seconds: a busy machine gets fewer repeats
sys.path.insert(0, str(PROJECT))

from lightning import Callback  # noqa: E402
from my_project.data import DataModule, ImageDataset  # noqa: E402
from my_project.harness.cli import TrainCLI  # noqa: E402
from my_project.model import Model  # noqa: E402
from train import LINKS  # noqa: E402


class Mlp(nn.Module):
    """Hidden layers of 64, 128 and 64 with batch normalisation: the network of lightning-hydra-template."""

    def __init__(self):
        super().__init__()
        widths = [(28 * 28, 64), (64, 128), (128, 64)]
        hidden = [nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()) for i, o in widths]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images / 127.5 - 1)


class MlpModel(Model):
    """The project's model around the small MLP."""

    def __init__(self, classes: list[str], channels: int):
        super().__init__(classes, channels=channels)
        self.network = Mlp()


class RandomImages(DataModule):
    """Random images of 28×28 pixels in memory: 55,000 to train and 5,000 to validate, as Fashion-MNIST."""

    images = torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(10, (60_000,))

    def setup(self, stage: str) -> None:
        self.train_set = ImageDataset(self.images[:55_000], self.labels[:55_000])
        self.val_set = ImageDataset(self.images[55_000:], self.labels[55_000:])


CASES = {
    "digits": (Model, DataModule, []),
    "mlp": (MlpModel, RandomImages, ["--data.batch_size=128", "--trainer.max_epochs=2"]),
}


class Clock(Callback):
    """Note when training starts."""

    def on_train_start(self, trainer, pl_module) -> None:
        self.start = now()


def now() -> tuple[float, float]:
    """Return wall-clock time and the processor time of all threads, in seconds."""
    return time.perf_counter(), time.process_time()


def took(start: tuple[float, float]) -> dict[str, float]:
    wall, cpu = (end - begin for end, begin in zip(now(), start, strict=True))
    return {"wall": wall, "cpu": cpu}


def train(flags: list[str]) -> tuple[TrainCLI, nn.Module, dict[str, float]]:
    """Train as train.py does; return its command line, the untrained network and what was measured."""
    model_class, data_class, case_flags = CASES[CASE]
    sys.argv = ["train.py", *case_flags, *flags]
    cli, clock = TrainCLI(model_class, data_class, PROJECT, LINKS), Clock()
    cli.trainer.callbacks.append(clock)
    network = copy.deepcopy(cli.model.network)
    with cli.tracked_run():
        torch.manual_seed(1)
        cli.trainer.fit(cli.model, cli.datamodule)
        measured = took(clock.start)
    losses = {name: value.item() for name, value in cli.trainer.callback_metrics.items() if "loss" in name}
    return cli, network, {**measured, **losses, "steps": cli.trainer.global_step}


def train_by_hand(cli: TrainCLI, network: nn.Module) -> dict[str, float]:
    """Train with the same data and settings in the hand-written loop."""
    stop = {"max_epochs": cli.trainer.max_epochs, "patience": cli.config.early_stopping.patience}
    train_set, val_set = (
        (data.images, data.labels) for data in (cli.datamodule.train_set, cli.datamodule.val_set)
    )
    torch.manual_seed(1)
    start = now()
    options = {**cli.model.hparams, **cli.datamodule.hparams, **stop}
    losses = plain_loop.fit(network, train_set, val_set, cli.folder / "by_hand.pt", options)[-1]
    return {**took(start), **losses}


def main() -> None:
    pairs, start = [], time.perf_counter()
    for repeat in range(REPEATS + 1):
        cli, network, ours = train([] if repeat else ["--trainer.max_epochs=1"])
        pairs.append((ours, train_by_hand(cli, network)))
        if repeat and time.perf_counter() - start > BUDGET:
            break
    print(
        json.dumps({"threads": torch.get_num_threads(), "pairs": pairs[1:]})
    )  # the first, of one epoch, warms up


main()

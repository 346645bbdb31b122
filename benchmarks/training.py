"""Time one case: `python training.py CASE PROJECT REPEATS` trains with the project and by hand, in turn; prints JSON.

The training phase lasts from Lightning's `on_train_start`, after the sanity check and before the first batch, to
the return of `Trainer.fit`; by hand it is the whole of `plain_loop.fit`. Both run in this process, with the same
threads, initial weights and order of examples. Callbacks and loggers are those of train.py.
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
sys.path.insert(0, str(PROJECT))

from lightning import Callback  # noqa: E402
from my_project.data import DataModule, ImageDataset  # noqa: E402
from my_project.harness.cli import TrainCLI  # noqa: E402
from my_project.model import Model  # noqa: E402
from train import LINKS  # noqa: E402


class Mlp(nn.Sequential):
    """Three hidden layers with batch normalisation, 64, 128 and 64 wide: the network of lightning-hydra-template."""

    def __init__(self):
        widths = [28 * 28, 64, 128, 64]
        hidden = [
            layer
            for i, o in zip(widths, widths[1:], strict=False)
            for layer in (nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())
        ]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / 127.5 - 1)


class MlpModel(Model):
    """The project's model around the small MLP."""

    def __init__(self, classes: list[str], channels: int):
        super().__init__(classes, channels=channels)
        self.network = Mlp()


class RandomImages(DataModule):
    """Random images of 28×28 pixels in memory, as many as Fashion-MNIST has to train and validate."""

    images = torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(10, (60_000,), generator=torch.Generator().manual_seed(1))

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
        self.start = seconds()


def seconds() -> tuple[float, float]:
    """Return wall-clock time, and the processor time of all threads."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> list[float]:
    return [now - then for now, then in zip(seconds(), start, strict=True)]


def train(flags: list[str]) -> tuple[TrainCLI, dict, dict]:
    """Train as train.py does; return its command line, the initial weights and what was measured."""
    model_class, data_class, case_flags = CASES[CASE]
    sys.argv = ["train.py", *case_flags, *flags]
    cli = TrainCLI(model_class, data_class, PROJECT, LINKS)
    clock = Clock()
    cli.trainer.callbacks.append(clock)
    weights = copy.deepcopy(cli.model.network.state_dict())
    with cli.tracked_run():
        torch.manual_seed(1)
        cli.trainer.fit(cli.model, cli.datamodule)
        wall, cpu = since(clock.start)
    metrics = cli.trainer.callback_metrics
    return cli, weights, {
        "wall": wall,
        "cpu": cpu,
        "steps": cli.trainer.global_step,
        "loss": metrics["train/loss"].item(),
        "val_loss": metrics["val/loss"].item(),
    }


def train_by_hand(cli: TrainCLI, weights: dict) -> dict:
    """Train a network with the same weights, data and settings in the hand-written loop."""
    network = type(cli.model.network)(*network_arguments(cli))
    network.load_state_dict(weights)
    options = {**cli.model.hparams, **cli.datamodule.hparams}
    options |= {"max_epochs": cli.trainer.max_epochs, "patience": cli.config.early_stopping.patience}
    sets = [(data.images, data.labels) for data in (cli.datamodule.train_set, cli.datamodule.val_set)]
    torch.manual_seed(1)
    start = seconds()
    history = plain_loop.fit(network, *sets, cli.folder / "by_hand.pt", options)
    wall, cpu = since(start)
    return {"wall": wall, "cpu": cpu, "epochs": len(history), **history[-1]}


def network_arguments(cli: TrainCLI) -> list:
    return [] if CASE == "mlp" else [cli.model.hparams.channels, len(cli.model.hparams.classes)]


def main() -> None:
    pairs = []
    for repeat in range(REPEATS + 1):
        cli, weights, ours = train([] if repeat else ["--trainer.max_epochs=1"])
        by_hand = train_by_hand(cli, weights)
        if repeat:  # the first, of one epoch, warms up
            pairs.append([ours, by_hand])
    print(json.dumps({"threads": torch.get_num_threads(), "pairs": pairs}))


main()

"""`training.py CASE PROJECT SIDE` trains once for each line of flags sent to it, and prints times as JSON.

SIDE is the project; `bare`, its model and data in a Trainer with no logger, no checkpoint, no progress bar
and no callback; `settings`, the hand-written loop with the project's settings; or `defaults`, the same with
PyTorch's: AdamW weight by weight, convolutions by channels, memory returned to the system. All have the same
threads and initial weights and, but for the bare Trainer, the same batches. The training phase lasts from
the first `on_train_batch_start` to the return of `Trainer.fit`, in the project with the callbacks and loggers
of train.py, but without opening W&B, which takes half a second once; by hand it is all of `plain_loop.fit`.
"""

import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
import plain_loop
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

CASE, PROJECT, SIDE = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
sys.path.insert(0, str(PROJECT))

from lightning import Callback, Trainer  # noqa: E402
from my_project.data import DataModule, ImageDataset, collate  # noqa: E402
from my_project.harness.training import Training  # noqa: E402
from my_project.model import Model  # noqa: E402


class Mlp(nn.Module):
    """Hidden layers of 64, 128 and 64 with batch normalisation, as in many templates for MNIST."""

    def __init__(self):
        super().__init__()
        widths = [(28 * 28, 64), (64, 128), (128, 64)]
        hidden = [nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()) for i, o in widths]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images / 127.5 - 1)


class MlpModel(Model):
    """The project's model around the small MLP."""

    def __init__(self, classes: list[str], channels: int, size: list[int], fused: bool = True):
        super().__init__(classes, channels=channels, size=size, fused=fused)
        self.network = Mlp()


class Block(nn.Module):
    """The basic block of He et al. 2016 (arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(*(projection if inputs != outputs else ()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 for images of 32×32 pixels: its first convolution is 3×3 and keeps their size."""

    def __init__(self, width: int = 64):
        super().__init__()
        first = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        sizes = [(width * s // 2, width * s, 2) for s in (2, 4, 8)]
        stages = [(Block(i, o, stride), Block(o, o, 1)) for i, o, stride in [(width, width, 1), *sizes]]
        self.features = nn.Sequential(*first, *(block for stage in stages for block in stage))
        self.head = nn.Linear(width * 8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images / 127.5 - 1).mean(dim=(2, 3)))


class ResNetModel(Model):
    """The project's model around the ResNet."""

    def __init__(self, classes: list[str], channels: int, size: list[int], fused: bool = True):
        super().__init__(classes, channels=channels, size=size, fused=fused)
        self.network = ResNet()


class ColourImages(DataModule):
    """50,000 random images of 3×32×32 in memory, and 5,000 to validate."""

    def setup(self, stage: str) -> None:
        seeded = torch.Generator().manual_seed(0)
        images, labels = (
            torch.randint(256, (55_000, 3, 32, 32), dtype=torch.uint8, generator=seeded),
            torch.randint(10, (55_000,), generator=seeded),
        )
        self.train_set = ImageDataset(images[:50_000], labels[:50_000])
        self.val_set = ImageDataset(images[50_000:], labels[50_000:])


class FashionImages(DataModule):
    """55,000 images of 28×28 pixels in memory, and 5,000 to validate: Fashion-MNIST or random."""

    def setup(self, stage: str) -> None:
        seeded = torch.Generator().manual_seed(0)
        images, labels = fashion() or (
            torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=seeded),
            torch.randint(10, (60_000,), generator=seeded),
        )
        self.train_set = ImageDataset(images[:55_000], labels[:55_000])
        self.val_set = ImageDataset(images[55_000:], labels[55_000:])


class FewImages(FashionImages):
    """5,000 of them, and 1,000 to validate."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train_set = ImageDataset(self.train_set.images[:5000], self.train_set.labels[:5000])
        self.val_set = ImageDataset(self.val_set.images[:1000], self.val_set.labels[:1000])


def fashion() -> tuple[Tensor, Tensor] | None:
    """Return the images and labels of Debian's package dataset-fashion-mnist, if it is installed."""
    folder = next(Path("/usr/share").glob("*/fashion-mnist"), None)
    if folder is None:
        return None
    images, labels = (
        gzip.decompress((folder / f"train-{name}-ubyte.gz").read_bytes())
        for name in ("images-idx3", "labels-idx1")
    )
    pixels = torch.frombuffer(bytearray(images[16:]), dtype=torch.uint8).view(-1, 1, 28, 28)
    return pixels, torch.frombuffer(bytearray(labels[8:]), dtype=torch.uint8).long()


def write_images(folder: Path, count: int = 3000) -> None:
    """Write JPEG files of 96×96 pixels in ten classes."""
    random = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
    for i in range(count):
        image = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        image.resize((96, 96)).save(folder / f"class{i % 10}" / f"{i}.jpg", quality=90)


PYTORCH = ["--model.fused=false", "--channels_last=false", "--keep_freed_memory=false"]
IMAGES = PROJECT.parent / "images"
CASES = {
    "digits": (Model, DataModule, []),
    "mlp": (MlpModel, FashionImages, ["--data.batch_size=128", "--trainer.max_epochs=2"]),
    "wide": (Model, DataModule, ["--model.width=64", "--trainer.max_epochs=6"]),
    "slow": (Model, FewImages, ["--trainer.max_epochs=1"]),
    "folder": (
        Model,
        DataModule,
        [
            f"--data.path={IMAGES}",
            "--data.num_workers=2",
            "--data.image_size=32",
            "--model.width=8",
            "--trainer.max_epochs=2",
        ],
    ),
    "gpu": (
        ResNetModel,
        ColourImages,
        [
            f"--config={PROJECT / 'experiments' / 'gpu.yaml'}",
            "--data.batch_size=512",
            "--data.num_workers=4",
            "--trainer.max_epochs=4",
        ],
    ),
}


class Clock(Callback):
    """Note when the first batch is trained on; in the project W&B has been opened just before."""

    start: tuple[float, float] | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.start is None:
            self.start = now()


def now() -> tuple[float, float]:
    """Return wall-clock time and the processor time of all threads, in seconds."""
    return time.perf_counter(), time.process_time()


def took(start: tuple[float, float]) -> dict[str, float]:
    wall, cpu = (end - begin for end, begin in zip(now(), start, strict=True))
    return {"wall": wall, "cpu": cpu}


def project(flags: list[str]) -> Training:
    """Return the project's run, as train.py makes it."""
    model_class, data_class, case_flags = CASES[CASE]
    # The loop written by hand changes no images either.
    sys.argv = ["train.py", "--data.augment=none", *case_flags, *flags]
    return Training(model_class, data_class, PROJECT)


def train(flags: list[str]) -> dict[str, float]:
    """Train as train.py does."""
    run, clock = project(flags), Clock()
    run.trainer.callbacks.append(clock)
    with run.recorded():
        run.trainer.fit(run.model, run.datamodule)
        measured = took(clock.start)
    return {**measured, **losses(run.trainer), **steps(run.trainer, run)}


def train_bare(flags: list[str]) -> dict[str, float]:
    """Train the project's model on its data in Lightning's loop alone, for as many epochs."""
    run, clock = project(flags), Clock()
    trainer = Trainer(
        accelerator="auto",
        max_epochs=run.trainer.max_epochs,
        precision=run.trainer.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(run.model, run.datamodule)
    return {**took(clock.start), **losses(trainer), **steps(trainer, run)}


def losses(trainer: Trainer) -> dict[str, float]:
    """Return the last losses of training and validation."""
    return {name: value.item() for name, value in trainer.callback_metrics.items() if "loss" in name}


def steps(trainer: Trainer, run: Training) -> dict[str, int]:
    """Return how many steps were done, and of how many examples."""
    return {"steps": trainer.global_step, "examples": trainer.global_step * run.datamodule.batch_size}


def train_by_hand(flags: list[str]) -> dict[str, float]:
    """Train with the same data in the hand-written loop."""
    cli = project(flags)
    stop = {"max_epochs": cli.trainer.max_epochs, "patience": cli.config.early_stopping.patience}
    bfloat16 = cli.trainer.precision == "bf16-mixed"
    options = {**cli.model.hparams, **cli.datamodule.hparams, **stop, "bfloat16": bfloat16}
    cli.datamodule.setup("fit")
    options["batch_size"] = cli.datamodule.batch_size
    train, val = batches(cli.datamodule, options)
    network = cli.model.network.to(cli.trainer.strategy.root_device)
    if cli.config.compile:
        network.compile()
    steps = len(cli.datamodule.train_set) // options["batch_size"]
    plain_loop.evaluate(network, val, options)  # starts the workers, as the project's sanity check does
    start = now()
    losses = plain_loop.fit(network, train, val, steps, PROJECT / "by_hand.pt", options)[-1]
    return {**took(start), **losses}


def batches(data: DataModule, options: dict) -> list[plain_loop.Batches]:
    """Return what the hand-written loop trains on and validates on."""
    sets, size = (data.train_set, data.val_set), options["batch_size"]
    if not options["num_workers"]:
        return [plain_loop.InMemory(each.images, each.labels, size, each is data.train_set) for each in sets]
    workers = {"num_workers": options["num_workers"], "persistent_workers": True}
    workers["pin_memory"] = torch.cuda.is_available()
    order = {"sampler": plain_loop.Order(len(data.train_set)), "drop_last": True}
    return [
        DataLoader(each, size, collate_fn=collate, **workers, **(order if each is data.train_set else {}))
        for each in sets
    ]


def flops(flags: list[str]) -> float:
    """Return the floating-point operations of one example, forward and backward."""
    cli = project(flags)
    cli.datamodule.setup("fit")
    shape = cli.datamodule.train_set[0][0].shape
    with FlopCounterMode(display=False) as counter:
        cli.model.network(torch.zeros(2, *shape)).sum().backward()
    return counter.get_total_flops() / 2


def main() -> None:
    if CASE == "folder" and not IMAGES.exists():
        write_images(IMAGES)
    measure = {"project": train, "bare": train_bare, "flops": flops}.get(SIDE, train_by_hand)
    for line in sys.stdin:
        result = measure([*line.split(), *(PYTORCH if SIDE == "defaults" else [])])
        print(f"result {json.dumps(result)}", flush=True)


main()

"""What a run shows beside what its model logs: speed, gradients and, after the test, where the model errs.

The same lies as pictures in the run's folder: learning_curves.png, confusion_matrix.png, examples.png.
"""

import csv
import time
from collections import defaultdict
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
import wandb
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.data import extract_batch_size
from matplotlib.figure import Figure
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils import get_total_norm
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.distributed import gather_all_tensors


class Dashboard(Callback):
    """Log speed and gradient norm; after the test show confusions and the most confident mistakes.

    For the second, `test_step` returns `probabilities` (B, num_classes) and `target` (B,), and the data
    module has `classes` and `test_example`.
    """

    def on_train_epoch_start(self, *_) -> None:
        self.start, self.samples = time.perf_counter(), 0
        self.grad_norm: Tensor | None = None

    on_train_start = on_train_epoch_start  # a resumed epoch does not start again

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            self.grad_norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, _) -> None:
        if (norm := self.grad_norm) is not None:
            _log(trainer, {"train/loss_step": outputs["loss"].item(), "train/grad_norm": norm.item()})
            self.grad_norm = None
        self.samples += extract_batch_size(batch) * trainer.world_size
        self.end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        speed = {"time/samples_per_second": self.samples / (self.end - self.start)}
        _log(trainer, speed | {"time/epoch_seconds": time.perf_counter() - self.start})

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        draw_learning_curves(Path(trainer.default_root_dir))

    def on_test_start(self, *_) -> None:
        self.outputs: list = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        if outputs:
            self.outputs.append((outputs["probabilities"], outputs["target"]))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        columns = [torch.cat(parts) for parts in zip(*self.outputs, strict=True)]
        if trainer.world_size > 1:
            count = len(trainer.test_dataloaders.dataset)  # Lightning's own sampler repeats the first ones
            columns = [_dealt_out(gather_all_tensors(column))[:count] for column in columns]
        if columns and trainer.is_global_zero and hasattr(trainer.datamodule, "test_example"):
            show_test(trainer, *(column.cpu() for column in columns))


def _log(trainer: Trainer, values: dict) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step - 1)  # as Lightning counts


def _dealt_out(parts: list[Tensor]) -> Tensor:
    """Return in their order the examples that were dealt out to the processes in turn."""
    whole = torch.cat(parts)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def show_test(trainer: Trainer, probabilities: Tensor, target: Tensor) -> None:
    """Show the confusion matrix (rows are the targets), each class, and 50 examples, mistakes first."""
    data, classes, run = trainer.datamodule, trainer.datamodule.classes, Path(trainer.default_root_dir)
    confidence, prediction = probabilities.float().max(dim=1)
    worst = torch.where(prediction != target, confidence, -confidence).argsort(descending=True)[:50]
    names = [[classes[i] for i in column[worst]] for column in (target, prediction)]
    inputs = [data.test_example(i) for i in worst.tolist()]
    examples = list(zip(inputs, *names, confidence[worst].tolist(), strict=True))
    matrix = multiclass_confusion_matrix(prediction, target, len(classes))
    draw_examples(run, examples)
    draw_confusion_matrix(run, matrix.numpy(), classes)
    if isinstance(trainer.logger, WandbLogger):
        shares = matrix.diag() / torch.stack([matrix.sum(dim=0), matrix.sum(dim=1)]).clamp(min=1)
        scores = zip(classes, *shares.tolist(), matrix.sum(dim=1).tolist(), strict=True)
        rows = [[_medium(example), *others] for example, *others in examples]
        charts = {
            "test/confusion_matrix": wandb.plot.confusion_matrix(
                None, target.tolist(), prediction.tolist(), classes
            ),
            "test/classes": wandb.Table(["class", "precision", "recall", "examples"], list(scores)),
            "test/examples": wandb.Table(["example", "target", "prediction", "confidence"], rows),
        }
        trainer.logger.log_metrics(charts, trainer.global_step)


def _medium(example):
    if isinstance(example, Image):
        return wandb.Image(example)
    return wandb.Audio(example[0], example[1]) if isinstance(example, tuple) else str(example)


def draw_learning_curves(run: Path) -> None:
    """Draw what `metrics.csv` has of training and validation, a chart for each metric of both."""
    curves: dict = defaultdict(lambda: defaultdict(list))
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        for step, name, value in csv.reader(file):
            stage, _, metric = name.partition("/")
            curves[metric][stage].append((step, value))
    charts = {metric: stages for metric, stages in curves.items() if {"train", "val"} <= stages.keys()}
    if charts:
        figure = Figure(figsize=(5 * len(charts), 4), layout="constrained")
        for number, (metric, stages) in enumerate(charts.items(), start=1):
            axes = figure.add_subplot(1, len(charts), number)
            for stage in ("train", "val"):
                axes.plot(*np.array(stages[stage], float).T, label=stage)
            axes.set(xlabel="step", title=metric)
            axes.legend()
        figure.savefig(run / "learning_curves.png")


def draw_confusion_matrix(run: Path, matrix: np.ndarray, classes: list[str]) -> None:
    """Draw how often each target (row) was predicted as each class (column)."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes, ticks = figure.add_subplot(xlabel="prediction", ylabel="target"), range(len(classes))
    figure.colorbar(axes.imshow(matrix, cmap="Blues"))
    if len(classes) <= 30:  # more could not be read
        axes.set_xticks(ticks, classes, rotation=45, ha="right")
        axes.set_yticks(ticks, classes)
        for row, column in zip(*matrix.nonzero(), strict=True):
            axes.text(column, row, matrix[row, column], ha="center", va="center", color="tab:orange")
    figure.savefig(run / "confusion_matrix.png")


def draw_examples(run: Path, examples: list[tuple]) -> None:
    """Draw the first of the examples, each with its prediction and its target."""
    figure = Figure(figsize=(8, 9), layout="constrained")
    figure.suptitle("prediction (target)")
    for number, (example, target, prediction, _) in enumerate(examples[:16], start=1):
        axes = figure.add_subplot(4, 4, number)
        axes.set_title(f"{prediction} ({target})", color="black" if prediction == target else "red")
        axes.set_axis_off()
        if isinstance(example, Image):
            axes.imshow(np.asarray(example), cmap="gray")
        elif isinstance(example, tuple):  # samples and their rate
            axes.plot(example[0], linewidth=0.5)
        else:
            axes.text(0.5, 0.5, fill(str(example)[:160], 24), ha="center", va="center", fontsize=7)
    figure.savefig(run / "examples.png")

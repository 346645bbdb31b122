"""What a run shows beside what its model logs: speed, gradients and, after the test, where the model errs.

The same lies as pictures in the run's folder: learning_curves.png and, of classes, confusion_matrix.png
and examples.png, of numbers predictions.png.
"""

import csv
import time
from collections import defaultdict
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
import torch
import wandb
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.data import extract_batch_size
from matplotlib.figure import Figure
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils import get_total_norm
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.distributed import gather_all_tensors

matplotlib.rcParams["text.parse_math"] = False  # "$" begins no formula in texts and names of classes


class Dashboard(Callback):
    """Log loss, learning rate, gradient norm and speed; after the test show where it errs.

    For the second, `test_step` returns `scores` (B, num_classes), or predicted numbers (B, 1), and `target`
    (B,), and the data module has `test_example` and `classes`, which are none for numbers.
    With `lines`, print a line for each epoch as well.
    """

    def __init__(self, lines: bool):
        self.lines = lines

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)
        self.on_train_start()

    def on_train_start(self, *_) -> None:
        self.start, self.samples = time.perf_counter(), 0
        self.step: dict = {}  # what is logged of it

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer) -> None:
        if (every := trainer.log_every_n_steps) and (trainer.global_step + 1) % every == 0:
            norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
            rates = {f"train/lr{i or ''}": group["lr"] for i, group in enumerate(optimizer.param_groups)}
            self.step = {"train/grad_norm": norm, **rates}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, _) -> None:
        if self.step and "loss" in outputs:
            step = {"train/loss_step": outputs["loss"], **self.step}
            _log(trainer, {name: float(value) for name, value in step.items()})
            self.step = {}
        self.samples += extract_batch_size(batch)
        self.end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        speed = {"time/samples_per_second": self.samples * trainer.world_size / (self.end - self.start)}
        _log(trainer, speed | {"time/epoch_seconds": time.perf_counter() - self.start})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        metrics = trainer.callback_metrics
        if self.lines and metrics:  # of the epoch before: its training metrics were not known any earlier
            values = [f"{name} {value:.4f}" for name, value in sorted(metrics.items())]
            rank_zero_info("  ".join([f"epoch {trainer.current_epoch - 1}", *values]))

    def on_test_start(self, *_) -> None:
        self.outputs: dict[str, list] = defaultdict(list)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        for name, values in (outputs or {}).items():
            self.outputs[name].append(values)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        outputs = {name: torch.cat(parts) for name, parts in self.outputs.items()}
        if trainer.world_size > 1:
            count = len(trainer.test_dataloaders.dataset)  # Lightning's own sampler repeats the first ones
            outputs = {name: _dealt_out(gather_all_tensors(all))[:count] for name, all in outputs.items()}
        if outputs and trainer.is_global_zero and hasattr(trainer.datamodule, "test_example"):
            show = show_classes if trainer.datamodule.classes else show_numbers
            charts = show(trainer, **{name: values.float().cpu() for name, values in outputs.items()})
            if isinstance(trainer.logger, WandbLogger):
                trainer.logger.log_metrics(charts, trainer.global_step)


def _log(trainer: Trainer, values: dict) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step - 1)  # as Lightning counts


def _dealt_out(parts: list[Tensor]) -> Tensor:
    """Return in their order the examples that were dealt out to the processes in turn."""
    whole = torch.cat(parts)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def show_classes(trainer: Trainer, scores: Tensor, target: Tensor) -> dict:
    """Show the confusion matrix (rows are the targets), each class, and 50 examples, sure mistakes first."""
    classes, run, target = trainer.datamodule.classes, Path(trainer.default_root_dir), target.long()
    confidence, prediction = scores.softmax(dim=1).max(dim=1)
    worst = torch.where(prediction != target, confidence, -confidence).argsort(descending=True)[:50]
    names = [[classes[i] for i in column[worst]] for column in (target, prediction)]
    examples = list(zip(_inputs(trainer, worst), *names, confidence[worst].tolist(), strict=True))
    matrix = multiclass_confusion_matrix(prediction, target, len(classes))
    draw_examples(run, examples)
    draw_confusion_matrix(run, matrix.numpy(), classes)
    shares = matrix.diag() / torch.stack([matrix.sum(dim=0), matrix.sum(dim=1)]).clamp(min=1)
    rows = zip(classes, *shares.tolist(), matrix.sum(dim=1).tolist(), strict=True)
    confusion = wandb.plot.confusion_matrix(None, target.tolist(), prediction.tolist(), classes)
    return {
        "test/confusion_matrix": confusion,
        "test/classes": wandb.Table(["class", "precision", "recall", "examples"], list(rows)),
        "test/examples": _table(examples, ["target", "prediction", "confidence"]),
    }


def show_numbers(trainer: Trainer, scores: Tensor, target: Tensor) -> dict:
    """Show predictions over targets, and 50 examples, the largest errors first."""
    prediction = scores[:, 0]
    error = prediction - target
    worst = error.abs().argsort(descending=True)[:50]
    numbers = torch.stack([target, prediction, error], dim=1)[worst].tolist()
    examples = [(example, *row) for example, row in zip(_inputs(trainer, worst), numbers, strict=True)]
    draw_predictions(Path(trainer.default_root_dir), prediction.numpy(), target.numpy())
    pairs = wandb.Table(["target", "prediction"], torch.stack([target, prediction], dim=1).tolist())
    return {
        "test/predictions": wandb.plot.scatter(pairs, "target", "prediction"),
        "test/examples": _table(examples, ["target", "prediction", "error"]),
    }


def _inputs(trainer: Trainer, indices: Tensor) -> list:
    return [trainer.datamodule.test_example(i) for i in indices.tolist()]


def _table(examples: list[tuple], columns: list[str]) -> wandb.Table:
    if isinstance(examples[0][0], dict):  # the cells of a row
        rows = [[*others, *example.values()] for example, *others in examples]
        return wandb.Table([*columns, *examples[0][0]], rows)
    return wandb.Table(["example", *columns], [[_medium(example), *others] for example, *others in examples])


def _medium(example):
    if isinstance(example, Image):
        return wandb.Image(example)
    return wandb.Audio(example[0], example[1]) if isinstance(example, tuple) else example


def draw_learning_curves(run: Path) -> None:
    """Draw what `metrics.csv` has of training and validation, a chart for each metric of both."""
    curves: dict = defaultdict(lambda: defaultdict(list))
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        for step, name, value in csv.reader(file):
            stage, _, metric = name.partition("/")
            curves[metric][stage].append((step, value))
    charts = {metric: stages for metric, stages in curves.items() if {"train", "val"} <= stages.keys()}
    if charts:
        figure = Figure(figsize=(5 * len(charts), 4))
        for number, (metric, stages) in enumerate(charts.items(), start=1):
            axes = figure.add_subplot(1, len(charts), number)
            for stage in ("train", "val"):
                axes.plot(*np.array(stages[stage], float).T, ".-", label=stage)
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
            color = "white" if matrix[row, column] > matrix.max() / 2 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=color)
    figure.savefig(run / "confusion_matrix.png")


def draw_predictions(run: Path, prediction: np.ndarray, target: np.ndarray) -> None:
    """Draw a point for each example; those predicted right lie on the line."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="target", ylabel="prediction", aspect="equal")
    axes.axline((target.mean(), target.mean()), slope=1, color="black", linewidth=0.8)
    axes.plot(target, prediction, "o", alpha=0.5)
    figure.savefig(run / "predictions.png")


def draw_examples(run: Path, examples: list[tuple]) -> None:
    """Draw the first of the examples, each with its prediction and its target."""
    figure = Figure(figsize=(10, 10), layout="constrained")
    figure.suptitle("prediction (target)")
    for number, (example, target, prediction, _) in enumerate(examples[:16], start=1):
        axes = figure.add_subplot(4, 4, number)
        axes.set_title(f"{prediction} ({target})", color="black" if prediction == target else "tab:red")
        axes.set_axis_off()
        if isinstance(example, Image):
            axes.imshow(np.asarray(example), cmap="gray")
        elif isinstance(example, tuple):  # samples and their rate: a spectrogram
            axes.specgram(example[0], NFFT=256, noverlap=128, Fs=example[1])
        elif isinstance(example, dict):
            cells = [f"{name[:20]}: {str(value)[:12]}" for name, value in example.items()]
            axes.text(0, 0.5, "\n".join(cells[:9]), va="center", fontsize=7)
        else:
            axes.text(0.5, 0.5, fill(str(example)[:180], 20), ha="center", va="center")
    figure.savefig(run / "examples.png")

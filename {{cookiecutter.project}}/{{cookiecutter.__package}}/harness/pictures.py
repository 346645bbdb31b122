"""Pictures after the test: where the model errs."""

from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import torch
import wandb
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler
from torchmetrics.functional.classification import multiclass_confusion_matrix

from .private import logged_steps
from .quiet import Quiet
from .tracking import LOST

MOST_CLASSES = 100  # in the confusion matrix of W&B: 1,000 take 40 s
MOST_NAMES = 30  # of classes in our own: more could not be read
EXAMPLES = 50
CELLS = 6  # of a row, in a picture: the first ones

no_formulas = matplotlib.rc_context({"text.parse_math": False})  # a "$" in a text begins none


class TestPictures(Quiet):
    """After the test, draw where the model errs, and show it in W&B.

    There are pictures if there is one test loader, `test_step` returns `scores` (B, num_classes), or
    predicted numbers (B, 1), and `target` (B,), and the data module has `test_example` and `classes`, which
    are none for numbers. `target_name` names what is predicted.

    Attributes:
        drawn: The pictures that there are.
    """

    __test__ = False  # pytest takes it for one of its own by its name

    def __init__(self) -> None:
        self.drawn: list[Path] = []
        self.wanted = False
        self.scores: list[Tensor] = []
        self.target: list[Tensor] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule
        one_loader = len(trainer.num_test_batches) == 1
        self.wanted = one_loader and hasattr(data, "classes") and hasattr(data, "test_example")
        self.scores = []
        self.target = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.wanted and can_be_shown(outputs, len(trainer.datamodule.classes)):
            self.scores.append(outputs["scores"].detach().float().cpu())
            self.target.append(outputs["target"].detach().cpu())
        else:
            self.wanted = False

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        results = gather(trainer, self.results())
        self.scores = []
        self.target = []
        if results is None or not trainer.is_global_zero:
            return
        scores, target, index = results
        classes = list(trainer.datamodule.classes)
        if not classes:
            self.show_numbers(trainer, scores[:, 0], target.float(), index)
        elif target.min() >= 0 and target.max() < len(classes):  # no label stands for none, such as -100
            self.show_classes(trainer, scores, target.long(), index, classes)

    def results(self) -> tuple[Tensor, Tensor] | None:
        """Return scores and target of the examples of this process, None if they cannot be shown."""
        if not self.wanted:
            return None
        if not self.scores:
            return torch.empty(0), torch.empty(0)
        return torch.cat(self.scores), torch.cat(self.target)

    def show_classes(
        self, trainer: Trainer, scores: Tensor, target: Tensor, index: Tensor | None, classes: list[str]
    ) -> None:
        """Show the confusion matrix, each class, and examples: first the wrong ones, the surest first."""
        run = Path(trainer.default_root_dir)
        confidence, prediction = scores.softmax(dim=1).max(dim=1)
        matrix = multiclass_confusion_matrix(prediction, target, len(classes))
        self.drawn.append(draw_confusion_matrix(run, matrix.numpy(), classes))
        badness = torch.where(prediction != target, confidence, -confidence)
        names = [
            [classes[label] for label in target.tolist()],
            [classes[label] for label in prediction.tolist()],
        ]
        examples = worst_examples(trainer, index, badness, [*names, confidence.tolist()])
        if examples:
            self.drawn.append(draw_examples(run, examples))
        with suppress(*LOST):
            for logger in wandb_loggers(trainer):
                media: dict[str, Any] = {"test/classes": class_table(matrix, classes)}
                if len(classes) <= MOST_CLASSES:
                    media["test/confusion_matrix"] = wandb.plot.confusion_matrix(
                        y_true=target.tolist(), preds=prediction.tolist(), class_names=classes
                    )
                if examples:
                    columns = ["target", "prediction", "confidence"]
                    media["test/examples"] = example_table(examples, columns)
                logger.log_metrics(media, logged_steps(trainer))

    def show_numbers(
        self, trainer: Trainer, prediction: Tensor, target: Tensor, index: Tensor | None
    ) -> None:
        """Show predictions over targets, and examples, those with the largest errors first."""
        run = Path(trainer.default_root_dir)
        name = getattr(trainer.datamodule, "target_name", "target")
        self.drawn.append(draw_predictions(run, prediction.numpy(), target.numpy(), name))
        error = prediction - target
        numbers = [target.tolist(), prediction.tolist(), error.tolist()]
        examples = worst_examples(trainer, index, error.abs(), numbers)
        with suppress(*LOST):
            for logger in wandb_loggers(trainer):
                pairs = torch.stack([target, prediction], dim=1).tolist()
                table = wandb.Table(["target", "prediction"], pairs)
                scatter = wandb.plot.scatter(table, "target", "prediction")
                media: dict[str, Any] = {"test/predictions": scatter}
                if examples:
                    media["test/examples"] = example_table(examples, ["target", "prediction", "error"])
                logger.log_metrics(media, logged_steps(trainer))


def can_be_shown(outputs: Any, num_classes: int) -> bool:
    """Return whether `test_step` returned scores (B, num_classes), or numbers (B, 1), and targets (B,)."""
    if not isinstance(outputs, dict):
        return False
    scores = outputs.get("scores")
    target = outputs.get("target")
    if not isinstance(scores, Tensor) or not isinstance(target, Tensor) or target.ndim != 1:
        return False
    return scores.shape == (len(target), num_classes or 1)


def gather(
    trainer: Trainer, results: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Return scores and target of the examples of all processes, and which examples they are.

    The last is None where the loader has an order of its own. All is None if one of the processes has nothing
    to show, or if it is not known what it has.
    """
    parts: list[Any] = [results]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, results)
    order = order_of_test(trainer)
    if None in parts or (order == "unknown" and len(parts) > 1):
        return None
    if order == "all":
        parts = parts[:1]  # each process has tested all examples
    indices = []
    for rank, (_, target) in enumerate(parts):
        indices.append(torch.arange(len(target)) * len(parts) + rank)  # they are dealt out in turn
    index = torch.cat(indices)
    if not len(index):
        return None
    scores = torch.cat([scores for scores, target in parts if len(target)])
    target = torch.cat([target for _, target in parts if len(target)])
    if order == "unknown":
        return scores, target, None
    if order == "dealt":
        # Lightning's sampler repeats the first ones, so that each process has as many.
        known = index < len(trainer.test_dataloaders.dataset)
        scores, target, index = scores[known], target[known], index[known]
    return scores, target, index


def order_of_test(trainer: Trainer) -> str:
    """Return whether each process tests "all" examples in order, each "dealt" to one, or "unknown" ones."""
    loader = trainer.test_dataloaders
    if not isinstance(loader, DataLoader):
        return "unknown"
    order = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    order = getattr(order, "indices", order)  # below the seeds of loaders.py
    if isinstance(order, list):
        return "dealt"
    if type(order) is BatchSampler:
        order = order.sampler
    if type(order) is SequentialSampler:
        return "all"
    if type(order) is DistributedSampler and not order.shuffle:
        return "dealt"
    return "unknown"


def worst_examples(
    trainer: Trainer, index: Tensor | None, badness: Tensor, columns: list[list]
) -> list[list]:
    """Return a row for each of the worst examples: what `test_example` gives, then its values."""
    rows: list[list] = []
    if index is None:
        return rows
    for i in badness.argsort(descending=True)[:EXAMPLES].tolist():
        row = [trainer.datamodule.test_example(int(index[i]))]
        for column in columns:
            row.append(column[i])
        rows.append(row)
    return rows


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return those of the loggers that can show tables and charts."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def class_table(matrix: Tensor, classes: list[str]) -> wandb.Table:
    """Return precision, recall and number of examples of each class."""
    right = matrix.diag()
    precision = right / matrix.sum(dim=0).clamp(min=1)
    recall = right / matrix.sum(dim=1).clamp(min=1)
    table = wandb.Table(["class", "precision", "recall", "examples"])
    for number, name in enumerate(classes):
        table.add_data(name, float(precision[number]), float(recall[number]), int(matrix[number].sum()))
    return table


def example_table(examples: list[list], columns: list[str]) -> wandb.Table:
    """Return a table of examples; of the cells of a row, each has its column."""
    cells = examples[0][0]
    if not isinstance(cells, dict):
        table = wandb.Table(["example", *columns])
        for example, *values in examples:
            table.add_data(medium(example), *values)
        return table
    table = wandb.Table([*columns, *cells], allow_mixed_types=True)  # an empty cell is None
    for example, *values in examples:
        table.add_data(*values, *example.values())
    return table


def medium(example: Any) -> Any:
    """Return an example in the form in which W&B shows it."""
    if isinstance(example, Image):
        return wandb.Image(example)
    if isinstance(example, tuple):
        samples, rate = example
        return wandb.Audio(samples, rate)
    return str(example)


@no_formulas
def draw_confusion_matrix(run: Path, matrix: np.ndarray, classes: list[str]) -> Path:
    """Draw how often each target (row) was predicted as each class (column)."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="prediction", ylabel="target")
    figure.colorbar(axes.imshow(matrix, cmap="Blues"))
    if len(classes) <= MOST_NAMES:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        for (row, column), count in np.ndenumerate(matrix):
            color = "white" if count > matrix.max() / 2 else "black"
            if count:
                axes.text(column, row, str(count), ha="center", va="center", color=color)
    picture = run / "confusion_matrix.png"
    figure.savefig(picture)
    return picture


def short(value: Any) -> str:
    """Return the cell of a row in few letters."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)[:12]


@no_formulas
def draw_predictions(run: Path, prediction: np.ndarray, target: np.ndarray, name: str) -> Path:
    """Draw a point for each example; those predicted right lie on the line. `name` is that of the target."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel=name, ylabel=f"prediction of {name}", aspect="equal")
    axes.axline((target.mean(), target.mean()), slope=1, color="black", linewidth=0.8)
    axes.plot(target, prediction, "o", alpha=0.5)
    picture = run / "predictions.png"
    figure.savefig(picture)
    return picture


@no_formulas
def draw_examples(run: Path, examples: list[list]) -> Path:
    """Draw the first of the examples, each with its prediction and its target."""
    figure = Figure(figsize=(10, 10), layout="constrained")
    figure.suptitle("prediction (target)")
    for number, (example, target, prediction, _) in enumerate(examples[:16], start=1):
        axes = figure.add_subplot(4, 4, number)
        color = "black" if prediction == target else "tab:red"
        axes.set_title(f"{prediction} ({target})", color=color)
        axes.set_axis_off()
        draw_example(axes, example)
    picture = run / "examples.png"
    figure.savefig(picture)
    return picture


def draw_example(axes: Axes, example: Any) -> None:
    """Draw an image, the spectrogram of samples and their rate, the cells of a row, or a text."""
    if isinstance(example, Image):
        axes.imshow(np.asarray(example), cmap="gray")
    elif isinstance(example, tuple):
        samples, rate = example
        axes.specgram(samples, NFFT=256, noverlap=128, Fs=rate / 1000)
        axes.set_axis_on()
        axes.set_xlabel("milliseconds", fontsize=7)
        axes.set_ylabel("kHz", fontsize=7)
        axes.tick_params(labelsize=7)
    elif isinstance(example, dict):
        cells = [f"{name[:16]}: {short(value)}" for name, value in list(example.items())[:CELLS]]
        axes.text(0, 0.5, "\n".join(cells), va="center", fontsize=10)
    else:
        axes.text(0.5, 0.5, fill(str(example)[:180], 20), ha="center", va="center")

"""Write what `predict_step` returns batch by batch, so that memory does not grow with the inputs."""

import csv
import shutil
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from .errors import UserError, first_few
from .folder import shortened, whole_file
from .inference import are_probabilities


class PredictionWriter(BasePredictionWriter):
    """Gather a table with a row for each example, or if there is more than one value for it, all batches.

    The rows wait in a file without a name, which vanishes if the prediction fails.

    Args:
        path: The table to make.
        names: A name for each example, in the order of the data; empty if they have none.
        classes: What the columns of scores (B, num_classes) stand for; empty if there are none.
        all_probabilities: Whether the table has the probability of each class, not only that of the best.
    """

    def __init__(self, path: Path, names: list[str], classes: list[str], all_probabilities: bool):
        super().__init__(write_interval="batch")
        self.path = path
        self.names = names
        self.classes = classes
        self.all_probabilities = all_probabilities
        self.file = TemporaryFile(dir=path.parent)  # noqa: SIM115, open until the prediction ends
        self.rows = TextIOWrapper(self.file, encoding="utf-8", newline="")
        self.header: list[str] = []
        self.count = 0
        self.unreadable: list[str] = []
        self.batches: list = []
        self.saw_batch = False

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.saw_batch = True
        if prediction is None:
            return
        columns = one_value_each(prediction, self.classes, self.all_probabilities)
        if columns is None and self.all_probabilities:
            raise UserError("--probabilities needs a predict_step that returns those of each class")
        if self.batches or (columns is None and not self.header):
            self.batches.append(prediction)
            return
        if columns is None or (self.header and list(columns) != self.header):
            raise UserError(
                f"predict_step returned {', '.join(self.header)} for each example of the first batch, "
                f"but not of batch {batch_idx}"
            )
        loader = trainer.predict_dataloaders
        readable = getattr(getattr(loader, "dataset", None), "readable", None)
        self.write_rows(columns, readable)

    def write_rows(self, columns: dict[str, list], readable: Tensor | None) -> None:
        """Write a row for each example of a batch, unless its file could not be read."""
        table = csv.writer(self.rows)
        try:
            if not self.header:
                self.header = list(columns)
                table.writerow(["file" if self.names else "example", *columns])
            for values in zip(*columns.values(), strict=True):
                name: object = self.count
                if self.count < len(self.names):
                    name = self.names[self.count]
                if readable is None or readable[self.count]:
                    table.writerow([name, *values])
                else:
                    self.unreadable.append(str(name))
                self.count += 1
        except OSError as error:
            raise UserError(f"cannot write to {self.path.parent}: {error}") from error

    def finish(self) -> None:
        """Put the table, or the batches, in their place, and say what was written.

        Raises:
            UserError: If there is nothing to write, or another number of predictions than of inputs.
        """
        if not self.saw_batch:
            raise UserError("there is nothing to predict: predict_dataloader gives no batch")
        if self.batches:
            self.save_batches()
            return
        if not self.header:
            print("predict_step returns nothing, so nothing is written here")
            return
        if self.names and self.count != len(self.names):
            raise UserError(f"predict_step returned {self.count} predictions for {len(self.names)} inputs")
        written = self.count - len(self.unreadable)
        if written == 0:
            raise UserError(f"none of the {self.count} files could be read: {first_few(self.unreadable)}")
        self.rows.flush()
        self.file.seek(0)
        with whole_file(self.path) as file:
            shutil.copyfileobj(self.file, file)
        print(f"{written} predictions written to {shortened(str(self.path))}")
        if self.unreadable:
            print(
                f"{len(self.unreadable)} could not be read and have no row: {first_few(self.unreadable, 10)}"
            )

    def save_batches(self) -> None:
        """Write what `predict_step` returned where it makes no table."""
        path = self.path.with_suffix(".pt")
        with whole_file(path) as file:
            torch.save(self.batches, file)
        print(f"predict_step does not return one value for each example, so {shortened(str(path))} holds all")
        print(f"that it returned, a list of {len(self.batches)} batches; read it with torch.load")


def one_value_each(batch: Any, classes: list[str], all_probabilities: bool) -> dict[str, list] | None:
    """Return columns with a value for each example of a batch, None if the batch does not make any.

    Scores of classes, (B, num_classes), become the best class and its score; a dict becomes columns.
    """
    is_tensor = isinstance(batch, Tensor) and batch.ndim == 2
    if classes and is_tensor and batch.shape[1] == len(classes):
        return columns_of_scores(batch.float(), classes, all_probabilities)
    if all_probabilities:
        return None
    named = batch
    if not isinstance(batch, dict):
        named = {"prediction": batch}
    columns = {}
    for name, value in named.items():
        values = values_in(value)
        if values is None:
            return None
        columns[name] = values
    lengths = set(map(len, columns.values()))
    if len(lengths) != 1:
        return None
    return columns


def columns_of_scores(scores: Tensor, classes: list[str], all_probabilities: bool) -> dict[str, list] | None:
    """Return the best class of each row of (B, num_classes), and its score, by its right name."""
    best, index = scores.max(dim=1)
    name = "probability" if are_probabilities(scores) else "score"
    if all_probabilities and name == "score":
        return None
    columns = {"prediction": [classes[i] for i in index], name: best.tolist()}
    if all_probabilities:
        for place, label in enumerate(classes):
            columns[f"probability.{label}"] = scores[:, place].tolist()
    return columns


def values_in(value: Any) -> list | None:
    """Return the values of a batch, one for each example, None if they are something else."""
    if isinstance(value, Tensor):
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.ndim == 1:
            return value.tolist()
    if isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value):
        return list(value)
    return None

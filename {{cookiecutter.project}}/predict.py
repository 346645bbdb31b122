"""Predict new inputs: `python predict.py runs/<id> {{ cookiecutter.__inputs }}`, with any setting."""

import csv
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness.errors import (
    UserError,
    one_line_errors,
)
from {{ cookiecutter.__package }}.harness.folder import (
    shortened,
    whole_file,
)
from {{ cookiecutter.__package }}.harness.inference import (
    TrainedRun,
    are_probabilities,
)
from {{ cookiecutter.__package }}.model import Model


def add_arguments(parser) -> None:
    """Add what only this script takes."""
    help = "Write to this file instead of predictions.csv in the run's folder."
    parser.add_argument("--output", type=str | None, default=None, metavar="FILE", help=help)


@one_line_errors()
def main() -> None:
    """Write a row for each example, or if it has more than one value all that `predict_step` returns."""
    run = TrainedRun(Model, DataModule, Path(__file__).parent, add_arguments)
    output = run.output("predictions.csv")
    if run.trainer.world_size > 1:
        raise UserError(f"predict.py runs on one device: --trainer.devices 1 (got {run.trainer.world_size})")
    names = take_inputs(run)
    batches = run.loop(run.trainer.predict, run.datamodule)
    if not batches:
        raise UserError("there is nothing to predict: predict_dataloader gives no batch")
    if all(batch is None for batch in batches):
        print("predict_step returns nothing, so nothing is written here")
        return

    columns = one_value_each(batches, run.classes)
    if columns is None:
        save_batches(output.with_suffix(".pt"), batches)
        return
    count = len(next(iter(columns.values())))
    if names and count != len(names):
        raise UserError(f"predict_step returned {count} predictions for {len(names)} inputs")
    first: dict[str, list] = {"example": list(range(count))}
    if names:
        first = {"file": names}
    write_table(output, first | columns)
    print(f"{count} predictions written to {shortened(str(output))}")


def take_inputs(run: TrainedRun) -> list[str]:
    """Give the data module the files to predict for, and return the name of each example.

    Without files it has examples of its own, which have no names.

    Raises:
        UserError: If it cannot take files, has no examples of its own, or finds none.
    """
    source = run.owner("predict_dataloader")
    if not run.has("predict_dataloader"):
        raise UserError(f"predict.py needs {type(source).__name__}.predict_dataloader, a hook of Lightning")
    if not run.inputs:
        return []
    if not hasattr(source, "predict_inputs"):
        raise UserError(
            f"{type(source).__name__} has no predict_inputs(paths), which takes files; leave them out to "
            "predict what its predict_dataloader loads"
        )
    names = source.predict_inputs([Path(name) for name in run.inputs])
    if not names:
        raise UserError(f"there is nothing to predict in {' '.join(run.inputs)}")
    return names


def one_value_each(batches: list, classes: list[str]) -> dict[str, list] | None:
    """Return the columns of a table with a row for each example, None if the batches do not make one.

    Scores of classes, (B, num_classes), become the best class and its score; a dict becomes columns.
    """
    if classes and all(are_scores(batch, len(classes)) for batch in batches):
        return best_class(torch.cat(batches).float(), classes)
    columns: dict[str, list] = {}
    for batch in batches:
        named = batch
        if not isinstance(batch, dict):
            named = {"prediction": batch}
        for name, value in named.items():
            values = values_in(value)
            if values is None:
                return None
            columns.setdefault(name, []).extend(values)
    lengths = set(map(len, columns.values()))
    if len(lengths) != 1:
        return None
    return columns


def are_scores(batch: object, num_classes: int) -> bool:
    """Return whether a batch is a tensor (B, num_classes)."""
    return isinstance(batch, Tensor) and batch.ndim == 2 and batch.shape[1] == num_classes


def best_class(scores: Tensor, classes: list[str]) -> dict[str, list]:
    """Return the best class of each row of (N, num_classes), and its score, by its right name."""
    best, index = scores.max(dim=1)
    name = "probability" if are_probabilities(scores) else "score"
    return {"prediction": [classes[i] for i in index], name: best.tolist()}


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


def save_batches(path: Path, batches: list) -> None:
    """Write what `predict_step` returned where it makes no table."""
    with whole_file(path) as file:
        torch.save(batches, file)
    print(f"predict_step does not return one value for each example, so {shortened(str(path))} holds all")
    print(f"that it returned, a list of {len(batches)} batches; read it with torch.load")


def write_table(path: Path, columns: dict[str, list]) -> None:
    """Write columns as CSV, whole or not at all."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


if __name__ == "__main__":
    main()

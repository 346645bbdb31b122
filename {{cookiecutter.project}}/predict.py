"""Predict new inputs: `python predict.py runs/<id>{{ cookiecutter.__inputs }}`, with any setting."""

from functools import partial
from pathlib import Path

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness.errors import (
    UserError,
    one_line_errors,
)
from {{ cookiecutter.__package }}.harness.inference import TrainedRun
from {{ cookiecutter.__package }}.harness.predictions import (
    PredictionWriter,
)
from {{ cookiecutter.__package }}.model import Model


def add_arguments(parser) -> None:
    """Add what only this script takes."""
    help = "Write to this file instead of predictions.csv in the run's folder."
    parser.add_argument("--output", type=str | None, default=None, metavar="FILE", help=help)
    help = "Write the probability of each class."
    parser.add_argument("--probabilities", action="store_true", help=help)


@one_line_errors()
def main() -> None:
    """Write a row for each example, or if it has more than one value all that `predict_step` returns."""
    run = TrainedRun(Model, DataModule, Path(__file__).parent, add_arguments)
    output = run.output("predictions.csv")
    if run.trainer.world_size > 1:
        raise UserError(f"predict.py runs on one device: --trainer.devices 1 (got {run.trainer.world_size})")
    names = take_inputs(run)
    writer = PredictionWriter(output, names, run.classes, run.config.probabilities)
    run.trainer.callbacks.append(writer)
    run.loop(partial(run.trainer.predict, return_predictions=False), run.datamodule)
    writer.finish()


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


if __name__ == "__main__":
    main()

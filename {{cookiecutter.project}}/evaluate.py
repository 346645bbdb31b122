"""Test a trained model: `python evaluate.py runs/<id>`, with any setting, such as --data.path new/."""

from pathlib import Path

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness.errors import (
    UserError,
    one_line_errors,
)
from {{ cookiecutter.__package }}.harness.inference import TrainedRun
from {{ cookiecutter.__package }}.model import Model


@one_line_errors()
def main() -> None:
    """Run the test, or where there is none the validation; Lightning prints the metrics."""
    run = TrainedRun(Model, DataModule, Path(__file__).parent)
    if run.inputs:
        raise UserError(f"evaluate.py takes one run (got {' '.join(run.inputs)} as well); see --data.path")
    missing = [hook for hook in ("test_step", "test_dataloader") if not run.has(hook)]
    if not missing:
        metrics = run.loop(run.trainer.test, run.datamodule)
    elif run.has("validation_step") and run.has("val_dataloader"):
        print(f"your code has no {' and no '.join(missing)}, so this is the validation, not a test")
        metrics = run.loop(run.trainer.validate, run.datamodule)
    else:
        raise UserError(f"there is nothing to test: your code has no {' and no '.join(missing)}")
    if not any(metrics):
        print("all batches went through, but the model logs no metric")


if __name__ == "__main__":
    main()

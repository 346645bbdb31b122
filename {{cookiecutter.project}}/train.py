"""Train the model, then test its best checkpoint. `python train.py --help` shows the settings."""

from pathlib import Path

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness.errors import one_line_errors
from {{ cookiecutter.__package }}.harness.training import Training
from {{ cookiecutter.__package }}.model import Model


@one_line_errors()
def main() -> None:
    run = Training(Model, DataModule, Path(__file__).parent)
    with run.recorded():
        run.trainer.fit(run.model, run.datamodule, ckpt_path=run.resume_from, weights_only=True)
        if run.can_test():
            best = run.best_checkpoint()  # where nothing was validated: the weights as they are
            run.trainer.test(run.model, run.datamodule, ckpt_path=best, weights_only=True, verbose=False)
    run.print_box()


if __name__ == "__main__":
    main()

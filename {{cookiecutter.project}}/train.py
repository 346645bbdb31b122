"""Train the model, then test its best checkpoint. `python train.py --help` lists every setting."""

from pathlib import Path

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness.cli import TrainCLI
from {{ cookiecutter.__package }}.harness.errors import one_line_errors
from {{ cookiecutter.__package }}.model import Model

# What the model must know of the data.
LINKS = {f"data.{name}": f"model.{name}" for name in ("classes", {{ cookiecutter.__links }})}


@one_line_errors()
def main() -> None:
    cli = TrainCLI(Model, DataModule, Path(__file__).parent, LINKS)
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    with cli.tracked_run():
        trainer.fit(model, data, ckpt_path=cli.resume_from, weights_only=True)
        best = cli.best.best_model_path or None  # where nothing was validated: the weights as they are
        trainer.test(model, data, ckpt_path=best, weights_only=True, verbose=False)
    cli.print_closing_box()


if __name__ == "__main__":
    main()

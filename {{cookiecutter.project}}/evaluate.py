"""Test a run's best checkpoint, or any checkpoint, on one device: `python evaluate.py runs/<id>`."""

import argparse

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness import errors, run
from {{ cookiecutter.__package }}.model import Model


@errors.one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="runs/<id>, or a .ckpt file")
    checkpoint = run.find_checkpoint(parser.parse_args().checkpoint)
    run.inference_trainer().test(run.load(Model, checkpoint), run.load(DataModule, checkpoint))


if __name__ == "__main__":
    main()

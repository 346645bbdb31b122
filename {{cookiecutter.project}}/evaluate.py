"""Test a run's best checkpoint, or any checkpoint, on one device: `python evaluate.py runs/<id>`."""

import argparse

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness.errors import one_line_errors
from {{ cookiecutter.__package }}.harness.run import find_checkpoint, inference_trainer, load
from {{ cookiecutter.__package }}.model import Model


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="runs/<id>, or a .ckpt file")
    checkpoint = find_checkpoint(parser.parse_args().checkpoint)
    inference_trainer().test(load(Model, checkpoint), load(DataModule, checkpoint))


if __name__ == "__main__":
    main()

"""Predict new inputs and write a CSV: `python predict.py runs/<id> {{ cookiecutter.__inputs }}`."""

import argparse
import csv
import io
from pathlib import Path

import torch

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness import errors, run
from {{ cookiecutter.__package }}.model import Model


@errors.one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="runs/<id>, or a .ckpt file")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="files, or folders of files")
    parser.add_argument("--output", type=Path, help="CSV to write (default: in the run's folder)")
    args = parser.parse_args()
    checkpoint = run.find_checkpoint(args.checkpoint)
    output = run.output_file(args.output, checkpoint, "predictions.csv")
    model, data = run.load(Model, checkpoint), run.load(DataModule, checkpoint)
    names, inputs = data.new_inputs(args.inputs)
    if not names:
        raise errors.UserError(f"there is nothing to predict in {' '.join(map(str, args.inputs))}")
    scores, predictions = torch.cat(run.inference_trainer().predict(model, data.loader(inputs))).max(dim=1)
    columns = {"file": names, "prediction": scores.tolist()}
    if classes := model.hparams.classes:  # the scores are probabilities
        columns |= {"prediction": [classes[i] for i in predictions], "probability": scores.tolist()}
    rows = csv.writer(text := io.StringIO(newline=""))
    rows.writerows([columns, *zip(*columns.values(), strict=True)])
    with run.whole_file(output) as file:
        file.write(text.getvalue().encode())
    print(f"{len(names)} predictions written to {output}")


if __name__ == "__main__":
    main()

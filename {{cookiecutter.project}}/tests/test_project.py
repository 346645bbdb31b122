"""What must stay true while you replace data, network and model. Seconds, on a CPU, without network."""

import csv
import sys
from pathlib import Path

import pytest
import torch

import evaluate
import predict
import train
from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness import run
from {{ cookiecutter.__package }}.model import Model

DEBUG = str(Path(train.__file__).with_name("experiments") / "debug.yaml")


@pytest.fixture(scope="module")
def data() -> DataModule:
    data = DataModule()
    data.setup("fit")
    return data


def new_model(data: DataModule, **settings) -> Model:
    """Return a model of these data, as train.py builds it."""
    torch.manual_seed(0)
    links = {to.split(".")[1]: getattr(data, source.split(".")[1]) for source, to in train.LINKS.items()}
    return Model(**links, **settings)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that was trained on a few batches."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = ["--config", DEBUG, "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    train.main()
    return next(tmp_path.iterdir())


def test_network_scores_every_class_and_all_parameters_learn(data: DataModule):
    model = new_model(data)
    inputs, targets = next(iter(data.train_dataloader()))
    assert model(inputs).shape == (len(targets), len(data.classes) or 1)
    model.training_step((inputs, targets), 0).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_network_learns_one_batch_by_heart(data: DataModule):
    model = new_model(data, dropout=0.0, label_smoothing=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = next(iter(data.train_dataloader()))
    losses = []
    for _ in range(60):
        losses.append(model.training_step(batch, 0))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_splits_share_no_example_and_lose_none(data: DataModule):
    parts = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
    assert sum(map(len, parts.values())) == len(data.read()["train"][1])
    again = DataModule()
    again.setup("test")
    for name, part in parts.items():
        assert [str(x) for x in again.parts[name][1]] == [str(x) for x in data.parts[name][1]]
        assert len(part) == len(data.parts[name][1])


def test_example_has_the_same_scores_alone_and_in_a_batch(data: DataModule):
    """Neither its place in a batch nor what others are padded with may matter."""
    model = new_model(data).eval()
    fetch = getattr(data.test_set, "__getitems__", lambda indices: [data.test_set[i] for i in indices])
    with torch.no_grad():
        together, alone = model(data.collate(fetch([5, 0, 7]))[0]), model(data.collate(fetch([7]))[0])
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=1e-5)


def test_train_evaluate_predict(folder: Path, data: DataModule, tmp_path: Path, monkeypatch, capsys):
    checkpoint = run.find_checkpoint(str(folder))
    torch.load(checkpoint, weights_only=True)
    assert run.load(Model, checkpoint).hparams.classes == data.classes
    assert (folder / "metrics.csv").read_text(encoding="utf-8").startswith("step,name,value\n")

    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(folder)])
    capsys.readouterr()
    evaluate.main()
    assert "test/loss" in capsys.readouterr().out

    new = write(data.test_example(0), tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(folder), str(new)])
    predict.main()
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["prediction"] in data.classes


def write(example, folder: Path) -> Path:
    """Write an example of any task as a file for predict.py: an image, a text, a row or a sound."""
    if hasattr(example, "save"):
        example.save(path := folder / "new.png")
    elif isinstance(example, str):
        (path := folder / "new.txt").write_text(example, encoding="utf-8")
    elif isinstance(example, dict):
        with (path := folder / "new.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([example, example.values()])
    else:
        import soundfile

        soundfile.write(path := folder / "new.wav", *example)
    return path

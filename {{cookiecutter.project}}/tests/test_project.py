"""What must stay true while you replace data, network and model. Seconds, on a CPU, without network."""

import csv
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader

import evaluate
import predict
import train
from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness import run
from {{ cookiecutter.__package }}.model import Model
from {{ cookiecutter.__package }}.network import Network

DEBUG = str(Path(train.__file__).with_name("experiments") / "debug.yaml")


@pytest.fixture(scope="module")
def data() -> DataModule:
    data = DataModule()
    data.setup("fit")
    return data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that was trained on a few batches."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = ["--config", DEBUG, "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    train.main()
    return next(tmp_path.iterdir())


def test_network_scores_every_class_and_all_parameters_learn(data: DataModule):
    network = Network(data.channels, len(data.classes))
    images, labels = next(iter(data.train_dataloader()))
    scores = network(images)
    assert scores.shape == (len(images), len(data.classes))
    F.cross_entropy(scores, labels).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_network_learns_one_batch_by_heart(data: DataModule):
    torch.manual_seed(0)
    network = Network(data.channels, len(data.classes), dropout=0.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    images, labels = next(iter(data.train_dataloader()))
    for _ in range(40):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_splits_share_no_example_and_lose_none(data: DataModule):
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert sum(len(loader.dataset) for loader in loaders) == 1797
    again = DataModule()
    again.setup("test")
    assert torch.equal(again.test_set.images, data.test_set.images)


def test_a_batch_at_once_equals_its_items_one_by_one(data: DataModule):
    indices = [5, 0, 7]
    images, labels = data.train_set.__getitems__(indices)
    one_by_one = DataLoader([data.train_set[i] for i in indices], batch_size=3)
    assert all(map(torch.equal, (images, labels), next(iter(one_by_one))))


def test_train_evaluate_predict(folder: Path, data: DataModule, tmp_path: Path, monkeypatch, capsys):
    checkpoint = run.find_checkpoint(str(folder))
    torch.load(checkpoint, weights_only=True)
    assert run.load(Model, checkpoint).hparams.classes == data.classes
    assert (folder / "metrics.csv").read_text(encoding="utf-8").startswith("step,name,value\n")

    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(folder)])
    capsys.readouterr()
    evaluate.main()
    assert "test/acc" in capsys.readouterr().out

    Image.fromarray(data.test_set.images[0, 0].numpy()).save(tmp_path / "new.png")
    monkeypatch.setattr(sys, "argv", ["predict.py", str(folder), str(tmp_path / "new.png")])
    predict.main()
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction"] in data.classes for row in rows] == [True]

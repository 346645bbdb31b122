"""What is true of the data and the network that came with the project: replace it when you replace them."""

import csv
import inspect
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from {{ cookiecutter.__package }}.data import DataModule, collate
from {{ cookiecutter.__package }}.model import Model
from {{ cookiecutter.__package }}.network import Network

SPLITS = ("train_set", "val_set", "test_set")


@pytest.fixture(scope="module")
def data() -> DataModule:
    """Return the data as they are with the default settings."""
    data = DataModule()
    data.setup("fit")
    return data


def new_model(data: DataModule, **settings) -> Model:
    """Return a model of these data: what is a property of them and an argument of it has the same name."""
    torch.manual_seed(0)
    for name in (*inspect.signature(Model).parameters, *inspect.signature(Network).parameters):
        if isinstance(getattr(DataModule, name, None), property):
            settings[name] = getattr(data, name)
    return Model(**settings)


def contents(dataset) -> list[tuple[bytes, float]]:
    """Return the input, as bytes, and the target of each example."""
    examples = [dataset[index] for index in range(len(dataset))]
    return [(inputs.numpy().tobytes(), float(target)) for inputs, target in examples]


def fetch(dataset, indices: list[int]):
    """Return the inputs of a batch of these examples."""
    if hasattr(dataset, "__getitems__"):
        examples = dataset.__getitems__(indices)
    else:
        examples = [dataset[index] for index in indices]
    return collate(examples)[0]


def test_network_scores_every_class_and_all_parameters_learn(data: DataModule):
    model = new_model(data)
    inputs, targets = next(iter(data.train_dataloader()))
    assert model.eval()(inputs).shape == (len(targets), len(data.classes) or 1)
    model.train().training_step((inputs, targets), 0).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_network_learns_one_batch_by_heart(data: DataModule):
    model = new_model(data, dropout=0.0, label_smoothing=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = next(iter(data.train_dataloader()))
    first = model.training_step(batch, 0).item()
    for _ in range(120):
        loss = model.training_step(batch, 0)
        if loss < 0.1 * first:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss was {first} and is still {loss.item()}")


def test_network_takes_its_own_example(data: DataModule):
    """Lightning's summary of the layers and export.py call forward with it."""
    model = new_model(data).eval()
    scores = model(*model.example_input_array)
    assert scores.shape == (2, len(data.classes) or 1)
    assert scores.isfinite().all()


def test_splits_share_no_example_and_are_the_same_again(data: DataModule):
    again = DataModule()
    again.setup("test")
    seen: set = set()
    for name in SPLITS:
        found = contents(getattr(data, name))
        assert found == contents(getattr(again, name))
        assert len(set(found)) == len(found)
        assert seen.isdisjoint(found)
        seen.update(found)


def test_each_example_is_tested_on_in_one_of_the_folds(data: DataModule):
    tested: set = set()
    for fold in range(3):
        part = DataModule(fold=fold, num_folds=3)
        part.setup("test")
        found = contents(part.test_set)
        assert tested.isdisjoint(found)
        tested.update(found)
    assert len(tested) == sum(len(getattr(data, name)) for name in SPLITS)


def test_example_has_the_same_scores_alone_and_in_a_batch(data: DataModule):
    """Neither its place in a batch nor what others are padded with may matter."""
    model = new_model(data).eval()
    with torch.no_grad():
        together = model(fetch(data.test_set, list(range(8))))
        for index in range(8):
            alone = model(fetch(data.test_set, [index]))
            torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-5)


def test_new_inputs_are_treated_as_those_of_the_test(data: DataModule, tmp_path: Path):
    """A checkpoint keeps what is needed for that, so no data set is read."""
    model = new_model(data).eval()
    file = write(data.test_example(0), tmp_path)
    new = DataModule(path="there is no such file")
    new.load_state_dict(data.state_dict())
    assert len(new.predict_inputs([file])) == 1
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    (found,) = trainer.predict(model, new)
    with torch.no_grad():
        expected = model.predict_step(fetch(data.test_set, [0]), 0)
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def write(example, folder: Path) -> Path:
    """Write an example of any task as a file for predict.py: an image, a text, a row or a sound."""
    if hasattr(example, "save"):
        path = folder / "new.png"
        example.save(path)
    elif isinstance(example, str):
        path = folder / "new.txt"
        path.write_text(example, encoding="utf-8")
    elif isinstance(example, dict):
        path = folder / "new.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([example, example.values()])
    else:
        import soundfile

        path = folder / "new.wav"
        soundfile.write(path, *example, subtype="FLOAT")
    return path

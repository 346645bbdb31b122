"""evaluate.py, predict.py and export.py: any setting on top of a run's, and any Lightning code."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from project import TINY, Done, run, run_in_turn, run_many

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

IMPORTS = """
import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
"""
OPTIMIZER = """
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""

# Model and data as others write them, by what is special about them.
CODE = {
    "columns": """
class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        return self(batch).mean()

    def predict_step(self, batch, batch_idx):
        return {"length": self(batch), "text": ["a, b"] * len(batch)}

class DataModule(LightningDataModule):
    notes = ["eight rows, all of them für Übungen"]

    def train_dataloader(self):
        return DataLoader(torch.randn(8, 3), batch_size=4)

    def predict_inputs(self, paths):
        self.new = torch.randn(2 * len(paths), 3)
        return [f"{path}:{row}" for path in paths for row in (1, 2)]

    def predict_dataloader(self):
        return DataLoader(Rows(self.new), batch_size=3, num_workers=1)

class Rows(TensorDataset):
    def __init__(self, rows):
        super().__init__(rows)
        self.readable = torch.ones(len(rows), dtype=torch.bool).share_memory_()

    def __getitem__(self, index):
        if index == 2:
            self.readable[index] = False
        return super().__getitem__(index)[0]
""",
    "masks": """
class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3, padding=1)
        self.same_layer = self.layer

    @property
    def example_input_array(self):
        height, width = torch.randint(8, 32, (2,)).tolist()
        return {"image": torch.rand(1, 1, height, width)}

    def forward(self, image):
        return self.layer(image)

    def training_step(self, batch, batch_idx):
        return self(batch).mean()

    def predict_step(self, batch, batch_idx):
        image = batch["image"] if isinstance(batch, dict) else batch
        return self(image).argmax(dim=1)

class DataModule(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(torch.randn(8, 1, 8, 8), batch_size=4)

    def predict_dataloader(self):
        return DataLoader(torch.randn(7, 1, 8, 8), batch_size=4)
""",
    "targets": """
class Model(LightningModule):
    def __init__(self, classes: list[str]):
        super().__init__()
        self.layer = nn.Linear(3, len(classes))
        self.example_input_array = torch.randn(2, 3)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("test/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def predict_step(self, batch, batch_idx):
        x, _ = batch
        return self(x)

class DataModule(LightningDataModule):
    @property
    def classes(self):
        return ["one", "two"]

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(8, 3), torch.tensor([0, 1] * 4)), batch_size=4)

    def test_dataloader(self):
        return self.train_dataloader()

    def predict_dataloader(self):
        return self.train_dataloader()
""",
    "setup": """
class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.example_input_array = torch.randn(2, 3)

    def setup(self, stage):
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return {"first": self.layer(x), "second": self.layer(x).sum(dim=1)}

    def training_step(self, batch, batch_idx):
        return self(batch)["second"].mean()

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

class DataModule(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(torch.randn(8, 3), batch_size=4)

    def val_dataloader(self):
        return self.train_dataloader()
""",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def run_of(project: Path) -> Path:
    """Return the only run of a project."""
    (config,) = (project / "runs").glob("*/config.yaml")
    return config.parent


def error(done: Done) -> str:
    """Return the one line of a command that was refused."""
    assert done.code == 1, done.out
    assert "Traceback" not in done.err, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return line


def metrics(done: Done) -> dict[str, float]:
    """Return the metrics in Lightning's table."""
    assert done.code == 0, done.err
    return {name: float(value) for name, value in re.findall(r"│ +(\S+) +│ +(\S+) +│", done.out)}


@pytest.fixture(scope="module")
def project(bake, home) -> Path:
    """Return a project with one small run of the digits."""
    project = bake(accept_hooks=False)
    (trained,) = run_many(project, [f"train.py {TINY}"], home=home)
    assert trained.code == 0, trained.err
    return project


@pytest.fixture(scope="module")
def others(bake, home, tmp_path_factory) -> dict[str, tuple[Path, list[Done]]]:
    """Return a project for each code, and what evaluate.py, predict.py and export.py left there."""
    baked = bake(accept_hooks=False)
    projects = {}
    for name, code in CODE.items():
        projects[name] = tmp_path_factory.mktemp(name) / "my-project"
        shutil.copytree(baked, projects[name])
        package = projects[name] / "my_project"
        model, data = code.split("\nclass DataModule")
        package.joinpath("model.py").write_text(IMPORTS + model + OPTIMIZER)
        package.joinpath("data.py").write_text(f"{IMPORTS}\nclass DataModule{data}")
    short = "train.py --trainer.max_epochs 1"
    for done in run_in_turn([(project, short) for project in projects.values()], home=home):
        assert done.code == 0, done.err
    jobs = []
    for name, project in projects.items():
        where = run_of(project)
        inputs = " x.png y.png" if name == "columns" else ""
        jobs.append((project, f"evaluate.py {where}"))
        jobs.append((project, f"predict.py {where}{inputs}"))
        jobs.append((project, f"export.py {where}"))
    done = run_in_turn(jobs, home=home)
    return {name: (projects[name], done[3 * i : 3 * i + 3]) for i, name in enumerate(CODE)}


def table(project: Path) -> list[dict]:
    """Return the rows that predict.py wrote."""
    with (run_of(project) / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_dict_of_values_becomes_columns(others):
    project, (evaluated, predicted, exported) = others["columns"]
    assert predicted.code == 0, predicted.err
    rows = table(project)
    assert [row["file"] for row in rows] == ["x.png:1", "x.png:2", "y.png:2"]
    assert "3 predictions written" in predicted.out
    assert "1 could not be read and have no row: y.png:1" in predicted.out
    assert {row["text"] for row in rows} == {"a, b"}
    assert all(float(row["length"]) for row in rows)
    assert "no test_step and no test_dataloader" in error(evaluated)
    assert "Model.example_input_array" in error(exported)


def test_what_the_data_say_is_printed_and_kept(others):
    project, (_, predicted, _) = others["columns"]
    note = "eight rows, all of them für Übungen"
    assert predicted.out.count(f"data: {note}") == 1
    assert (run_of(project) / "data.txt").read_text(encoding="utf-8") == f"{note}\n"


def test_all_probabilities(project, home):
    Image.new("L", (8, 8)).save(project / "all.png")
    folder = run_of(project)
    (done,) = run_many(project, [f"predict.py {folder} all.png --probabilities"], home=home)
    assert done.code == 0, done.err
    (row,) = table(project)
    probabilities = [float(row[f"probability.{digit}"]) for digit in range(10)]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert float(row["probability"]) == max(probabilities)
    assert row["prediction"] == str(probabilities.index(max(probabilities)))


def test_results_that_make_no_table_are_saved_as_they_are(others):
    project, (_, predicted, exported) = others["masks"]
    assert predicted.code == 0, predicted.err
    assert "predictions.pt" in predicted.out
    batches = torch.load(run_of(project) / "predictions.pt", weights_only=True)
    assert [list(batch.shape) for batch in batches] == [[4, 8, 8], [3, 8, 8]]
    assert exported.code == 0, exported.err
    session = onnxruntime.InferenceSession(run_of(project) / "model.onnx")
    (mask,) = session.run(None, {"image": np.zeros((3, 1, 9, 11), dtype=np.float32)})
    assert mask.shape == (3, 9, 11)


def test_scores_are_not_called_probabilities_and_forward_is_exported_where_it_must_be(others):
    project, (evaluated, predicted, exported) = others["targets"]
    assert metrics(evaluated).keys() == {"test/loss"}
    assert predicted.code == 0, predicted.err
    rows = table(project)
    assert [row["example"] for row in rows] == [str(i) for i in range(8)]
    assert {row["prediction"] for row in rows} <= {"one", "two"}
    assert "score" in rows[0]
    assert exported.code == 0, exported.err
    assert "predict_step does not work with inputs alone" in exported.out
    session = onnxruntime.InferenceSession(run_of(project) / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["scores"]


def test_layers_of_setup_are_loaded_and_a_model_without_test_is_validated(others):
    project, (evaluated, predicted, exported) = others["setup"]
    assert evaluated.code == 0, evaluated.err
    assert "so this is the validation, not a test" in evaluated.out
    assert "logs no metric" in evaluated.out
    assert "predict_dataloader" in error(predicted)
    assert exported.code == 0, exported.err
    weights = torch.load(run_of(project) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    session = onnxruntime.InferenceSession(run_of(project) / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["first", "second"]
    first, _ = session.run(None, {"x": np.zeros((4, 3), dtype=np.float32)})
    np.testing.assert_allclose(first[0], weights["layer.bias"], atol=1e-6)


def test_any_setting_goes_on_top_and_a_checkpoint_is_enough(project, home, tmp_path):
    folder = run_of(project)
    best = folder / "checkpoints" / "best.ckpt"
    bare = tmp_path / "bare.ckpt"
    shutil.copy(best, bare)
    plain, large, rest, alone, with_setting, two, narrow = run_many(
        project,
        [
            f"evaluate.py {folder}",
            f"evaluate.py {best} --data.batch_size 7 --trainer.precision 64-true",
            f"evaluate.py {folder} --data.test_share 0.5 --data.val_share 0.1",
            f"evaluate.py {bare}",
            f"evaluate.py {bare} --data.test_share 0.5 --data.val_share 0.1",
            f"predict.py {folder} x.png --trainer.devices 2 --trainer.accelerator cpu",
            f"evaluate.py {folder} --model.width 8",
        ],
        home=home,
    )
    expected = metrics(plain)
    assert expected.keys() == {"test/acc", "test/loss"}
    assert metrics(large) == pytest.approx(expected, abs=1e-5)
    assert metrics(alone) == expected
    assert metrics(rest) != expected
    assert "the data changed since training" in rest.out + rest.err
    assert metrics(with_setting) == metrics(rest)
    assert "predict.py runs on one device: --trainer.devices 1 (got 2)" in error(two)
    assert "does not fit Model" in error(narrow)
    assert "network.backbone.0.0.weight" in error(narrow)
    shared = run(project, f"evaluate.py {folder} --trainer.devices 2 --trainer.accelerator cpu", home=home)
    assert metrics(shared) == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_is_said_in_one_line(project, home, tmp_path):
    folder = run_of(project)
    Image.new("L", (8, 8)).save(project / "new.png")
    nothing, missing, second, no_input, no_folder, unknown = run_many(
        project,
        [
            "evaluate.py",
            "evaluate.py runs/none",
            f"evaluate.py {folder} {folder}",
            f"predict.py {folder}",
            f"predict.py {folder} new.png --output none/x.csv",
            f"export.py {folder} --data.size 3",
        ],
        home=home,
    )
    assert "python evaluate.py runs/<id>" in error(nothing)
    assert "there is no checkpoint runs/none" in error(missing)
    assert "evaluate.py takes one run" in error(second)
    assert "nothing to predict" in error(no_input)
    assert "--output none/x.csv" in error(no_folder)
    assert "unknown setting --data.size" in error(unknown)


def test_code_that_has_changed_since(project, home, tmp_path):
    """An argument that is gone or new is named; an error in the user's constructor keeps its traceback."""
    folder = run_of(project)
    gone, new, fails = (tmp_path / name / "my-project" for name in ("gone", "new", "fails"))
    for copy in (gone, new, fails):
        shutil.copytree(project, copy, ignore=shutil.ignore_patterns("runs"))

    def change(copy: Path, before: str, after: str) -> None:
        file = copy / "my_project" / "model.py"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))

    change(gone, "warmup: float = 0.1", "warm: float = 0.1")
    change(new, "classes: list[str],", "classes: list[str],\n        temperature: float,")
    change(fails, "super().__init__()", 'super().__init__()\n        raise ValueError("mine")')
    bare = tmp_path / "bare.ckpt"
    shutil.copy(folder / "checkpoints" / "best.ckpt", bare)
    done = run_in_turn(
        [(copy, f"evaluate.py {path}") for copy in (gone, new, fails) for path in (folder, bare)], home=home
    )
    assert all("model.warmup" in error(refused) for refused in done[:2])
    assert all("model.temperature" in error(refused) for refused in done[2:4])
    for failed in done[4:]:
        assert failed.code == 1
        assert "Traceback" in failed.err
        assert "ValueError: mine" in failed.err

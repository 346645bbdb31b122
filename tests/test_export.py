"""Exported models give what predict.py gives, without this project and without its data."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from conftest import QUESTIONS
from PIL import Image
from project import TINY, run, run_in_turn, run_many
from safetensors import safe_open
from test_own_data import write_tables

# Their data, and so what export.py is given, differ; test_tasks.py exports the blank project.
CLASSIFIERS = [task for task in QUESTIONS["task"] if task != "blank"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def exported(bake, home) -> dict[str, tuple[Path, Path, str]]:
    """Train each task, take its data away and export it: the project, the run and what export.py printed."""
    projects = {task: bake(accept_hooks=False, task=task) for task in CLASSIFIERS}
    write_tables(projects["tabular"])  # numbers and categories
    flags = dict.fromkeys(CLASSIFIERS, "") | {"tabular": "--data.path table.csv --data.target kind"}
    trainings = [(project, f"train.py {TINY} {flags[task]}") for task, project in projects.items()]
    for trained in run_in_turn(trainings, home=home):
        assert trained.code == 0, trained.err
    (projects["tabular"] / "table.csv").unlink()
    folders = {task: run_of(project / "runs") for task, project in projects.items()}
    exports = [(project, f"export.py {folders[task]}") for task, project in projects.items()]
    found = {}
    for task, exported in zip(CLASSIFIERS, run_in_turn(exports, home=home), strict=True):
        found[task] = projects[task], folders[task], exported
    return found


def run_of(runs: Path) -> Path:
    """Return the only run in a folder of runs, where W&B keeps its files as well."""
    (config,) = runs.glob("*/config.yaml")
    return config.parent


def model(folder: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    """Return the exported model, and what its metadata say."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return session, {name: json.loads(value) for name, value in metadata.items()}


def images(project: Path) -> tuple[str, dict]:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image[0]).save(project / f"{i}.png")
    return " ".join(f"{i}.png" for i in range(7)), {"x": pixels}


def texts(project: Path) -> tuple[str, dict]:
    lines = ["ein Haus", "a", "çok güzel bir köpek"]
    (project / "new.txt").write_text("\n".join(lines), encoding="utf-8")
    tokens = np.zeros((3, 40), dtype=np.int64)
    for row, line in zip(tokens, lines, strict=True):
        row[: len(line.encode())] = list(line.encode())
    return "new.txt", {"x": tokens}


def sounds(project: Path) -> tuple[str, dict]:
    lengths = np.array([3000, 9000, 50])
    samples = np.zeros((3, 9000), dtype=np.float32)
    for i, length in enumerate(lengths):
        samples[i, :length] = np.random.default_rng(i).normal(scale=0.1, size=length)
        soundfile.write(project / f"{i}.wav", samples[i, :length], 8000, subtype="FLOAT")
    return "0.wav 1.wav 2.wav", {"x_0": samples, "x_1": lengths}


def rows(project: Path) -> tuple[str, dict]:
    (project / "rows.csv").write_text("price,id,colour,size\n3,n1,blue,4\n5.5,n2,pink,7.25\n")
    columns = model(run_of(project / "runs"))[1]["columns"]
    values = {column["name"]: column.get("values") for column in columns}
    blue = 1 + values["colour"].index("blue")
    cells = {"size": [4, 7.25], "colour": [blue, 0], "price": [3, 5.5]}  # pink is not known
    assert values.keys() == cells.keys()
    table = np.array([cells[name] for name in values], dtype=np.float32)
    return "rows.csv", {"x": table.T}


INPUTS = {"image": images, "text": texts, "audio": sounds, "tabular": rows}


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_onnx_gives_what_predict_gives(exported, home, task):
    project, folder, done = exported[task]
    assert done.code == 0, done.err
    session, metadata = model(folder)
    names, inputs = INPUTS[task](project)
    (predicted,) = run_many(project, [f"predict.py {folder} {names}"], home=home)
    assert predicted.code == 0, predicted.err
    (probabilities,) = session.run(["probabilities"], inputs)
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    classes = [metadata["classes"][i] for i in probabilities.argmax(axis=1)]
    assert classes == [row["prediction"] for row in expected]
    found = [float(row["probability"]) for row in expected]
    np.testing.assert_allclose(probabilities.max(axis=1), found, atol=1e-4)
    alone = session.run(None, {name: value[:1] for name, value in inputs.items()})[0]
    np.testing.assert_allclose(alone, probabilities[:1], atol=1e-4)
    known = {"image": "size", "text": "max_length", "audio": "rate", "tabular": "columns"}
    assert metadata[known[task]]
    assert "scores" in metadata["network"]


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_export_says_what_it_wrote_and_nothing_else(exported, task):
    project, folder, done = exported[task]
    where = folder.relative_to(project)
    lines = done.out.splitlines()
    assert [line.split(" written")[0] for line in lines[:2]] == [
        f"{where}/model.onnx",
        f"{where}/model.safetensors",
    ]
    assert float(lines[2].rpartition(" ")[2]) < 1e-4
    assert len(lines) == 3
    warned = [line for line in done.err.splitlines() if "Warning" in line]
    assert [line for line in warned if "JsonargparseDeprecationWarning" not in line] == []


def test_a_regression_is_exported(exported, home):
    project = exported["tabular"][0]
    trained, written = run_many(
        project,
        [
            f"train.py {TINY} --data.dataset diabetes --trainer.default_root_dir diabetes",
            "export.py diabetes",
        ],
        home=home,
    )
    assert trained.code == 0, trained.err
    assert written.code == 1, "a folder of runs is no run"
    folder = run_of(project / "diabetes")
    (written,) = run_many(project, [f"export.py {folder} --output diabetes.onnx"], home=home)
    assert written.code == 0, written.err
    session = onnxruntime.InferenceSession(project / "diabetes.onnx")
    (numbers,) = session.run(["predictions"], {"x": np.zeros((3, 10), dtype=np.float32)})
    assert numbers.shape == (3, 1)


def test_safetensors_are_the_weights_and_another_model_starts_from_them(exported, home):
    project, folder, _ = exported["image"]
    weights = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), weights[name]) for name in weights)
    (done,) = run_many(project, [f"train.py {TINY} --model.init_from {folder}/model.safetensors"], home=home)
    assert done.code == 0, done.err
    assert "skipped: nothing" in done.err
    assert "new:     nothing" in done.err


BROKEN = """
import runpy, sys
sys.argv = ["export.py", sys.argv[1]]
{fault}
runpy.run_path("export.py", run_name="__main__")
"""
FAULTS = {
    "sys.modules['onnxruntime'] = None": ["pip install onnx onnxruntime onnxscript safetensors"],
    "import torch; write = torch.onnx.export\n"
    "def export(m, *args, **kwargs):\n"
    "    program = write(m, *args, **kwargs)\n"
    "    with torch.no_grad():\n"
    "        [p.add_(0.01) for p in m.parameters()]\n"
    "    return program\n"
    "torch.onnx.export = export": ["ONNX and checkpoint differ by", "is not written"],
    "from pathlib import Path\n"
    "def full(*_): raise OSError(28, 'No space left on device')\n"
    "Path.replace = full": ["cannot write", "No space left"],
}


@pytest.mark.parametrize("fault", FAULTS, ids=["no extra", "another model", "full disk"])
def test_nothing_is_written_unless_all_is_well(exported, home, tmp_path, fault):
    project, folder, _ = exported["image"]
    copy = tmp_path / "run"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("model.*"))
    script = tmp_path / "broken.py"
    script.write_text("import sys; sys.path.insert(0, '.')\n" + BROKEN.format(fault=fault))
    done = run(project, f"{script} {copy}", home=home)
    assert done.code == 1
    assert "Traceback" not in done.err, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert all(words in line for words in FAULTS[fault]), line
    assert not list(copy.glob("*model.*"))

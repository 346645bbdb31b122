"""Each task has its data and its network; all else is the same. A fifth task is tested here by itself."""

import difflib
import importlib
import itertools
import json
import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import QUESTIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project import TINY, run, run_many

TASKS = QUESTIONS["task"]
CLASSIFIERS = [task for task in TASKS if task != "blank"]  # with data of a task, and one model.py
OWN = {"my_project/data.py", "my_project/network.py"}
OF_SOME = {  # tasks
    "my_project/images.py",
    "my_project/sounds.py",
    "my_project/texts.py",
    "my_project/augment.py",
    "my_project/pretrained.py",
    "experiments/pretrained.yaml",
}
# How many lines of other files may name the task: texts, requirements, settings.
NAMING = {"README.md": 45, "config.yaml": 6, "pyproject.toml": 5, "predict.py": 1, "sweep.yaml": 1}
NAMING["requirements.txt"] = 4


@pytest.fixture(scope="module")
def projects(bake) -> dict[str, Path]:
    return {task: bake(accept_hooks=False, task=task) for task in TASKS}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(CLASSIFIERS, 2)))
def test_two_tasks_differ_in_data_and_network_only(projects, one, other):
    files = [
        {
            path.relative_to(projects[task]).as_posix(): path
            for path in projects[task].rglob("*")
            if path.is_file()
        }
        for task in (one, other)
    ]
    assert files[0].keys() - OF_SOME == files[1].keys() - OF_SOME
    for name in files[0].keys() - OWN - OF_SOME:
        texts = [found[name].read_text(encoding="utf-8").splitlines() for found in files]
        changed = [line for line in difflib.ndiff(*texts) if line.startswith(("+", "-"))]
        assert len(changed) <= 2 * NAMING.get(name, 0), (name, changed)
    for name in OWN:
        assert files[0][name].read_text(encoding="utf-8") != files[1][name].read_text(encoding="utf-8")


SCRIPTS = ("train.py", "evaluate.py", "predict.py", "export.py", "runs.py", "search.py")


def imported(project: Path) -> set[str]:
    """Return the files of harness/ that the scripts of a project need, and its settings name."""
    harness = project / "my_project" / "harness"
    places = [project / name for name in SCRIPTS]
    places += [project / "my_project" / name for name in ("data.py", "network.py", "model.py")]
    found = {"__init__.py"}
    while places:
        text = places.pop().read_text(encoding="utf-8")
        for name in re.findall(r"from (?:my_project\.harness|\.harness|)\.(\w+) import", text):
            path = harness / f"{name}.py"
            if path.exists() and path.name not in found:
                found.add(path.name)
                places.append(path)
        if re.search("from . import private", text):
            found.add("private.py")
    return found


def test_a_blank_project_is_the_same_without_what_only_other_tasks_use(projects):
    blank = projects["blank"]
    other = projects["image"]
    files = {path.relative_to(blank).as_posix() for path in blank.rglob("*") if path.is_file()}
    others = {path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file()}
    assert files < others
    machinery = {path.name for path in (blank / "my_project" / "harness").glob("*.py")}
    assert machinery == imported(blank)
    left_out = {name for name in others - files if "harness" not in name}
    tasks_own = {"experiments/finetune.yaml", "experiments/pretrained.yaml", "folds.yaml"}
    tasks_own |= {f"my_project/{name}.py" for name in ("augment", "images", "pretrained")}
    assert left_out == {*tasks_own, "tests/test_example.py"}
    same = [name for name in files if name.endswith((".py", ".sh")) and name not in OWN]
    for name in set(same) - {"my_project/model.py", "predict.py"}:
        assert (blank / name).read_bytes() == (other / name).read_bytes(), name


def test_a_blank_project_pins_what_it_needs_and_no_more(projects):
    lines = (projects["blank"] / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if not line.startswith("#")}
    settings = tomllib.loads((projects["blank"] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {"setuptools"}  # torch needs it on newer versions of Python
    places = list(settings["dependencies"])
    while places:
        requirement = Requirement(places.pop())
        name = canonicalize_name(requirement.name)
        for line in requires(name) or []:
            further = Requirement(line)
            extras = requirement.extras or {""}
            if further.marker and not any(further.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            if canonicalize_name(further.name) not in needed or further.extras:
                places.append(line)
        needed.add(name)
    assert pinned == {name for name in needed if not name.startswith(("nvidia-", "cuda-", "triton"))}


@pytest.fixture(scope="module")
def harness(projects):
    """Import the modules that split and order; the task does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(projects["image"])
        names = ("batches", "splits")
        modules = {name: importlib.import_module(f"my_project.harness.{name}") for name in names}
        yield SimpleNamespace(**modules)
        for name in [name for name in sys.modules if name.startswith("my_project")]:
            del sys.modules[name]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), folds=st.integers(2, 6), seed=st.integers(0, 99), stratified=st.booleans())
def test_folds_partition_the_data(harness, data, folds, seed, stratified):
    """Each example is tested on in one fold, and no fold has it in two splits."""
    count = data.draw(st.integers(10 * folds, 200))
    strata = [i % 2 for i in range(count)] if stratified else None
    tested = []
    for fold in range(folds):
        parts = harness.splits.split(count, strata, 0.1, 0.2, seed, fold, folds)
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
        assert all(len(part) for part in parts.values())
        tested += parts["test"].tolist()
    assert sorted(tested) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(30, 300), val=st.floats(0.1, 0.3), test=st.floats(0.1, 0.3), seed=st.integers(0, 99))
def test_a_split_loses_nothing_and_is_the_same_again(harness, count, val, test, seed):
    strata = ["a", "b", "b"] * (count // 3)
    parts = harness.splits.split(len(strata), strata, val, test, seed, None, 5)
    again = harness.splits.split(len(strata), strata, val, test, seed, None, 5)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(strata)))
    assert all((parts[name] == again[name]).all() for name in parts)
    assert abs(len(parts["test"]) - test * len(strata)) <= 1
    assert abs(len(parts["val"]) - val * len(strata)) <= 1


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=200), size=st.integers(1, 32))
def test_similar_lengths_draw_each_example_once(harness, lengths, size):
    assert sorted(harness.batches.SimilarLengths(lengths, size)) == list(range(len(lengths)))


def test_the_longest_examples_are_trained_on(harness):
    """The smaller last batch, which is dropped, is not always theirs."""
    dropped = [min(list(harness.batches.SimilarLengths(range(1, 103), 10))[-2:]) for _ in range(30)]
    assert min(dropped) < 50 < max(dropped)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_one_batch_is_not_all_batches(projects, tmp_path, task):
    """Libraries of a task, imported before lightning, can turn the integers of its settings into shares."""
    (shown,) = run_many(
        projects[task], ["train.py --trainer.limit_train_batches 1 --print_config"], home=tmp_path
    )
    assert "limit_train_batches: 1\n" in shown.out


PADDING = """
import torch
from torch.nn import functional as F
from my_project.data import DataModule
from my_project.harness.settings import linked_names
from my_project.model import Model

torch.manual_seed(0)
data = DataModule()
data.setup("fit")
model = Model(**{name: getattr(data, name) for name in linked_names(Model, DataModule)})
inputs, targets = next(iter(data.train_dataloader()))
model(inputs)  # in training: the running statistics of batch normalisation are no longer 0 and 1
model.eval()
order = torch.randperm(len(targets))
with torch.no_grad():
    scores = model(inputs)[order]
    if isinstance(inputs, tuple):  # samples and lengths
        more = F.pad(inputs[0], (0, 3000))[order], inputs[1][order]
    else:  # bytes of text
        more = F.pad(inputs, (0, 30))[order]
    torch.testing.assert_close(model(more), scores, atol=1e-5, rtol=1e-5)
    assert scores.std() > 1e-3
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text", "audio"])
def test_order_and_padding_of_a_batch_do_not_matter(projects, tmp_path, task):
    script = tmp_path / "padding.py"
    script.write_text(f"import sys\nsys.path.insert(0, '.')\n{PADDING}")
    done = run(projects[task], str(script), home=tmp_path)
    assert done.code == 0, done.err


def table_of_examples(folder: Path) -> list[dict]:
    """Return the rows of the table of test examples that W&B was given."""
    places = folder.parent.glob(f"wandb/offline-run-*-{folder.name}/files/media/table/test")
    (path,) = [path for place in places for path in place.glob("examples_*.json")]
    table = json.loads(path.read_text(encoding="utf-8"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def holds(folder: Path, start: bytes) -> bool:
    """Return whether a file that waits for its upload begins so."""
    waiting = folder.parent.glob("wandb/artifacts/staging/*")
    return any(path.read_bytes().startswith(start) for path in waiting)


# How an example of each task is shown.
SHOWN = {
    "image": lambda folder, row: row["example"] == "Image" and holds(folder, b"\x89PNG"),
    "audio": lambda folder, row: row["example"] == "Audio" and holds(folder, b"RIFF"),
    "text": lambda folder, row: row["example"].strip(),
    "tabular": lambda folder, row: row["mean radius"] > 0,
}


@pytest.mark.slow
def test_numbers_are_shown_with_their_errors(projects, tmp_path):
    project = projects["tabular"]
    command = f"train.py {TINY} --data.dataset diabetes --trainer.default_root_dir numbers"
    (trained,) = run_many(project, [command], home=tmp_path)
    assert trained.code == 0, trained.err
    (folder,) = [path.parent for path in (project / "numbers").glob("*/config.yaml")]
    assert {path.name for path in folder.glob("*.png")} == {"learning_curves.png", "predictions.png"}
    shown = table_of_examples(folder)
    errors = [row["prediction"] - row["target"] for row in shown]
    assert errors == pytest.approx([row["error"] for row in shown])
    assert sorted(map(abs, errors), reverse=True) == pytest.approx(list(map(abs, errors)))
    assert shown[0]["bmi"] > 0


@pytest.mark.slow
def test_a_blank_project_trains_and_passes_its_own_tests(projects, tmp_path):
    project = projects["blank"]
    few = "--trainer.max_epochs 2 --trainer.accelerator cpu --trainer.default_root_dir blank"
    (trained,) = run_many(project, [f"train.py {few}"], home=tmp_path)
    assert trained.code == 0, trained.err
    (folder,) = [path.parent for path in (project / "blank").glob("*/config.yaml")]
    assert {path.name for path in folder.glob("*.png")} == {"learning_curves.png"}
    assert "fine-tune" not in trained.out
    sweep = yaml.safe_load((project / "sweep.yaml").read_text(encoding="utf-8"))
    swept = " ".join(f"--{name} 1" for name in sweep["parameters"])
    commands = [
        f"evaluate.py {folder}",
        f"predict.py {folder}",
        f"export.py {folder}",
        f"runs.py {folder}",
        f"train.py {swept} --print_config",
    ]
    for command, done in zip(commands, run_many(project, commands, home=tmp_path), strict=True):
        assert done.code == 0, f"{command}\n{done.err}"
    assert len((folder / "predictions.csv").read_text().splitlines()) == 201
    assert (folder / "model.onnx").exists()
    tested = run(project, "-m pytest -q -p no:cacheprovider", home=tmp_path)
    assert tested.code == 0, tested.out
    assert "skipped" not in tested.out


@pytest.mark.slow
@pytest.mark.parametrize("task", CLASSIFIERS)
def test_a_task_trains_and_passes_its_own_tests(projects, tmp_path, monkeypatch, task):
    project = projects[task]
    train = f"train.py {TINY} --trainer.limit_test_batches 2"
    trained = run(project, train, home=tmp_path)
    assert trained.code == 0, trained.err
    warned = [line for line in trained.err.splitlines() if "Warning: " in line]
    expected = ("LeafSpec", "JsonargparseDeprecationWarning", "Implicitly cleaning up")
    assert [line for line in warned if not any(word in line for word in expected)] == []
    (folder,) = [path.parent for path in (project / "runs").glob("*/config.yaml")]
    pictures = {"learning_curves.png", "confusion_matrix.png", "examples.png"}
    assert {path.name for path in folder.glob("*.png")} == pictures
    shown = table_of_examples(folder)
    assert len(shown) == 50
    assert shown[0]["prediction"] != shown[0]["target"]
    assert SHOWN[task](folder, shown[0])
    monkeypatch.setattr("project.PICTURES", False)  # nothing looks at those of the next runs
    finetune = f"{train} --trainer.max_epochs 3 --config experiments/finetune.yaml"
    commands = [f"evaluate.py {folder}", f"{finetune} --model.init_from {folder}"]
    for command, done in zip(commands, run_many(project, commands, home=tmp_path), strict=True):
        assert done.code == 0, f"{command}\n{done.err}"
    with (project / "experiments" / "debug.yaml").open("a") as settings:
        settings.write("model:\n  width: 8\ndata:\n  batch_size: 16\n")  # takes half the time
    tested = run(project, "-m pytest -q -p no:cacheprovider", home=tmp_path)
    assert tested.code == 0, tested.out
    assert re.search(r"\d+ passed", tested.out)
    assert "skipped" not in tested.out

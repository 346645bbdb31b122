"""More processes, more machines, more data: the same results. And Lightning's own tools, by flag."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from project import run

pytestmark = pytest.mark.slow

WORDS = ("one", "zwei", "trois")
TEXTS = "--model.width 8 --data.path texts --data.num_workers 0 --trainer.accelerator cpu"
DDP = "--trainer.devices 2 --trainer.strategy ddp"
EVALUATE = """
import json, sys; sys.path.insert(0, ".")
from my_project.data import DataModule
from my_project.harness import run
from my_project.model import Model
checkpoint = run.find_checkpoint(sys.argv[1])
model, data, trainer = run.load(Model, checkpoint), run.load(DataModule, checkpoint), run.inference_trainer()
metrics = trainer.validate(model, data, verbose=False)[0] | trainer.test(model, data, verbose=False)[0]
targets = {data.test_example(i): data.parts["test"][1][i] for i in range(len(data.test_set))}
print(json.dumps([metrics, targets]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    """Return a project for texts, with 39 of them to validate and 115 to test on."""
    project = bake(accept_hooks=False, task="text")
    (project / "texts").mkdir()
    for split, count in {"train": 200, "val": 39, "test": 115}.items():
        rows = [{"text": f"{WORDS[i % 3]} {split} {i}", "label": WORDS[i % 3]} for i in range(count)]
        pd.DataFrame(rows).to_csv(project / "texts" / f"{split}.csv", index=False)
    return project


def only_run(root: Path) -> Path:
    """Return the folder of the only run."""
    (folder,) = [path for path in root.iterdir() if path.is_dir()]
    return folder


def logged(folder: Path) -> dict[str, float]:
    """Return the last value of each metric."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def test_two_processes_measure_as_one_does(project, home):
    """Neither count is even, and with 19 in a batch one process would have a batch more than the other."""
    flags = "--data.batch_size 19 --trainer.max_epochs 1 --trainer.default_root_dir two"
    done = run(project, f"train.py {TEXTS} {flags} {DDP}", home=home, network=True)
    assert done.code == 0, done.err
    folder = only_run(project / "two")
    (project / "measure.py").write_text(EVALUATE)
    alone = run(project, f"measure.py {folder}", home=home)
    assert alone.code == 0, alone.err
    metrics, targets = json.loads(alone.out.splitlines()[-1])
    assert metrics.keys() == {"val/acc", "val/loss", "test/acc", "test/loss"}
    found = logged(folder)
    assert {name: found[name] for name in metrics} == pytest.approx(metrics, rel=1e-6)
    (table,) = folder.glob("wandb/**/table/test/examples*.json")
    shown = json.loads(table.read_text())["data"]
    assert len(shown) == 50
    assert all(targets[example] == target for example, target, *_ in shown)

"""Splits and the size of batches, and that few examples are enough to learn from."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from project import run, run_in_turn
from sklearn.datasets import load_iris

INSIDE = Path(__file__).parent / "inside"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_splits_and_batch_sizes(bake, home):
    project = bake(accept_hooks=False)
    shutil.copy(INSIDE / "test_splits.py", project / "tests")
    done = run(project, "-m pytest -q tests/test_splits.py", home=home)
    assert done.code == 0, done.out + done.err


@pytest.mark.slow
def test_few_examples_are_learned_from(bake, home):
    """Also by a run that goes on: it must find the same size of batches again."""
    tabular = bake(accept_hooks=False, task="tabular")
    flowers = load_iris()
    rows = ["a,b,c,d,label"]
    for cells, target in zip(flowers.data, flowers.target, strict=True):
        rows.append(f"{','.join(map(str, cells))},{flowers.target_names[target]}")
    (tabular / "iris.csv").write_text("\n".join(rows))
    text = bake(accept_hooks=False, task="text")
    random = np.random.default_rng(0)
    rows = ["text,label"]
    for number in range(60):
        words = random.choice(["lorem", "ipsum", "dolor", "sit", "amet"], 5)
        rows.append(f"{' '.join(words)} {'good' if number % 2 else 'bad'},{number % 2}")
    (text / "few.csv").write_text("\n".join(rows))
    short = (
        "train.py --data.path few.csv --model.width 8 --trainer.default_root_dir short --trainer.max_epochs 2"
    )
    iris, few, begun = run_in_turn(
        [(tabular, "train.py --data.path iris.csv"), (text, "train.py --data.path few.csv"), (text, short)],
        home=home,
    )
    assert accuracy(iris) >= 0.9, iris.err
    assert accuracy(few) >= 0.9, few.err
    assert begun.code == 0, begun.err
    (settings,) = (text / "short").glob("*/config.yaml")
    done = run(text, f"train.py --resume {settings.parent} --trainer.max_epochs 3", home=home)
    assert done.code == 0, done.err
    assert "epoch 2" in done.err


def accuracy(done) -> float:
    """Return the accuracy in the test that a run of train.py has printed."""
    return float(re.findall(r"^test/acc +([\d.]+)", done.out, re.M)[0])

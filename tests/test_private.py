"""What the machinery needs of a library beyond its public names is still there, and is in one file."""

import ast
import re
from argparse import ArgumentParser
from pathlib import Path

import pytest
from conftest import TEMPLATE
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric
from torch import nn
from torchmetrics import MeanMetric
from wandb.sdk.wandb_run import Run

PROJECT = TEMPLATE / "{{cookiecutter.project}}"
HARNESS = PROJECT / "{{cookiecutter.__package}}" / "harness"
PUBLIC = {"os._exit", "sys._current_frames"}  # in spite of their names: Python's manual has them


@pytest.fixture(scope="module")
def live() -> dict:
    """Return an object for each name of private.py that stands for one of a library."""
    trainer = Trainer(logger=False, enable_checkpointing=False, barebones=True)
    model = LightningModule()
    model.trainer = trainer
    return {
        "call": call,
        "metric": MeanMetric(),
        "model": model,
        "parser": ArgumentParser(),
        "module": nn.Linear(1, 1),
        "pl_module": model,
        "result": _ResultMetric(_Metadata("training_step", "loss"), is_tensor=True),
        "run": Run,
        "trainer": trainer,
    }


def parsed(file: Path) -> ast.Module:
    """Return the syntax of a Python file of the template."""
    text = re.sub(r"\{\{ ?cookiecutter\.__package ?\}\}", "my_project", file.read_text(encoding="utf-8"))
    return ast.parse(text)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def root(node: ast.expr) -> str:
    """Return the name with which `a.b.c` begins; nothing if it begins with anything else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def attributes(file: Path) -> list[ast.Attribute]:
    return [node for node in ast.walk(parsed(file)) if isinstance(node, ast.Attribute)]


def lost(file: Path, live: dict) -> list[str]:
    """Return the attributes in a file that the libraries installed here do not have."""
    found = []
    for node in attributes(file):
        name = ast.unparse(node)
        if root(node) in live:
            try:
                eval(name, live)
            except AttributeError:
                found.append(name)
        elif is_private(node.attr):
            found.append(f"{name}: `live` has no object for it")
    return found


def test_no_attribute_is_lost(live):
    assert lost(HARNESS / "private.py", live) == []


def test_an_attribute_that_is_lost_is_named(live, tmp_path):
    file = tmp_path / "private.py"
    file.write_text("trainer.fit_loop._restarting = False\ntrainer.fit_loop._gone = 1\nother._x = 1\n")
    assert lost(file, live) == ["trainer.fit_loop._gone", "other._x: `live` has no object for it"]


def used(file: Path) -> list[str]:
    """Return the private names of libraries that a file uses: those that it does not define itself."""
    tree = parsed(file)
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and root(node) == "self":
            own.add(node.attr)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            mine = root(node) == "self" and node.attr in own
            if not mine and ast.unparse(node) not in PUBLIC:
                found.append(f"{file.name}: {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in [*node.module.split("."), *(alias.name for alias in node.names)]:
                if is_private(name):
                    found.append(f"{file.name}: import {name}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value):
                found.append(f"{file.name}: {ast.unparse(node)}")
    return found


def test_no_other_file_uses_a_private_attribute(tmp_path):
    files = [*PROJECT.glob("*.py"), *HARNESS.glob("*.py"), *TEMPLATE.glob("templates/**/*.py")]
    files.remove(HARNESS / "private.py")
    assert len(files) > 25
    found = []
    for file in files:
        found += used(file)
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "self.trainer.fit_loop._results",
        "trainer._data_connector",
        "from torch.utils._pytree import tree_flatten",
        "from lightning.pytorch.trainer.call import _call_callback_hooks",
        "self._lost",
        'getattr(trainer, "_results")',
    ],
)
def test_a_private_attribute_elsewhere_is_found(line, tmp_path):
    file = tmp_path / "file.py"
    file.write_text(f"{line}\nself._mine = 1\nprint(self._mine, os._exit)\n")
    assert len(used(file)) == 1

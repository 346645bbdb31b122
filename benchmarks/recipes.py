"""What each recipe reaches with the command in its README: `python benchmarks/recipes.py [NAME ...]`.

Each is laid over a new project of the image task and trained once, with W&B off. Seconds are from the start
of the process to its end. The table is Markdown; a row is printed as soon as it is known.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
NEEDS = {"streaming": "datasets", "torchvision": "torchvision"}
PACKAGES = ["torch", "lightning", "torchmetrics", "numpy"]


def new_project(folder: Path, recipe: str | None) -> Path:
    """Generate a project of the image task, with the files of a recipe in place of its own."""
    project = cookiecutter(
        str(ROOT),
        no_input=True,
        default_config=True,
        accept_hooks=False,
        output_dir=str(folder),
        extra_context={"project": "my-project", "task": "image"},
    )
    if recipe is not None:
        for file in (RECIPES / recipe).glob("*.py"):
            shutil.copy(file, Path(project, "my_project", file.name))
    return Path(project)


def flags_of(recipe: str) -> list[str]:
    """Return the flags of the first training in the README of a recipe."""
    readme = (RECIPES / recipe / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^python train\.py(.*)$", readme, re.MULTILINE)[1]
    return shlex.split(command, comments=True)


def train(project: Path, flags: list[str]) -> tuple[Path, float]:
    """Train; return the run's folder and the seconds from start to end.

    Raises:
        RuntimeError: If the training fails, with the end of what it wrote.
    """
    command = [sys.executable, "train.py", *flags]
    variables = os.environ | {"WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}
    start = time.monotonic()
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-1500:])
    (settings,) = project.glob("runs/*/config.yaml")
    return settings.parent, seconds


def result_of(run: Path) -> str:
    """Return the metrics of the test, or else the last ones of training and validation."""
    metrics = pd.read_csv(run / "metrics.csv").drop_duplicates("name", keep="last").set_index("name").value
    found = metrics[metrics.index.str.startswith("test/")]
    if found.empty:
        technical = r"time/|train/(?:lr|grad_norm)|.*_step$"
        found = metrics[~metrics.index.str.match(technical)]
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


def print_row(name: str, flags: list[str], result: str, seconds: float) -> None:
    """Print a row of the table, and let a reader of a file see it at once."""
    command = shlex.join(["python", "train.py", *flags])
    print(f"| {name} | `{command}` | {result} | {seconds:.0f} s |", flush=True)


def measure(name: str, folder: Path) -> None:
    """Train a recipe and print what it reaches; after the pretraining a classification as well."""
    project = new_project(folder / name, name)
    flags = flags_of(name)
    run, seconds = train(project, flags)
    print_row(name, flags, result_of(run), seconds)
    if name == "pretraining":
        for label, start in {
            "then from it": ["--model.init_from", str(run)],
            "the same from nothing": [],
        }.items():
            few = ["--trainer.max_epochs", "3"]
            run, seconds = train(new_project(folder / label, None), few + start)
            print_row(f"{name}: {label}", few, result_of(run), seconds)


def main() -> None:
    """Print the table of the recipes that are named, or of all."""
    names = sys.argv[1:] or sorted(path.name for path in RECIPES.iterdir() if path.is_dir())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{time.strftime('%Y-%m-%d')}; Python {platform.python_version()}, {versions}; {threads} threads\n")
    print("| recipe | command | result | start to end |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            missing = NEEDS.get(name)
            if missing and importlib.util.find_spec(missing) is None:
                print(f"| {name} | | not measured: needs {missing} | |", flush=True)
                continue
            measure(name, Path(folder))


if __name__ == "__main__":
    main()

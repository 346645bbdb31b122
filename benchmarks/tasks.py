"""The result of each task's default on real data, beside simple models on the same splits: one table.

`python benchmarks/tasks.py` measures all of `CASES` in cases.py, `--only questions spam` these. Data that do
not come with the project are in `--data FOLDER`, under the names that cases.py has for them. Each run is
`python train.py` in a project as it is generated, with `--data.path` and `--data.target`, and the flag of its
fold, split or seed.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cases import CASES, Case
from cookiecutter.main import cookiecutter
from run import machine

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
PACKAGES = ("torch", "lightning", "scikit-learn", "polars", "numpy")
RESULTS = "test/acc", "test/r2"
HEADER = """\
| data | result | simple models on the same splits | must reach | slowest run | within |
| --- | --- | --- | --- | --- | --- |"""


def project(task: str, folder: Path) -> Path:
    """Generate the project of a task, unless it is there, and return its folder."""
    place = folder / task / "my-project"
    if place.exists():
        return place
    cookiecutter(
        str(ROOT),
        no_input=True,
        extra_context={"task": task, "project": "my-project"},
        output_dir=str(place.parent),
        default_config=True,
        accept_hooks=False,
    )
    return place


def train(place: Path, flags: list[str]) -> tuple[float, float]:
    """Return the test result of train.py, and its seconds from start to end.

    Raises:
        RuntimeError: If it fails; with what it printed.
    """
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "train.py", *flags], cwd=place, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"train.py {' '.join(flags)}: {done.stderr[-2000:]}")
    run = max((place / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for _, name, value in csv.reader(file):
            if name in RESULTS:
                return float(value), seconds
    raise RuntimeError(f"train.py {' '.join(flags)}: there is no test result in {run}")


def simple_models(place: Path, flags: list[str]) -> dict[str, float]:
    """Return the test results of simple models on the split that these flags make."""
    settings = {}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        if flag.startswith("--data."):
            number = value.isdigit()
            settings[flag.removeprefix("--data.")] = int(value) if number else value
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks" / "simple_models.py", json.dumps(settings)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"simple models, {settings}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def all_flags(case: Case, source: Path, folder: Path) -> list[list[str]]:
    """Return the flags of each run of a case, and make its data in a new folder."""
    found = []
    paths = None
    if case.prepare is not None:
        folder.mkdir()
        paths = case.prepare(source, folder)
    for number, run in enumerate(case.runs):
        flags = [*case.flags, *run]
        if isinstance(paths, list):
            flags += ["--data.path", str(paths[number])]
        elif paths is not None:
            flags += ["--data.path", str(paths)]
        found.append(flags)
    return found


def mean_and_error(values: list[float]) -> str:
    """Return the mean, its standard error where there are several values, and the values."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    each = ", ".join(f"{value:.3f}" for value in values)
    return f"{np.mean(values):.3f} ± {error:.3f} ({each})"


def must_reach(case: Case, simple: dict[str, list[float]]) -> float:
    """Return what a case must reach: a number, or the better simple model minus one standard error."""
    if case.must != "simple":
        return float(case.must)
    best = max(simple.values(), key=np.mean)
    return float(np.mean(best) - np.std(best, ddof=1) / np.sqrt(len(best)))


def row(case: Case, source: Path, folder: Path) -> str:
    """Train and test all runs of a case, and return its row of the table."""
    place = project(case.task, folder)
    results = []
    seconds = []
    simple: dict[str, list[float]] = {}
    for flags in all_flags(case, source, Path(tempfile.mkdtemp(dir=folder)) / "data"):
        result, duration = train(place, flags)
        print(
            f"{case.title}: {result:.4f} in {duration:.0f} s, {' '.join(flags)}", file=sys.stderr, flush=True
        )
        results.append(result)
        seconds.append(duration)
        for name, score in simple_models(place, flags).items():
            simple.setdefault(name, []).append(score)
    shown = [f"{name} {mean_and_error(scores).partition(' (')[0]}" for name, scores in simple.items()]
    needed = must_reach(case, simple)
    reached = "" if np.mean(results) >= needed else ": missed"
    within = "" if case.within is None else f"{case.within} s"
    return (
        f"| {case.title} | {mean_and_error(results)} | {'; '.join(shown)} | {needed:.3f}{reached} "
        f"| {max(seconds):.0f} s | {within} |"
    )


def main() -> None:
    """Print the table, a row for each case; what goes on meanwhile goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=DATA, metavar="FOLDER", help="the folder of the real data"
    )
    parser.add_argument(
        "--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES)
    )
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{date.today()}; {machine()}; {packages}\n\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            case = CASES[name]
            if case.prepare is not None and name != "iris" and not arguments.data.is_dir():
                print(f"{name} is left out: there is no folder {arguments.data}", file=sys.stderr)
                continue
            print(row(case, arguments.data, Path(folder)), flush=True)


if __name__ == "__main__":
    main()

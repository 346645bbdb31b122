"""Reads what a run leaves: config.yaml, metrics.csv, state.yaml. Without PyTorch, so it starts at once."""

import csv
import functools
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times faster
SECTION = re.compile(r"^(?=\w+:)", re.MULTILINE)

# The first word of a metric's name says what it was measured on.
STAGES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

Curve = list[tuple[int, float]]  # steps and values


def read_settings(file: Path) -> dict[str, Any]:
    """Return the settings in a `config.yaml`, flat: `{"model.lr": 0.1, …}`.

    Raises:
        yaml.YAMLError, ValueError: If it does not hold settings.
        OSError: If it cannot be read.
    """
    text = file.read_text(encoding="utf-8")
    try:
        found = {}
        for section in SECTION.split(text):
            found.update(flat_section(section))
        return found
    except (yaml.YAMLError, ValueError):  # sections that refer to each other
        return flat_section(text)


@functools.lru_cache(maxsize=10_000)
def flat_section(text: str) -> dict[str, Any]:
    """Return settings of a part of a `config.yaml`; most parts are the same in many runs."""
    settings = yaml.load(text, LOADER)
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ValueError("it holds no settings")
    return flat(settings)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted names."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def read_rows(file: Path) -> Iterator[list[str]]:
    """Yield the rows of a `metrics.csv` as texts: step, name, value; none if there is no such file."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8", errors="replace") as lines, suppress(csv.Error):
        for row in csv.reader(lines):
            if len(row) == 3:
                yield row


def read_metrics(file: Path) -> Iterator[tuple[int, str, float]]:
    """Yield step, name and value of each row of a `metrics.csv`."""
    for step, name, value in read_rows(file):
        with suppress(ValueError):  # the names of the columns, or a row that was cut as the power went off
            yield int(step), name, float(value)


def read_last_values(file: Path, monitor: str | None) -> tuple[int, dict[str, float], list[float]]:
    """Return the last step in a `metrics.csv`, the last value of each name, and all values of one.

    It reads numbers only where they are needed: a thousand runs have a million rows.
    """
    last_rows: dict[str, list[str]] = {}
    monitored = []
    for row in read_rows(file):
        last_rows[row[1]] = row
        if row[1] == monitor:
            monitored.append(row[2])
    last_step = 0
    values = {}
    history = []
    for step, name, value in last_rows.values():
        with suppress(ValueError):
            last_step = max(last_step, int(step))
            values[name] = float(value)
    for value in monitored:
        with suppress(ValueError):
            history.append(float(value))
    return last_step, values, history


def read_curves(file: Path) -> dict[str, Curve]:
    """Return steps and values of each name in a `metrics.csv`."""
    curves: dict[str, Curve] = {}
    for step, name, value in read_metrics(file):
        curves.setdefault(name, []).append((step, value))
    return curves


def split_name(name: str) -> tuple[str, str]:
    """Split a name such as `val_loss_epoch` into what it was measured on, and the metric: "val", "loss".

    Where there are several loaders, the first has the number of the loader: "val 1". It is empty if the name
    does not say it.
    """
    name, _, loader = name.partition("/dataloader_idx_")
    metric = name.removesuffix("_step").removesuffix("_epoch")
    stage = ""
    for separator in "/_-.":
        word, _, rest = metric.partition(separator)
        if rest and word.lower() in STAGES:
            stage = STAGES[word.lower()]
            metric = rest
            break
    return f"{stage} {loader}".strip(), metric


def read_state(run: Path) -> dict[str, Any]:
    """Return what `state.yaml` says of a run: nothing if it is not there, or broken."""
    with suppress(OSError, ValueError, yaml.YAMLError):
        state = yaml.load((run / "state.yaml").read_text(encoding="utf-8"), LOADER)
        if isinstance(state, dict):
            return state
    return {}


def seconds_trained(run: Path, state: dict[str, Any]) -> float | None:
    """Return how long a run has trained, until its last line in metrics.csv; None if it is not known."""
    seconds = state.get("seconds")
    since = state.get("since")
    metrics = run / "metrics.csv"
    if since is not None and metrics.exists():
        return (seconds or 0) + max(0.0, metrics.stat().st_mtime - since)
    return seconds


def is_running(run: Path) -> bool:
    """Return whether a process, here or on another machine that shares the folder, has the run's lock."""
    file = run / ".lock"
    if not file.exists():
        return False
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a folder that can only be read: a run that has written just now is not over
        return time.time() - file.parent.stat().st_mtime < 60
    lock.release()
    return False

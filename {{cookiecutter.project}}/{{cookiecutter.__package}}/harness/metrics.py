"""The run's `metrics.csv`: what was logged, a row for each step and name."""

import csv
import os
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from .records import read_metrics


class MetricsFile(Logger):
    """Append what is logged to the run's `metrics.csv`, one row for each step and name.

    A value is left out if its name has a row of this step or a later one: Lightning adds `epoch` to
    everything that it logs, and numbers what is logged at validation steps from 0 in each epoch.
    Times are left out as well, so that equal runs have equal files.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.path = folder / "metrics.csv"
        self.last_steps: dict[str, int] | None = None  # of each name

    @property
    def name(self) -> None:
        """The name of a project: none."""
        return None

    @property
    def version(self) -> str:
        """The id of the run, whose end the progress bar shows."""
        return self.path.parent.name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row for each number; what has no step cannot be put into a row."""
        if step is None:
            return
        if self.last_steps is None:
            self.last_steps = {}
            remove_broken_row(self.path)
            for old_step, name, _ in read_metrics(self.path):
                self.last_steps[name] = old_step
        rows = []
        for name, value in metrics.items():
            is_new = step > self.last_steps.get(name, -1)
            if is_new and isinstance(value, Real) and not name.startswith("time/"):
                rows.append([step, name, value])
                self.last_steps[name] = step
        if not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(["step", "name", "value"])
            writer.writerows(rows)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's `config.yaml` has them."""


def remove_broken_row(file: Path) -> None:
    """Remove a last row that was cut when the power went off, so that the next one does not continue it."""
    if not file.exists():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(file, whole)

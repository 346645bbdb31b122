"""All runs of a project, read from their folders: what differs between them, and how good they are.

In a script or a notebook: `from <package>.harness.runs import table`.
"""

import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .errors import UserError, first_few
from .records import (
    LOADER,
    is_running,
    read_last_values,
    read_settings,
    read_state,
    seconds_trained,
    split_name,
)

if TYPE_CHECKING:
    from pandas import DataFrame

# Where a run lies and how W&B shows it says nothing of what was trained.
NO_DIFFERENCE = ("trainer.default_root_dir", "tracking.name", "tracking.notes", "tracking.tags")
ENDED = ("finished", "stopped early")  # how the state of a run begins whose numbers can be compared

Row = dict[str, Any]


@dataclass
class Run:
    """What the folder of a run says.

    Attributes:
        state: "running", "finished", "stopped early at epoch 7", "killed at step 120", "failed: …" and so on.
        seconds: How long it has trained, None if that is not known.
        settings: All settings, flat: `{"model.lr": 0.1, …}`.
        metrics: The last value of each metric; of the monitored one the best.
        monitor: The metric that decides which checkpoint is best; None if there is none.
        larger_is_better: Whether a large value of it is good.
    """

    path: Path
    created: float
    state: str
    seconds: float | None
    settings: dict[str, Any]
    metrics: dict[str, float]
    monitor: str | None
    larger_is_better: bool

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def has_ended(self) -> bool:
        return self.state.startswith(ENDED)

    def value(self, column: str) -> Any:
        """Return what stands in a column of the table: None if the run does not have it."""
        if column in ("id", "created", "state", "seconds"):
            return getattr(self, column)
        if column in self.metrics:
            return self.metrics[column]
        return self.settings.get(column)


@dataclass
class Runs:
    """The runs that a table shows.

    Attributes:
        problems: A line for each folder that could not be read as a run.
    """

    shown: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def columns(self) -> list[str]:
        """Return the columns of the table: settings that differ, monitored metrics, metrics of tests."""
        return ["id", "created", "state", "seconds", *self.differing_settings(), *self.results()]

    def differing_settings(self) -> list[str]:
        """Return the settings that are not the same in all runs, in the order of config.yaml."""
        names: dict[str, None] = {}
        for run in self.shown:
            names.update(dict.fromkeys(run.settings))
        differing = []
        for name in names:
            first = self.shown[0].settings.get(name, ...)
            same = all(run.settings.get(name, ...) == first for run in self.shown)
            if not same and name not in NO_DIFFERENCE:
                differing.append(name)
        return differing

    def results(self) -> list[str]:
        """Return the monitored metrics, then those of tests."""
        monitored = dict.fromkeys(run.monitor for run in self.shown if run.monitor in run.metrics)
        tests: set[str] = set()
        for run in self.shown:
            tests.update(name for name in run.metrics if split_name(name)[0].startswith("test"))
        return [*[name for name in monitored if name is not None], *sorted(tests - monitored.keys())]

    def known_columns(self) -> set[str]:
        """Return all that a column may be called."""
        known = {"id", "created", "state", "seconds"}
        for run in self.shown:
            known.update(run.settings, run.metrics)
        return known

    def refuse_unknown(self, columns: Iterable[str]) -> None:
        """Raise a UserError if a column is neither a setting nor a metric of any run."""
        known = self.known_columns()
        for name in columns:
            if name not in known and self.shown:
                raise UserError(
                    f"{name} is neither a setting nor a metric of these runs; metrics: "
                    f"{first_few(self.results(), 8)}; settings as in config.yaml, such as model.lr"
                )

    def keep(self, condition: str) -> None:
        """Keep the runs that have a value: `model.lr=0.01`, `state=failed`.

        Raises:
            UserError: If it is no condition, or no run has such a setting.
        """
        name, separator, text = condition.partition("=")
        if not separator:
            raise UserError(f"--filter takes NAME=VALUE, such as model.lr=0.01 (got {condition})")
        self.refuse_unknown([name])
        wanted = plain(yaml.load(text, LOADER))
        kept = []
        for run in self.shown:
            begins_so = name == "state" and run.state.startswith(text)
            if begins_so or plain(run.value(name)) == wanted:
                kept.append(run)
        self.shown = kept

    def sort(self, column: str) -> str:
        """Sort by a column, the best run first, those without a value last; return the order in words."""
        self.refuse_unknown([column])
        largest_first = self.is_larger_better(column)

        def place(run: Run) -> tuple:
            value = run.value(column)
            if is_number(value):
                return 0, -value if largest_first else value, ""
            return (2, 0, "") if value is None or isinstance(value, float) else (1, 0, str(value))

        self.shown.sort(key=place)
        return f"sorted by {column}, {'largest' if largest_first else 'smallest'} first"

    def is_larger_better(self, column: str) -> bool:
        """Return whether a metric is better if it is larger, as that is known of the monitored one.

        Of others, only those are called better if smaller whose name says that it is an error.
        """
        metric = split_name(column)[1]
        for run in self.shown:
            if run.monitor is not None and split_name(run.monitor)[1] == metric:
                return run.larger_is_better
        if not any(column in run.metrics for run in self.shown):
            return False  # a setting, an age
        errors = r"loss|err|mse|mae|rmse|perplexity|ppl|nll|entropy|cer|wer|fid|distance|time"
        return re.search(rf"(?<![a-z])(?:{errors})", metric.lower()) is None

    def rows(self, columns: list[str]) -> list[Row]:
        """Return the values of the table."""
        return [{name: run.value(name) for name in columns} for run in self.shown]

    def group(self, setting: str) -> tuple[list[str], list[Row]]:
        """Return columns and rows of a table with mean and standard deviation over the runs of each group.

        Runs that have not ended are left out.

        Args:
            setting: By which the runs are grouped, or the name of one group of W&B (`--tracking.group`).
        """
        ended = Runs([run for run in self.shown if run.has_ended])
        for run in self.shown:
            if not run.has_ended:
                self.problems.append(f"{run.id} is left out of its group: {run.state}")
        if not any(setting in run.settings for run in self.shown):
            names = {str(run.settings["tracking.group"]) for run in self.shown if group_of(run)}
            if setting not in names:
                raise UserError(
                    f"--group {setting} is neither a setting nor a group of these runs; "
                    f"groups: {first_few(sorted(names)) or 'none, see --tracking.group'}"
                )
            ended.shown = [run for run in ended.shown if str(group_of(run)) == setting]
            setting = "tracking.group"
        groups: dict[str, list[Run]] = {}
        for run in ended.shown:
            groups.setdefault(repr(run.value(setting)), []).append(run)
        rows = []
        for members in groups.values():
            row: Row = {setting: members[0].value(setting), "runs": len(members)}
            for name in ended.results():
                values = [run.metrics[name] for run in members if is_number(run.metrics.get(name))]
                row[name] = statistics.fmean(values) if values else None
                row[f"{name} ±"] = statistics.stdev(values) if len(values) > 1 else None
            rows.append(row)
        columns = [setting, "runs"]
        for name in ended.results():
            columns += [name, f"{name} ±"]
        return columns, rows


def table(folder: str | Path = "runs") -> "DataFrame":
    """Return a row for each run in a folder, newest first.

    The columns are those of `python runs.py`: id, when it was created, state, seconds of training, settings
    in which the runs differ, the best value of the monitored metric, and metrics of the test.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise UserError("table() needs pandas: pip install pandas") from error
    runs = read_runs(Path(folder))
    frame = pandas.DataFrame(runs.rows(runs.columns()), columns=runs.columns())
    frame["created"] = pandas.to_datetime(frame["created"], unit="s")
    return frame


def read_runs(folder: Path, chosen: Iterable[str | Path] = ()) -> Runs:
    """Read the runs in a folder, newest first; or those that are chosen, by their ids or their folders.

    Raises:
        UserError: If one that was chosen is not there.
    """
    runs = Runs()
    paths = []
    for name in chosen:
        paths.append(find_run(folder, str(name)))
    if not paths and folder.is_dir():
        paths = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in paths:
        if is_no_run(path):
            continue
        try:
            runs.shown.append(read_run(path))
        except (yaml.YAMLError, ValueError, OSError) as error:
            reason = str(getattr(error, "strerror", None) or getattr(error, "problem", None) or error)
            runs.problems.append(f"{path} is not a run: {' '.join(reason.split())[:200]}")
    runs.shown.sort(key=lambda run: (-run.created, run.id))
    return runs


def is_no_run(path: Path) -> bool:
    """Return whether a folder beside those of runs is known to be something else, such as W&B's files."""
    return path.name == "wandb" or path.name.startswith(".") or (path / "search.yaml").exists()


def find_run(folder: Path, name: str) -> Path:
    """Return the folder of a run, given as a path, as its id, or as the beginning or end of its id."""
    for path in (Path(name), folder / name):
        if name and path.is_dir():
            return path
    found = [path for path in folder.glob("*/") if path.name.startswith(name) or path.name.endswith(name)]
    if len(found) != 1:
        what = "several runs begin or end" if found else "no run begins or ends"
        raise UserError(f"{what} with {name} in {folder}; give the id of a run: python runs.py lists them")
    return found[0]


def read_run(path: Path) -> Run:
    """Read the folder of a run.

    Raises:
        yaml.YAMLError, ValueError, OSError: If it is not the folder of a run, or its settings are broken.
    """
    config = path / "config.yaml"
    if not config.exists():
        raise ValueError("it has no config.yaml")
    settings = read_settings(config)
    recorded = read_state(path)
    monitor = settings.get("checkpoint.monitor")
    larger = settings.get("checkpoint.mode") == "max"
    last_step, metrics, history = read_last_values(path / "metrics.csv", monitor)
    best = best_value(history, larger)
    if monitor is not None and best is not None:
        metrics[monitor] = best
    created = recorded.get("created") or config.stat().st_mtime
    state = state_in_words(path, recorded, last_step)
    seconds = seconds_trained(path, recorded)
    return Run(path, created, state, seconds, settings, metrics, monitor, larger)


def state_in_words(path: Path, recorded: dict[str, Any], last_step: int) -> str:
    """Return how far a run has come: what it has recorded, or what follows from a lock that nobody holds."""
    if recorded.get("finished"):
        early = re.match(r"early stopping at epoch \d+", str(recorded.get("training")))
        return early[0].replace("early stopping", "stopped early") if early else "finished"
    if is_running(path):
        return "running"
    if recorded.get("pruned") is not None:
        return f"pruned at step {last_step}"
    if recorded.get("failed"):
        return f"failed: {recorded['failed']}"
    if recorded.get("training"):
        return "killed in the test"
    if recorded.get("stopped") is not None:
        return f"stopped at step {recorded['stopped']}"
    return f"killed at step {last_step}"


def best_value(values: list[float], larger_is_better: bool) -> float | None:
    """Return the best of the values of a metric, leaving out those that are not finite."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return max(finite) if larger_is_better else min(finite)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> Any:
    """Return a value to compare with: 0.01 for the text 1e-2, which YAML does not take for a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def group_of(run: Run) -> str | None:
    """Return the group of a run in W&B."""
    return run.settings.get("tracking.group")


def duration(seconds: float | None) -> str:
    """Return a number of seconds in words, such as "2 h 5 min"."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d"

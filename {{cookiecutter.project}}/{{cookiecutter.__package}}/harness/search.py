"""Tries the settings of a sweep: each trial is an ordinary run of train.py, in a process of its own.

A search has a folder, `runs/search-<name>/`, which processes and machines may share. It has a file for each
trial, and the lock of each that somebody trains; all else is in the runs. A trial that is not over and whose
lock is free was left by a process that was killed: whoever comes first continues it.
"""

import random
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from .compare import number, print_table
from .errors import UserError, first_few
from .folder import command, shortened
from .optimize import draw_search, propose
from .records import LOADER, read_last_values, read_settings
from .runs import Row, best_value, read_run
from .sweep import Sweep, as_text, command_of
from .trials import RunningTrial, Trial

SECONDS = 0.2  # between two looks at the trials
MOST_FAILURES = 3  # in a row: then it is not the settings of a trial


class Search:
    """A search, which goes on where its folder says.

    Args:
        sweep: What is searched.
        name: The name of the search, and of the group of its runs in W&B.
        project: The folder of the project.
        runs: The folder of its runs.
        flags: Settings that all trials have.
        most_trials: How many trials there are in all; None for all of a grid.

    Raises:
        UserError: If the folder is that of another search.
    """

    def __init__(
        self, sweep: Sweep, name: str, project: Path, runs: Path, flags: list[str], most_trials: int | None
    ):
        self.sweep = sweep
        self.name = re.sub(r"[^\w.-]+", "-", name)
        self.project = project
        self.runs = runs
        self.flags = flags
        self.folder = runs / f"search-{self.name}"
        self.metric, self.maximize = self.what_is_best()
        self.program = self.find_program()
        self.searched = sweep.searched()
        self.given_up: set[int] = set()
        self.failures = 0
        self.grid = sweep.grid() if sweep.method == "grid" else []
        self.most_trials = most_trials or len(self.grid)
        if self.grid:
            self.most_trials = min(self.most_trials, len(self.grid))
        with self.lock():
            self.started = self.begin()

    def what_is_best(self) -> tuple[str, bool]:
        """Return the metric that is searched for: that of the sweep, or what the project monitors."""
        if self.sweep.metric is not None:
            return self.sweep.metric, self.sweep.maximize
        settings = read_settings(self.project / "config.yaml")
        monitor = settings.get("checkpoint.monitor") or "val/loss"
        return monitor, settings.get("checkpoint.mode") == "max"

    def find_program(self) -> Path:
        """Return the script of the trials."""
        program = self.project / self.sweep.program
        if not program.is_file():
            raise UserError(f"program {self.sweep.program} of the sweep is not in {self.project}")
        return program

    def lock(self) -> FileLock:
        """Return the lock with which trials are chosen."""
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def begin(self) -> str:
        """Write down what is searched, or compare it with what was; return when the search began."""
        file = self.folder / "search.yaml"
        known = dict(self.sweep.content)
        for key in ("run_cap", "description"):  # these may change
            known.pop(key, None)
        if not file.exists():
            started = time.strftime("%Y%m%d-%H%M%S")
            write_yaml(file, {"started": started, "flags": self.flags, "sweep": known})
            return started
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        if before["sweep"] != known:
            keys = before["sweep"].keys() | known.keys()
            changed = sorted(key for key in keys if before["sweep"].get(key) != known.get(key))
            raise UserError(
                f"the search {self.name} began with another sweep file: {first_few(changed)} changed; "
                "give --name NEW to begin another search, or put the file back"
            )
        if before["flags"] != self.flags:
            raise UserError(
                f"the search {self.name} began with {' '.join(before['flags']) or 'no settings'} "
                f"(got {' '.join(self.flags) or 'none'}); give the same, or --name NEW to begin another"
            )
        return before["started"]

    def trials(self) -> list[Trial]:
        """Return all trials of the search."""
        found = []
        for file in sorted((self.folder / "trials").glob("*.yaml")):
            found.append(Trial(**yaml.load(file.read_text(encoding="utf-8"), LOADER)))
        return found

    def write(self, trial: Trial) -> None:
        """Write the file of a trial."""
        write_yaml(self.folder / "trials" / f"{trial.number:05}.yaml", asdict(trial))

    def run_of(self, trial: Trial) -> Path:
        """Return the folder of the run of a trial."""
        return self.runs / trial.id

    def output_of(self, trial: Trial) -> Path:
        """Return the file with what the run of a trial prints."""
        return self.folder / "trials" / f"{trial.number:05}.txt"

    def history(self, trial: Trial) -> list[float]:
        """Return the values of the metric of a trial so far."""
        return read_last_values(self.run_of(trial) / "metrics.csv", self.metric)[2]

    def value(self, trial: Trial) -> float | None:
        """Return the best value of the metric of a trial."""
        return best_value(self.history(trial), self.maximize)

    def best(self, trials: list[Trial]) -> tuple[Trial, float] | None:
        """Return the best of the trials that are over, and its value."""
        best = None
        for trial in trials:
            value = self.value(trial) if trial.end in ("finished", "pruned") else None
            if value is None:
                continue
            if best is None or (value > best[1] if self.maximize else value < best[1]):
                best = trial, value
        return best

    def next_trial(self) -> "tuple[Trial, FileLock] | None":
        """Return a trial to be trained and its lock: one that somebody has left, or a new one."""
        with self.lock():
            trials = self.trials()
            for trial in trials:
                lock = self.claim(trial)
                if lock is not None:
                    return trial, lock
            if len(trials) >= self.most_trials or self.target_reached(trials):
                return None
            trial = self.new_trial(trials)
            self.write(trial)
            lock = self.claim(trial)
            assert lock is not None
            return trial, lock

    def claim(self, trial: Trial) -> FileLock | None:
        """Return the lock of a trial that is not over and that nobody trains."""
        if trial.end or trial.number in self.given_up:
            return None
        lock = FileLock(self.folder / "trials" / f"{trial.number:05}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def target_reached(self, trials: list[Trial]) -> bool:
        """Return whether a trial is as good as the sweep asks for."""
        best = self.best(trials)
        if best is None or self.sweep.target is None:
            return False
        return best[1] >= self.sweep.target if self.maximize else best[1] <= self.sweep.target

    def new_trial(self, trials: list[Trial]) -> Trial:
        """Return the next trial; what is drawn depends on its number and the name of the search only."""
        place = len(trials)
        generator = random.Random(f"{self.name} {place}")
        points: dict[str, float] = {}
        if self.grid:
            points = self.grid[place]
        elif self.sweep.method == "bayes":
            values = [self.history(trial) for trial in trials]
            points = propose(self.sweep, self.maximize, trials, values, generator.getrandbits(31))
        parameters = {}
        for name, parameter in self.sweep.parameters.items():
            if name not in points:
                points[name] = parameter.draw(generator)
            parameters[name] = parameter.value(points[name])
        return Trial(place, f"{self.started}-{self.name}-{place}", parameters, points)

    def command(self, trial: Trial) -> list[str]:
        """Return the command that trains a trial, or continues it."""
        run = self.run_of(trial)
        if (run / "config.yaml").exists():
            return [sys.executable, str(self.program), "--resume", str(run)]
        flags = [f"--tracking.group={self.name}", "--tracking.tags+=search", *self.sweep.flags, *self.flags]
        return command_of(self.sweep, self.program, trial.parameters, flags)

    def run(self, jobs: int) -> None:
        """Train trials, several at a time, until there is none left for this process.

        Raises:
            UserError: If one after the other fails.
        """
        active: list[RunningTrial] = []
        try:
            while True:
                chosen = self.next_trial() if len(active) < jobs else None
                if chosen is not None:
                    active.append(RunningTrial(self, *chosen, jobs))
                    continue
                if not active:
                    return
                time.sleep(SECONDS)
                for running in list(active):
                    if running.is_over():
                        active.remove(running)
                        self.report(running.trial)
        finally:
            if active:
                print("stopping: the trials that run are saved; the same command continues them", flush=True)
            for running in active:
                running.ask_to_stop()
            for running in active:
                running.wait()

    def report(self, trial: Trial) -> None:
        """Print the line of a trial that is over."""
        value = self.value(trial)
        words = [f"trial {trial.number}:"]
        for name in self.searched:
            words.append(f"{name}={as_text(trial.parameters[name])}")
        words.append("")
        if trial.end == "failed":
            self.failures += 1
            words.append(f"failed: {trial.reason}")
        elif trial.end == "":
            words.append(f"{trial.reason}; the same command continues it")
        else:
            self.failures = 0
            if value is None and self.sweep.metric is not None:
                raise UserError(
                    f"{self.run_of(trial)} has no {self.metric}, which the search needs; it has "
                    f"{first_few(logged_names(self.run_of(trial)), 10)}: name one of these as metric"
                )
            words.append("finished" if value is None else f"{self.metric} {number(value)}")
            if trial.end == "pruned":
                words.append(f"(ended after {trial.reason})")
        best = self.best(self.trials())
        if best is not None:
            words += ["", f"best {number(best[1])} (trial {best[0].number})"]
        print(" ".join(words), flush=True)
        if self.failures == MOST_FAILURES:
            raise UserError(
                f"{MOST_FAILURES} trials in a row failed; the last: {trial.reason[:200]}; "
                f"all it printed is in {shortened(str(self.output_of(trial)))}"
            )

    def summarize(self) -> None:
        """Print all trials, the best first, and how to train the best again; draw how the search went."""
        trials = self.trials()
        rows: list[Row] = []
        for trial in trials:
            rows.append(self.row(trial))
        names = dict.fromkeys(name for row in rows for name in row)

        def place(row: Row) -> float:
            value = row.get(self.metric)
            if value is None:
                return float("inf")
            return -value if self.maximize else value

        rows.sort(key=place)
        print_table(list(names), [{name: row.get(name) for name in names} for row in rows])
        best = self.best(trials)
        if best is None:
            return
        words = [f"--{name}={as_text(value)}" for name, value in best[0].parameters.items()]
        print(f"best           {shortened(str(self.run_of(best[0])))}")
        print(f"train it again {command('python', self.program, *self.sweep.flags, *self.flags, *words)}")
        print(f"mean of all    {command('python', self.project / 'runs.py', '--group', self.name)}")
        histories = [self.history(trial) for trial in trials]
        picture = self.folder / "search.png"
        draw_search(self.sweep, self.metric, self.maximize, trials, histories, picture)
        print(f"picture        {shortened(str(picture))}")

    def row(self, trial: Trial) -> Row:
        """Return the row of a trial in the last table."""
        row: Row = {"id": trial.id, "state": trial.end or "not finished", "seconds": None}
        for name in self.searched:
            row[name] = trial.parameters[name]
        row[self.metric] = self.value(trial)
        with suppress(OSError, ValueError, yaml.YAMLError):
            run = read_run(self.run_of(trial))
            row["state"] = run.state
            row["seconds"] = run.seconds
            for name, value in run.metrics.items():
                if name.startswith("test"):
                    row[name] = value
        if trial.end == "failed":
            row["state"] = f"failed: {trial.reason}"
        return row


def logged_names(run: Path) -> list[str]:
    """Return the names of what a run has logged."""
    return sorted(read_last_values(run / "metrics.csv", None)[1])


def write_yaml(file: Path, content: dict[str, Any]) -> None:
    """Write a file that others read: it takes its place once it is whole."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    part.replace(file)

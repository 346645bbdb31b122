"""A trial of a search: what its file says, and the process that trains it."""

from __future__ import annotations

import math
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from .folder import RunFolder
from .records import is_running, read_state

if TYPE_CHECKING:
    from .search import Search


@dataclass
class Trial:
    """A trial, as its file says.

    Attributes:
        points: Where in the range of each parameter its value lies, from 0 to 1, or the place of the value.
        end: How it ended: "finished", "pruned" or "failed"; empty as long as it is to be trained.
    """

    number: int
    id: str
    parameters: dict[str, Any]
    points: dict[str, float]
    end: str = ""
    reason: str = ""


class RunningTrial:
    """A trial that this process trains."""

    def __init__(self, search: Search, trial: Trial, lock: FileLock, jobs: int):
        self.search = search
        self.trial = trial
        self.lock = lock
        self.environment = environment(trial, jobs)
        self.process: subprocess.Popen | None = None
        self.rounds = 0  # of hyperband that it has passed
        self.pruned = False
        self.start()

    def start(self) -> None:
        """Start the run, or wait for it if it is still trained: the search that started it was killed."""
        if is_running(self.search.run_of(self.trial)):
            return
        with self.search.output_of(self.trial).open("ab") as output:
            self.process = subprocess.Popen(
                self.search.command(self.trial),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def is_over(self) -> bool:
        """Return whether the trial is over for this process, which is written down then."""
        run = self.search.run_of(self.trial)
        if self.process is None:
            if is_running(run):
                return False
            if read_state(run).get("finished"):
                return self.end("finished", "")
            self.start()
            return False
        code = self.process.poll()
        if code is None:
            self.prune_if_bad()
            return False
        if code == 0 and read_state(run).get("finished"):
            return self.end("finished", "")
        if self.pruned:
            RunFolder(run).note(pruned=self.rounds)
            return self.end("pruned", f"{len(self.search.history(self.trial))} values")
        if is_running(run):  # by a process that an earlier search has left
            self.process = None
            return False
        if code < 0 or code > 128:
            self.search.given_up.add(self.trial.number)
            return self.end("", f"killed by signal {abs(code) % 128}")
        return self.end("failed", self.last_words())

    def prune_if_bad(self) -> None:
        """End the run if it has come to a round of hyperband and is not good enough to go on."""
        hyperband = self.search.sweep.hyperband
        if hyperband is None or self.pruned:
            return
        history = self.small_is_good(self.search.history(self.trial))
        passed = len([number for number in hyperband.rounds if number <= len(history)])
        if passed <= self.rounds:
            return
        self.rounds = passed
        others = []
        for other in self.search.trials():
            others.append(self.small_is_good(self.search.history(other)))
        if hyperband.ends(history, others):
            self.pruned = True
            assert self.process is not None
            self.process.terminate()

    def small_is_good(self, history: list[float]) -> list[float]:
        """Return values of the metric so that small ones are good; NaN is as bad as can be."""
        sign = -1 if self.search.maximize else 1
        return [sign * value if math.isfinite(value) else math.inf for value in history]

    def end(self, how: str, reason: str) -> bool:
        """Write down how the trial ended, and let others have it if it has not."""
        self.trial.end = how
        self.trial.reason = reason
        if how:
            self.search.write(self.trial)
        self.lock.release()
        return True

    def last_words(self) -> str:
        """Return the line that says why the run failed."""
        text = self.search.output_of(self.trial).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        if not lines:
            return "it printed nothing"
        return (errors or lines)[-1].removeprefix("error: ")[:400]

    def ask_to_stop(self) -> None:
        """Let the run save and leave: the search ends before its time."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait until the run has left, and let others have the trial."""
        if self.process is not None:
            self.process.wait()
        self.lock.release()


def environment(trial: Trial, jobs: int) -> dict[str, str]:
    """Return the environment of a trial: its id, and its share of the cores."""
    variables = {**os.environ, "WANDB_RUN_ID": trial.id}
    if jobs > 1:
        variables.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    return variables


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

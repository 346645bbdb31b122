"""Reads a sweep file in the format of W&B: what is searched, how, and with which command.

What cannot be done here as W&B does it is refused, so that `wandb sweep` and search.py mean the same.
"""

import json
import re
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, first_few
from .parameters import Choice, Parameter, Range, read_parameters, refuse_keys

METHODS = ("grid", "random", "bayes")
KEYS = {
    "command",
    "description",
    "early_terminate",
    "entity",
    "method",
    "metric",
    "name",
    "parameters",
    "program",
    "project",
    "run_cap",
}
COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass
class Hyperband:
    """After how many values of the metric a trial is compared with the others, and what it must reach."""

    rounds: list[int]
    eta: float
    strict: bool

    def ends(self, history: list[float], others: list[list[float]]) -> bool:
        """Return whether a trial is to end, as W&B decides it: it is not in the best 1/eta of a round.

        Args:
            history: The values of the trial so far; small ones are good.
            others: Those of all trials, with this one.
        """
        passed = [number for number in self.rounds if number <= len(history)]
        if not passed:
            return False
        last = passed[-1]
        values = sorted(other[last - 1] for other in others if len(other) >= last)
        threshold = values[int(len(values) / self.eta)]
        reached = history[last - 1] if self.strict else min(history)
        return reached > threshold


@dataclass
class Sweep:
    """What a sweep file says.

    Attributes:
        content: The file as it was read.
        parameters: What is searched, by the name of the setting: "model.lr".
        metric: The metric that is searched for, None to take what the runs monitor.
        target: The value of the metric at which the search ends.
    """

    content: dict[str, Any]
    name: str
    method: str
    program: str
    command: list[str]
    parameters: dict[str, Parameter]
    metric: str | None
    maximize: bool
    target: float | None
    run_cap: int | None
    hyperband: Hyperband | None
    flags: list[str] = field(default_factory=list)

    def searched(self) -> list[str]:
        """Return the parameters that have more than one value."""
        names = []
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Range) or len(parameter.values) > 1:
                names.append(name)
        return names

    def grid(self) -> list[dict[str, float]]:
        """Return all combinations of the values: of each parameter, the place of its value."""
        places = []
        for parameter in self.parameters.values():
            assert isinstance(parameter, Choice)
            places.append(range(len(parameter.values)))
        return [dict(zip(self.parameters, combination, strict=True)) for combination in product(*places)]


def read_sweep(file: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        UserError: If it is none, or asks for something that cannot be done here.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UserError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no sweep file: it needs method and parameters")
    content = with_numbers(content)
    unknown = sorted(str(key) for key in content if key not in KEYS)
    if unknown:
        raise UserError(
            f"{file}: search.py does not know {first_few(unknown)}; it knows {', '.join(sorted(KEYS))}"
        )
    method = content.get("method")
    if method not in METHODS:
        raise UserError(f"{file}: method must be one of {', '.join(METHODS)} (got {method})")
    parameters = read_parameters(content.get("parameters"), "")
    if not parameters:
        raise UserError(f"{file}: parameters must name at least one setting, such as model.lr")
    if method == "grid":
        for name, parameter in parameters.items():
            if isinstance(parameter, Range):
                parameters[name] = Choice(parameter.all_values(name))
    for name, parameter in parameters.items():
        if method == "bayes" and isinstance(parameter, Choice) and parameter.weights:
            raise UserError(f"{name}: probabilities are for method: random, not for bayes")
    metric, maximize, target = read_metric(content.get("metric"), method)
    run_cap = content.get("run_cap")
    if run_cap is not None and (not isinstance(run_cap, int) or run_cap < 1):
        raise UserError(f"{file}: run_cap must be a number of trials above 0 (got {run_cap})")
    hyperband = read_hyperband(content.get("early_terminate"))
    if hyperband is not None and metric is None:
        raise UserError(f"{file}: early_terminate compares the values of a metric; give metric a name")
    flags = []
    for key in ("project", "entity"):
        if content.get(key):
            flags.append(f"--tracking.{key}={content[key]}")
    return Sweep(
        content=content,
        name=str(content.get("name") or file.stem),
        method=method,
        program=str(content.get("program") or "train.py"),
        command=read_command(content.get("command")),
        parameters=parameters,
        metric=metric,
        maximize=maximize,
        target=target,
        run_cap=run_cap,
        hyperband=hyperband,
        flags=flags,
    )


def with_numbers(value: Any) -> Any:
    """Return what YAML has read with numbers such as 1e-4, which it takes for texts, as numbers."""
    if isinstance(value, dict):
        return {key: with_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_numbers(entry) for entry in value]
    if isinstance(value, str) and NUMBER.fullmatch(value) and re.search("[eE]", value):
        return float(value)
    return value


def read_metric(given: Any, method: str) -> tuple[str | None, bool, float | None]:
    """Return the name of the metric, whether it is maximized, and the value at which the search ends."""
    if given is None:
        if method == "bayes":
            raise UserError("method bayes needs a metric with a name and a goal")
        return None, False, None
    if not isinstance(given, dict) or not given.get("name"):
        raise UserError(f"metric needs a name, such as val/loss (got {given})")
    refuse_keys("metric", given, {"name", "goal", "target"})
    goal = given.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"metric: goal must be minimize or maximize (got {goal})")
    target = given.get("target")
    if target is not None and (not isinstance(target, int | float) or isinstance(target, bool)):
        raise UserError(f"metric: target must be a number (got {target})")
    return str(given["name"]), goal == "maximize", target


def read_hyperband(given: Any) -> Hyperband | None:
    """Return when trials are ended early."""
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise UserError(f"early_terminate must have type: hyperband (got {given})")
    refuse_keys("early_terminate", given, {"type", "min_iter", "max_iter", "s", "eta", "strict"})
    numbers = {"eta": 3, **given}
    for key in ("min_iter", "max_iter", "s", "eta"):
        number = numbers.get(key, 1)
        if not isinstance(number, int | float) or isinstance(number, bool) or number < 1:
            raise UserError(f"early_terminate: {key} must be a number of 1 or more (got {number})")
    eta = numbers["eta"]
    if eta <= 1:
        raise UserError(f"early_terminate: eta must be above 1 (got {eta})")
    rounds = []
    if "max_iter" in given and "s" in given:
        for bracket in range(1, int(given["s"]) + 1):
            rounds.append(int(given["max_iter"] / eta**bracket))
        rounds = [number for number in sorted(rounds) if number >= 1]
    elif "min_iter" in given:
        number = float(given["min_iter"])
        while number < 1e7:
            rounds.append(int(number))
            number *= eta
    if not rounds:
        raise UserError(
            f"early_terminate needs min_iter, or max_iter and s, that leave a round (got {given})"
        )
    return Hyperband(rounds, eta, bool(given.get("strict", False)))


def read_command(given: Any) -> list[str]:
    """Return the words of the command of a trial."""
    words = COMMAND if given is None else given
    if not isinstance(words, list):
        raise UserError(f"command must be a list of words (got {given})")
    for word in words:
        if "${" in str(word) and word not in COMMAND:
            raise UserError(f"command: search.py does not know {word}; it knows {', '.join(COMMAND)}")
    return [str(word) for word in words]


def command_of(sweep: Sweep, program: Path, parameters: dict[str, Any], flags: list[str]) -> list[str]:
    """Return the command of a trial.

    Args:
        flags: Flags before those of the parameters, which win.
    """
    command: list[str] = []
    for word in sweep.command:
        if word == "${interpreter}":
            command.append(sys.executable)
        elif word == "${program}":
            command.append(str(program))
        elif word == "${args}":
            command += flags
            for name, value in parameters.items():
                command.append(f"--{name}={as_text(value)}")
        elif word != "${env}":
            command.append(word)
    return command


def as_text(value: Any) -> str:
    """Return a value as the command line takes it: null for None, [8, 4] for a list."""
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)

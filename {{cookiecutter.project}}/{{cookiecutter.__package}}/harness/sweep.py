"""Reads a sweep file in the format of W&B: what is searched, how, and with which command.

What cannot be done here as W&B does it is refused, so that `wandb sweep` and search.py mean the same.
"""

import json
import math
import random
import re
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import yaml

from .errors import UserError, first_few

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
# What a distribution needs beside its name, and what it may have.
BOUNDS = {"min", "max"}
BELL = {"mu", "sigma"}
DISTRIBUTIONS: dict[str, tuple[set[str], set[str]]] = {
    "int_uniform": (BOUNDS, set()),
    "uniform": (BOUNDS, set()),
    "q_uniform": (BOUNDS, {"q"}),
    "log_uniform": (BOUNDS, set()),
    "log_uniform_values": (BOUNDS, set()),
    "q_log_uniform": (BOUNDS, {"q"}),
    "q_log_uniform_values": (BOUNDS, {"q"}),
    "inv_log_uniform": (BOUNDS, set()),
    "inv_log_uniform_values": (BOUNDS, set()),
    "normal": (set(), BELL),
    "q_normal": (set(), {*BELL, "q"}),
    "log_normal": (set(), BELL),
    "q_log_normal": (set(), {*BELL, "q"}),
}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass
class Choice:
    """A parameter that takes one of some values, each with its weight."""

    values: list[Any]
    weights: list[float] | None = None

    def draw(self, generator: random.Random) -> int:
        """Return a random point: the place of a value."""
        return generator.choices(range(len(self.values)), self.weights)[0]

    def value(self, point: float) -> Any:
        return self.values[int(point)]


@dataclass
class Range:
    """A parameter that takes numbers of a distribution.

    A point between 0 and 1 is the share of the numbers that are smaller.
    """

    distribution: str
    numbers: dict[str, float]

    def draw(self, generator: random.Random) -> float:
        """Return a random point."""
        return generator.random()

    def value(self, point: float) -> Any:
        """Return the number at a point, with six digits, or a multiple of `q`."""
        kind = self.distribution.removeprefix("q_")
        if kind == "int_uniform":
            low, high = int(self.numbers["min"]), int(self.numbers["max"])
            return min(high, low + int(point * (high + 1 - low)))
        exact = self.bell(kind, point) if kind.endswith("normal") else self.between(kind, point)
        if not self.distribution.startswith("q_"):
            return float(f"{exact:.6g}")
        return multiple(round(exact / self.numbers["q"]), self.numbers["q"])

    def between(self, kind: str, point: float) -> float:
        """Return the number at a point between two bounds."""
        low, high = self.numbers["min"], self.numbers["max"]
        if kind == "uniform":
            return low + point * (high - low)
        if kind.endswith("_values"):
            low, high = math.log(low), math.log(high)
        if kind == "inv_log_uniform":
            low, high = -high, -low
        return math.exp(low + point * (high - low))

    def bell(self, kind: str, point: float) -> float:
        """Return the number at a point of a normal distribution, or its exponential."""
        inside = min(max(point, 1e-9), 1 - 1e-9)
        number = self.numbers["mu"]
        if self.numbers["sigma"] > 0:
            number = NormalDist(self.numbers["mu"], self.numbers["sigma"]).inv_cdf(inside)
        return math.exp(number) if kind == "log_normal" else number

    def all_values(self, name: str) -> list[Any]:
        """Return the values that a grid has.

        Raises:
            UserError: If there are infinitely many.
        """
        low, high, q = self.numbers.get("min", 0), self.numbers.get("max", 0), self.numbers["q"]
        if self.distribution == "int_uniform":
            return list(range(int(low), int(high) + 1))
        if self.distribution == "q_uniform":
            return [multiple(step, q) for step in range(round(low / q), round(high / q) + 1)]
        raise UserError(
            f"{name}: a grid has no end with distribution {self.distribution}; "
            "give values, int_uniform or q_uniform, or method: random"
        )


def multiple(step: int, q: float) -> float:
    """Return a multiple of q: an integer if q is one."""
    return int(step * q) if float(q).is_integer() else float(f"{step * q:.10g}")


Parameter = Choice | Range


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


def read_parameters(given: Any, prefix: str) -> dict[str, Parameter]:
    """Return the parameters with dotted names; what is nested belongs to the name above it."""
    if not isinstance(given, dict):
        where = prefix.rstrip(".") or "the sweep file"
        raise UserError(f"parameters of {where} must be names of settings with values (got {given})")
    found: dict[str, Parameter] = {}
    for name, entry in given.items():
        full = f"{prefix}{name}"
        if not isinstance(entry, dict):
            raise UserError(f"{full}: give value, values, or min and max (got {entry})")
        if "parameters" in entry:
            refuse_keys(full, entry, {"parameters"})
            found.update(read_parameters(entry["parameters"], f"{full}."))
        else:
            found[full] = read_parameter(full, entry)
    return found


def read_parameter(name: str, entry: dict[str, Any]) -> Parameter:
    """Return a parameter as its entry describes it.

    Raises:
        UserError: If the entry is wrong, or its distribution is not known here.
    """
    distribution = entry.get("distribution") or usual_distribution(entry)
    if distribution == "constant":
        refuse_keys(name, entry, {"value"}, needed={"value"})
        return Choice([entry["value"]])
    if distribution in ("categorical", "categorical_w_probabilities"):
        refuse_keys(name, entry, {"values", "probabilities"}, needed={"values"})
        values = entry["values"]
        weights = entry.get("probabilities")
        if not isinstance(values, list) or not values:
            raise UserError(f"{name}: values must be a list of at least one value (got {values})")
        if weights is not None:
            check_weights(name, values, weights)
        return Choice(values, weights)
    if distribution not in DISTRIBUTIONS:
        raise UserError(
            f"{name}: search.py does not know distribution {distribution}; it knows constant, categorical, "
            f"{', '.join(DISTRIBUTIONS)}"
        )
    needed, optional = DISTRIBUTIONS[distribution]
    refuse_keys(name, entry, needed | optional, needed=needed)
    numbers = {"mu": 0.0, "sigma": 1.0, "q": 1}
    for key in (needed | optional) & entry.keys():
        number = entry[key]
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise UserError(f"{name}: {key} must be a number (got {number})")
        numbers[key] = number
    check_numbers(name, distribution, numbers)
    return Range(distribution, numbers)


def usual_distribution(entry: dict[str, Any]) -> str | None:
    """Return the distribution of an entry that names none, as W&B takes it."""
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical"
    if isinstance(entry.get("min"), int) and isinstance(entry.get("max"), int):
        return "int_uniform"
    if "min" in entry or "max" in entry:
        return "uniform"
    return None


def check_numbers(name: str, distribution: str, numbers: dict[str, float]) -> None:
    """Raise a UserError if the numbers of a distribution do not fit together."""
    if "min" in numbers and numbers["min"] > numbers["max"]:
        raise UserError(f"{name}: min must not be above max (got {numbers['min']} and {numbers['max']})")
    if distribution.endswith("_values") and numbers["min"] <= 0:
        raise UserError(f"{name}: min of {distribution} must be above 0 (got {numbers['min']})")
    if distribution == "int_uniform" and not (
        isinstance(numbers["min"], int) and isinstance(numbers["max"], int)
    ):
        raise UserError(f"{name}: min and max of int_uniform must be integers")
    if numbers["q"] <= 0 or numbers["sigma"] < 0:
        raise UserError(f"{name}: q must be above 0, and sigma not below")
    if distribution in ("log_uniform", "q_log_uniform", "inv_log_uniform") and numbers["max"] > 700:
        raise UserError(
            f"{name}: min and max of {distribution} are exponents, and e^{numbers['max']} is too large; "
            f"log_uniform_values takes the numbers themselves"
        )


def check_weights(name: str, values: list[Any], weights: Any) -> None:
    """Raise a UserError if probabilities do not fit to their values."""
    fits = isinstance(weights, list) and len(weights) == len(values)
    if not fits or not all(isinstance(weight, int | float) and weight >= 0 for weight in weights):
        raise UserError(
            f"{name}: probabilities must be {len(values)} numbers, one for each value (got {weights})"
        )
    if not math.isclose(sum(weights), 1, abs_tol=1e-3):
        raise UserError(f"{name}: probabilities must add up to 1 (got {sum(weights):.4g})")


def refuse_keys(name: str, entry: dict, known: set[str], needed: set[str] | None = None) -> None:
    """Raise a UserError if an entry has other keys than those that are known, or lacks one."""
    unknown = sorted(str(key) for key in entry.keys() - known - {"distribution"})
    missing = sorted((needed or set()) - entry.keys())
    kind = f" with distribution {entry['distribution']}" if "distribution" in entry else ""
    if unknown:
        raise UserError(
            f"{name}: {first_few(unknown)} is not possible{kind}; possible: {', '.join(sorted(known))}"
            + ("; q needs a distribution such as q_uniform" if "q" in unknown else "")
        )
    if missing:
        raise UserError(f"{name}: {first_few(missing)} is missing{kind}")


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

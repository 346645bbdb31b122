"""The parameters of a sweep: which values they may have, and how these are drawn."""

import math
import random
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from .errors import UserError, first_few

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

"""What Optuna does for a search: it proposes settings, and says which of them mattered."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .parameters import Choice
from .runs import best_value
from .sweep import Sweep

if TYPE_CHECKING:
    from .trials import Trial

LEAST_TRIALS = 5  # of which something can be said about importances
MISSING = "Optuna is not installed: pip install optuna"


def propose(
    sweep: Sweep, maximize: bool, trials: list[Trial], histories: list[list[float]], seed: int
) -> dict[str, float]:
    """Return a point for each parameter that may be better than those of the trials so far.

    The sampler is TPE (Bergstra et al. 2011). It knows of the trials that run now, and stays away from them.

    Raises:
        UserError: If Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(f"method bayes needs Optuna; {MISSING}, or choose method: random") from error
    study = make_study(sweep, maximize, trials, histories, optuna.samplers.TPESampler(seed=seed))
    return study.ask(distributions(sweep)).params


def make_study(
    sweep: Sweep, maximize: bool, trials: list[Trial], histories: list[list[float]], sampler: Any = None
) -> Any:
    """Return the search as a study of Optuna."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="maximize" if maximize else "minimize")
    states = optuna.trial.TrialState
    known = distributions(sweep)
    for trial, history in zip(trials, histories, strict=True):
        value = best_value(history, maximize)
        state = states.RUNNING
        if trial.end:
            state = states.FAIL if value is None else states.COMPLETE
        if trial.end == "pruned":
            state = states.PRUNED
        added = optuna.trial.create_trial(
            state=state,
            value=value if state == states.COMPLETE else None,
            params={name: trial.points[name] for name in known},
            distributions=known,
            intermediate_values=dict(enumerate(history)),
        )
        study.add_trial(added)
    return study


def distributions(sweep: Sweep) -> dict[str, Any]:
    """Return what each parameter that varies is for Optuna: a point from 0 to 1, or the place of a value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, Any] = {}
    for name in sweep.searched():
        parameter = sweep.parameters[name]
        if isinstance(parameter, Choice):
            found[name] = CategoricalDistribution(list(range(len(parameter.values))))
        else:
            found[name] = FloatDistribution(0.0, 1.0)
    return found


def importances(
    sweep: Sweep, maximize: bool, trials: list[Trial], histories: list[list[float]]
) -> dict[str, float]:
    """Return how much of the differences between the trials each parameter explains, by Optuna's fANOVA."""
    import optuna

    with warnings.catch_warnings(), suppress(ValueError, RuntimeError):  # too few trials, or equal values
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(make_study(sweep, maximize, trials, histories))
    return {}


def draw_search(
    sweep: Sweep,
    metric: str,
    maximize: bool,
    trials: list[Trial],
    histories: list[list[float]],
    picture: Path,
) -> None:
    """Draw the value of each trial and the best so far and, with Optuna, which parameters matter."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shares: dict[str, float] = {}
    if len(trials) >= LEAST_TRIALS and len(sweep.searched()) > 1:
        try:
            shares = importances(sweep, maximize, trials, histories)
        except ModuleNotFoundError:
            print(f"the picture is without the importances of the settings: {MISSING}")
    figure = Figure(figsize=(12 if shares else 6, 4), layout="constrained")
    axes = figure.add_subplot(1, 2 if shares else 1, 1, xlabel="trial", ylabel=metric)
    numbers = []
    values = []
    best = []
    for trial, history in zip(trials, histories, strict=True):
        value = best_value(history, maximize)
        if trial.end in ("finished", "pruned") and value is not None:
            numbers.append(trial.number)
            values.append(value)
            best.append(max(values) if maximize else min(values))
    axes.plot(numbers, values, "o", label="trial")
    axes.plot(numbers, best, drawstyle="steps-post", label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    if shares:
        axes = figure.add_subplot(1, 2, 2, xlabel="importance (fANOVA)")
        names = list(reversed(shares))
        axes.barh(names, [shares[name] for name in names])
    figure.savefig(picture)

"""learning_curves.png: what metrics.csv has of training, validation and test, a chart for each metric."""

import re
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .records import Curve, read_curves, split_name

# How the training was done, not what came of it.
NO_RESULT = re.compile(r"epoch|step|(lr|learning_rate|grad_norm)\d*|lr-.*|time/.*")
MOST_CHARTS = 24

Charts = dict[str, dict[str, Curve]]  # the curves of each metric, by what they were measured on

no_formulas = matplotlib.rc_context({"text.parse_math": False})  # a "$" in a name begins none


@no_formulas
def draw_learning_curves(run: Path) -> Path | None:
    """Draw what `metrics.csv` has: a chart for each metric, with training and validation in one.

    Returns:
        The picture, None if there is nothing to draw.
    """
    charts = arrange(read_curves(run / "metrics.csv"))
    if not charts:
        return None
    columns = min(len(charts), 4)
    rows = -(-len(charts) // columns)  # rounded up
    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    for number, (metric, curves) in enumerate(charts.items(), start=1):
        draw_chart(figure.add_subplot(rows, columns, number), metric, curves)
    picture = run / "learning_curves.png"
    figure.savefig(picture)
    return picture


def draw_chart(axes: Axes, metric: str, curves: dict[str, Curve]) -> None:
    """Draw the curves of one metric."""
    axes.set(xlabel="step", title=metric)
    for label, curve in sorted(curves.items()):
        steps, values = zip(*curve, strict=True)
        axes.plot(steps, values, ".-", label=label)
    if any(curves):
        axes.legend()


def arrange(curves: dict[str, Curve]) -> Charts:
    """Put the curves of each metric together, whatever the style of their names.

    `train/loss` and `val/loss`, `train_loss` and `val_loss`, `loss` and `valid_loss` are pairs. Of a metric
    that is logged both at steps and at the end of epochs, the epochs are shown. Pairs come first.
    """
    charts: Charts = {}
    of_steps = []
    for name, curve in curves.items():
        stage, metric = split_name(name)
        if stage.startswith("test") or NO_RESULT.fullmatch(metric):
            continue
        if name.endswith("_step"):
            of_steps.append((stage, metric, curve))
        else:
            charts.setdefault(metric, {})[stage] = curve
    for chart in charts.values():
        if "" in chart and len(chart) > 1:
            chart.setdefault("train", chart.pop(""))
    for stage, metric, curve in of_steps:
        chart = charts.setdefault(metric, {})
        if "" not in chart:
            chart.setdefault(stage, curve)
    pairs_first = sorted(charts.items(), key=is_alone)
    return dict(pairs_first[:MOST_CHARTS])


def is_alone(chart: tuple[str, dict[str, Curve]]) -> bool:
    """Return whether a metric has a single curve."""
    return len(chart[1]) == 1

"""Shows runs side by side: as a table of text, as CSV, and as compare.png."""

import csv
import math
import sys
import time
from pathlib import Path
from typing import Any

from .records import Curve, read_curves
from .runs import Row, Run, Runs, duration

MOST_CHARACTERS = 40  # of a cell
MOST_CURVES = 20  # in a chart: more could not be told apart
HEADINGS = {"created": "age", "seconds": "trained"}


def print_table(columns: list[str], rows: list[Row]) -> None:
    """Print rows with one line each, numbers to the right."""
    lines = [[HEADINGS.get(name, name) for name in columns]]
    for row in rows:
        lines.append([shown(name, row[name]) for name in columns])
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        cells = []
        for place, cell in enumerate(line):
            is_text = columns[place] in ("id", "state")
            cells.append(cell.ljust(widths[place]) if is_text else cell.rjust(widths[place]))
        print("  ".join(cells).rstrip())


def shown(column: str, value: Any) -> str:
    """Return a cell of the table as text."""
    if value is None:
        return ""
    if column == "created":
        return duration(max(0.0, time.time() - value))
    if column == "seconds":
        return duration(value)
    if isinstance(value, float):
        return number(value)
    text = " ".join(str(value).split())
    if len(text) > MOST_CHARACTERS:
        text = text[: MOST_CHARACTERS - 1] + "…"
    return text


def number(value: float) -> str:
    """Return a number with four digits that count, such as 0.0123 or 1.235e-05."""
    if not math.isfinite(value):
        return str(value)
    if 0.001 <= abs(value) < 1:
        return f"{value:.4f}"
    return f"{value:.4g}"


def print_csv(columns: list[str], rows: list[Row]) -> None:
    """Print rows as CSV, with numbers in full, times as seconds since 1970."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row[name] is None else row[name] for name in columns])


def draw_comparison(runs: Runs, picture: Path) -> Path | None:
    """Draw the curves of runs over each other: a chart for each metric, a color for each run.

    What was measured in training is dashed. Of many runs the first 20 are drawn.

    Returns:
        The picture, None if the runs have logged nothing that could be drawn.
    """
    # Not at the top: it takes as long as the whole table.
    from matplotlib.figure import Figure

    from .curves import arrange, no_formulas

    drawn = runs.shown[:MOST_CURVES]
    charts: dict[str, list[tuple[int, str, Curve]]] = {}
    for place, run in enumerate(drawn):
        for metric, curves in arrange(read_curves(run.path / "metrics.csv")).items():
            for stage, curve in curves.items():
                charts.setdefault(metric, []).append((place, stage, curve))
    if not charts:
        return None
    settings = Runs(drawn).differing_settings()
    labels = [label(run, settings) for run in drawn]
    columns = min(len(charts), 3)
    rows = -(-len(charts) // columns)  # rounded up
    with no_formulas:
        figure = Figure(figsize=(5 * columns, 4 * rows + 0.25 * len(drawn) + 0.6), layout="constrained")
        for number_of_chart, (metric, lines) in enumerate(charts.items(), start=1):
            axes = figure.add_subplot(rows, columns, number_of_chart, xlabel="step", title=metric)
            for place, stage, curve in lines:
                steps, values = zip(*curve, strict=True)
                style = "--" if stage.startswith("train") else "-"
                axes.plot(steps, values, style, color=f"C{place}" if len(drawn) <= 10 else color(place))
        handles = []
        for place in range(len(drawn)):
            handles += axes.plot([], [], color=f"C{place}" if len(drawn) <= 10 else color(place))
        title = "dashed: in training"
        figure.legend(handles, labels, loc="outside lower left", fontsize="small", title=title)
        figure.savefig(picture)
    return picture


def color(place: int) -> tuple[float, ...]:
    """Return one of twenty colors."""
    import matplotlib

    return matplotlib.colormaps["tab20"](place)


def label(run: Run, settings: list[str]) -> str:
    """Return what tells a run from the others: its id, and the settings in which they differ."""
    words = [run.id]
    for name in settings[:6]:
        if run.value(name) is not None:
            words.append(f"{name}={shown(name, run.value(name))}")
    return "  ".join(words)

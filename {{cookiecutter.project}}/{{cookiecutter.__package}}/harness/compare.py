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

    Returns:
        The picture, None if the runs have logged nothing that could be drawn.
    """
    # Not at the top: it takes longer than the table.
    from matplotlib import color_sequences
    from matplotlib.figure import Figure

    from .curves import no_formulas

    drawn = runs.shown[:MOST_CURVES]
    if len(drawn) < len(runs.shown):
        print(f"the picture has the first {len(drawn)} of {len(runs.shown)} runs")
    charts = gather_curves(drawn)
    if not charts:
        return None
    colors = color_sequences["tab10" if len(drawn) <= 10 else "tab20"]
    columns = min(len(charts), 3)
    rows = -(-len(charts) // columns)  # rounded up
    with no_formulas:
        figure = Figure(figsize=(5 * columns, 4 * rows + 0.25 * len(drawn) + 0.6), layout="constrained")
        for place, (metric, lines) in enumerate(charts.items(), start=1):
            axes = figure.add_subplot(rows, columns, place, xlabel="step", title=metric)
            for number_of_run, stage, curve in lines:
                steps, values = zip(*curve, strict=True)
                style = "--" if stage.startswith("train") else "-"
                axes.plot(steps, values, style, color=colors[number_of_run])
        settings = Runs(drawn).differing_settings()
        handles = []
        for run, color in zip(drawn, colors, strict=False):
            handles += axes.plot([], [], color=color, label=label(run, settings))
        title = "dashed: in training"
        figure.legend(handles=handles, loc="outside lower left", fontsize="small", title=title)
        figure.savefig(picture)
    return picture


def gather_curves(runs: list[Run]) -> dict[str, list[tuple[int, str, Curve]]]:
    """Return the curves of each metric: the place of the run, what was measured on, and the curve."""
    from .curves import arrange

    charts: dict[str, list[tuple[int, str, Curve]]] = {}
    for place, run in enumerate(runs):
        for metric, curves in arrange(read_curves(run.path / "metrics.csv")).items():
            for stage, curve in curves.items():
                charts.setdefault(metric, []).append((place, stage, curve))
    return charts


def label(run: Run, settings: list[str]) -> str:
    """Return what tells a run from the others: its id, and the settings in which they differ."""
    words = [run.id]
    for name in settings[:6]:
        if run.value(name) is not None:
            words.append(f"{name}={shown(name, run.value(name))}")
    return "  ".join(words)

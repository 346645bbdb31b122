"""Which columns of a table are used, what is known of them, and rows as the float32 that a network takes.

A column is described by a dict of plain values, which travels in the checkpoint: its name and, for numbers,
mean and standard deviation in training, edges of bins, and whether cells were missing there; for texts, the
values that are told apart. Of a date, each part is a column of numbers.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from .delimited import UNNAMED
from .errors import UserError, first_few
from .kinds import is_whole, list_setting

PARTS = ("year", "month", "day", "weekday", "hour")
MOST_BINS = 48
ROWS_IN_A_BIN = 40  # at least, or a bin would learn single rows by heart
ROWS_FOR_EDGES = 100_000  # more would make the start slower, and move the edges hardly at all


def choose_columns(
    table: pl.DataFrame,
    target: str,
    ignore: Sequence[str] | None,
    only: Sequence[str] | None,
    group: str | None,
) -> list[str]:
    """Return the names of the columns to learn from.

    Raises:
        UserError: If a column does not exist, or none is left.
    """
    ignore = ignore or []
    for setting, names in (("ignore", ignore), ("only", only or [])):
        for name in names:
            if name not in table.columns:
                columns = first_few([column[:40] for column in table.columns], 8)
                raise UserError(f"data.{setting}: there is no column {name}; choose from {columns}")
    chosen = []
    for name in table.columns:
        wanted = only is None or name in only
        if wanted and name not in (target, group, *ignore):
            chosen.append(name)
    if not chosen:
        raise UserError(f"no column is left to learn from besides {target}; see data.only and data.ignore")
    return chosen


def leave_out(
    table: pl.DataFrame, kinds: dict[str, dict], categories: list[str], notes: list[str]
) -> dict[str, dict]:
    """Return the kinds of the columns without those that say nothing, and name these.

    Args:
        table: The rows of training, their numbers read.
        kinds: What its columns are.
        categories: Columns of texts that are kept even if most texts occur once.
        notes: Gets a sentence on what is left out, and on numbers that may only name the row.
    """
    reasons: dict[str, list[str]] = {}
    kept = []
    identifiers = []
    for name in table.columns:
        cells = table[name]
        reason = why_left_out(cells, kinds[name]["kind"], name in categories)
        if reason:
            reasons.setdefault(reason, []).append(name)
        else:
            kept.append(name)
            if is_identifier(cells):
                identifiers.append(name)
    if not kept:
        reason, names = next(iter(reasons.items()))
        raise UserError(f"there is no column to learn from: {first_few(names)} left out {reason}")
    for reason, names in reasons.items():
        notes.append(f"left out, {reason}: {first_few(names)}")
    if identifiers:
        shown = first_few(identifiers)
        notes.append(
            f"warning: {shown}: whole numbers that differ in every row; if they only name it, "
            f"leave them out: --data.ignore {list_setting(identifiers[:5])}"
        )
    return {name: kinds[name] for name in kept}


def why_left_out(cells: pl.Series, kind: str, wanted: bool) -> str | None:
    """Return why a column says nothing, None if it may say something."""
    if kind == "nothing":
        return "since they hold no cells, or lists and other things that are neither numbers nor texts"
    known = cells.count()
    if known == 0:
        return "since they hold no cells"
    if kind == "number":
        if known == len(cells) and cells.min() == cells.max():
            return "since all rows have the same value"
        if is_row_number(cells):
            return "since they number the rows"
        return None
    counts = cells.drop_nulls().alias("text").value_counts()["count"]
    if known == len(cells) and len(counts) == 1:
        return "since all rows have the same value"
    if kind == "text" and not wanted and (counts == 1).sum() > 0.5 * known:
        return "since most of their texts occur in one row only"
    return None


def is_row_number(cells: pl.Series) -> bool:
    """Return whether cells are 0, 1, 2, … or 1, 2, 3, … or, without a name, differ in every row."""
    if cells.null_count() or len(cells) < 3 or cells[0] != int(cells[0]) or not is_whole(cells):
        return False
    name = cells.name.lower()
    if name.startswith((UNNAMED, "unnamed: ")) and cells.n_unique() == len(cells):
        return True
    return cells[0] in (0, 1) and bool((cells.diff().drop_nulls() == 1).all())


def is_identifier(cells: pl.Series) -> bool:
    """Return whether cells are whole numbers that differ in every row."""
    if cells.dtype != pl.Float64 or cells.null_count() or len(cells) < 20:
        return False
    if cells[0] != int(cells[0]) or not is_whole(cells):
        return False
    return cells.n_unique() == len(cells)


def describe(
    table: pl.DataFrame, kinds: dict[str, dict], max_categories: int, notes: list[str]
) -> list[dict]:
    """Return what the rows of training say about each column: numbers first, then texts.

    Args:
        table: Rows that `read_kinds` has read.
        kinds: What its columns are.
        max_categories: Most values of a column of texts that are told apart.
        notes: Gets a sentence on columns, on missing cells, and on values that are not told apart.
    """
    numbers = []
    texts = []
    parts = []
    rare = []
    for name in table.columns:
        kind = kinds[name]
        cells = table[name]
        if kind["kind"] == "number":
            numbers.append({"name": name, **scale(cells), **kind})
        elif kind["kind"] == "date":
            for part in PARTS:
                values = part_of(cells, part)
                if values.min() != values.max():
                    parts.append(
                        {"name": f"{name}.{part}", **scale(values), **kind, "of": name, "part": part}
                    )
        else:
            counts = cells.fill_null("").alias("text").value_counts().filter(pl.col("count") > 1)
            values = counts.sort(["count", "text"], descending=[True, False])["text"].to_list()
            if len(values) > max_categories:
                rare.append(f"{name} ({len(values)})")
            texts.append({"name": name, "values": values[:max_categories], **kind})
    if rare:
        notes.append(
            f"more values than data.max_categories {max_categories}; the rarer are alike: {first_few(rare)}"
        )
    note_columns(table, kinds, parts, notes)
    return numbers + parts + texts


def scale(numbers: pl.Series) -> dict:
    """Return mean and standard deviation of numbers, edges of their bins, and whether some are missing."""
    mean = numbers.mean()
    if mean is None:
        mean = 0.0
    described = {"mean": float(mean), "std": float(numbers.std(ddof=0) or 0) or 1.0, "edges": edges(numbers)}
    if numbers.null_count():
        described["missing"] = True
    return described


def edges(numbers: pl.Series) -> list[float]:
    """Return edges, in order, between which about equally many numbers lie; fewer where many are the same.

    They are float32, as the rows of a batch are, so that no bin is empty.
    """
    known = numbers.drop_nulls()
    step = max(1, len(known) // ROWS_FOR_EDGES)
    sample = known.gather_every(step).to_numpy()
    if len(sample) == 0:
        return [0.0]  # one edge, so no bin
    bins = min(MOST_BINS, max(2, len(sample) // ROWS_IN_A_BIN))
    quantiles = np.quantile(sample, np.linspace(0, 1, bins + 1), method="nearest")
    return np.unique(quantiles.astype(np.float32)).tolist()


def part_of(dates: pl.Series, part: str) -> pl.Series:
    """Return a part of dates as numbers; the hour with its minutes as decimals, Monday as 1."""
    if part == "hour":
        return dates.dt.hour() + dates.dt.minute() / 60
    return getattr(dates.dt, part)().cast(pl.Float64)


def note_columns(table: pl.DataFrame, kinds: dict[str, dict], parts: list[dict], notes: list[str]) -> None:
    """Say which columns are numbers, dates and texts, and how many of their cells are missing."""
    names: dict[str, list[str]] = {"number": [], "date": [], "text": []}
    for name in table.columns:
        names[kinds[name]["kind"]].append(name)
    said = []
    for kind, columns in names.items():
        if columns:
            plural = "" if len(columns) == 1 else "s"
            said.append(f"{len(columns)} {kind}{plural} ({first_few(columns)})")
    notes.append(f"learns from {', '.join(said)}")
    if parts:
        notes.append(f"dates become numbers: {first_few([part['name'] for part in parts], 8)}")
    counts = []
    for name in sorted(table.columns, key=lambda name: -table[name].null_count()):
        count = table[name].null_count()
        if count:
            counts.append(f"{name} {count}")
    if counts:
        notes.append(
            f"missing in {table.height} rows of training: {first_few(counts)}; numbers get the mean and a "
            "mark, texts a value of their own"
        )


def encode(table: pl.DataFrame, columns: list[dict]) -> np.ndarray:
    """Return rows that `read_kinds` has read as float32 (N, columns).

    A number is as it is, or NaN where it is missing. A text is its place among the values of its column, from
    1, and 0 if it is none of them.
    """
    encoded = []
    for place, column in enumerate(columns):
        cells = table[column.get("of", column["name"])]
        if "part" in column:
            cells = part_of(cells, column["part"])
        if "values" in column:
            values = column["values"]
            places = list(range(1, len(values) + 1))
            cells = cells.fill_null("").replace_strict(values, places, default=0, return_dtype=pl.Float32)
        encoded.append(cells.cast(pl.Float32).fill_null(float("nan")).alias(str(place)))
    return pl.DataFrame(encoded).to_numpy(order="c")


def kinds_of(columns: list[dict]) -> dict[str, dict]:
    """Return what `find_kinds` found, from the description of the columns, which has been to a checkpoint."""
    kinds = {}
    for column in columns:
        kind = {name: column[name] for name in ("kind", "format", "decimal") if name in column}
        kinds[column.get("of", column["name"])] = kind
    return kinds


def note_unknown(table: pl.DataFrame, rows: np.ndarray, columns: list[dict], notes: list[str]) -> None:
    """Count the values and the missing numbers that training does not know, in rows to predict on."""
    unknown = []
    empty = []
    for place, column in enumerate(columns):
        if "values" in column:
            new = rows[:, place] == 0
            if new.any():
                first = table[column["name"]][int(new.argmax())]
                unknown.append(f"{column['name']} in {new.sum()} of {len(rows)} rows ({str(first)[:40]})")
        elif not column.get("missing"):
            count = int(np.isnan(rows[:, place]).sum())
            if count:
                empty.append(f"{column['name']} in {count} of {len(rows)} rows")
    if unknown:
        notes.append(f"values never seen in training, or too rarely to be told apart: {first_few(unknown)}")
    if empty:
        notes.append(f"missing, though never in training, so the mean stands for it: {first_few(empty)}")


def strengths(rows: np.ndarray, targets: np.ndarray, columns: list[dict], classes: int) -> np.ndarray:
    """Return how much each column says of the targets, alone: 0 for nothing, 1 for all.

    It is the share of the targets' variance that a straight line explains for numbers, and the mean of each
    value for texts; of classes, that of the one that is explained best.

    Args:
        rows: What `encode` returns, (N, columns).
        targets: Places of classes, or numbers, (N,).
        columns: What the columns are.
        classes: Number of classes, 0 for numbers to predict.
    """
    wanted = targets.astype(float)[:, None]
    if classes:
        wanted = (targets[:, None] == np.arange(classes)).astype(float)
    wanted = wanted - wanted.mean(axis=0)
    total = np.maximum((wanted**2).sum(axis=0), 1e-12)
    found = np.zeros(len(columns))
    for place, column in enumerate(columns):
        cells = rows[:, place].astype(float)
        if "values" in column:
            groups = cells.astype(int)
            sizes = np.maximum(np.bincount(groups), 1)
            explained = np.zeros(wanted.shape[1])
            for number in range(wanted.shape[1]):
                explained[number] = (np.bincount(groups, wanted[:, number]) ** 2 / sizes).sum()
        else:
            scaled = np.nan_to_num((cells - column["mean"]) / column["std"])
            scaled -= scaled.mean()
            explained = (scaled @ wanted) ** 2 / max((scaled**2).sum(), 1e-12)
        found[place] = (explained / total).max()
    return found


def note_copies(strengths: dict[str, float], target: str, notes: list[str]) -> None:
    """Warn of columns that alone tell the target: it may be the same under another name."""
    copies = [name for name, strength in strengths.items() if strength > 0.999]
    if copies:
        notes.append(
            f"warning: {first_few(copies)} tells {target} in every row; if it is not known beforehand, "
            f"leave it out: --data.ignore {list_setting(copies[:5])}"
        )

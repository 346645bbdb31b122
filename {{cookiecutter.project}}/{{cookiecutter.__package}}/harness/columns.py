"""What a column of a table is: numbers, dates or texts; and rows as the float32 that a network takes.

A column is described by a dict of plain values, which travels in the checkpoint: its name and, for numbers, mean
and standard deviation in training, and whether cells were missing there; for texts, the values that are told
apart. Of a date, each part is a column of numbers.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from .cells import COMPACT, Numbers, look_like_words, read_dates, read_numbers
from .delimited import UNNAMED
from .errors import UserError, first_few
from .tables import texts_of

MOSTLY = 0.8  # share of numbers in a column from which on its other cells are taken for mistakes
PARTS = ("year", "month", "day", "weekday", "hour")
LARGEST = float(np.finfo(np.float32).max)
ZEROS = r"^[-+]?0\d"  # 007 is no number


def choose_columns(
    table: pl.DataFrame, target: str, ignore: Sequence[str], only: Sequence[str] | None, group: str | None
) -> list[str]:
    """Return the names of the columns to learn from.

    Raises:
        UserError: If a column does not exist, or none is left.
    """
    groups = [group] if group else []
    for setting, names in (("ignore", ignore), ("only", only or []), ("group", groups)):
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


# --- what the columns are -------------------------------------------------------------------------------------------


def find_kinds(
    table: pl.DataFrame,
    file: str,
    *,
    decimal: str | None,
    missing: list[str],
    categories: list[str],
    notes: list[str],
) -> tuple[dict[str, dict], pl.DataFrame]:
    """Return what the columns of training are, and the table of those that say something, its numbers read.

    A kind is {"kind": "number"}, {"kind": "date"} or {"kind": "text"}, perhaps with "decimal" or "format".

    Args:
        table: The rows of training.
        file: What errors call the table.
        decimal: The decimal sign where it is set.
        missing: Words that stand for a missing cell in numbers and dates.
        categories: Columns that are texts, even if they look like numbers.
        notes: Gets a sentence for what is not read as it stands.

    Raises:
        UserError: If a column of numbers has cells that are none, or that can be two.
    """
    kinds = {}
    texts = []
    for name, dtype in table.schema.items():
        if name in categories:
            kinds[name] = {"kind": "text"}
        elif dtype != pl.String:
            kinds[name] = {"kind": kind_of_type(dtype)}
        elif look_like_words(table[name]):
            kinds[name] = {"kind": "text"}
        else:
            texts.append(name)
    read = {}
    plain = table.select(pl.col(texts).cast(pl.Float64, strict=False))  # on all cores
    for name in texts:
        kinds[name], read[name] = kind_of_texts(table[name], plain[name], file, decimal, missing, notes)
    signs = {numbers.decimal for numbers in read.values() if numbers.decimal}
    if decimal is None and len(signs) == 1:
        (decimal,) = signs
    columns = []
    for name in table.columns:
        cells = table[name]
        if kinds[name]["kind"] == "number":
            if decimal:
                kinds[name]["decimal"] = decimal
            if name not in read or decimal == "," or read[name].unclear:
                read[name] = as_numbers(cells, file, decimal, missing)
            check_finite(read[name].values, cells, file)
            cells = read[name].values.alias(name)
        columns.append(cells)
    note_readings(read, notes)
    table = leave_out(pl.DataFrame(columns), kinds, categories, notes)
    return {name: kinds[name] for name in table.columns}, table


def kind_of_type(dtype: pl.DataType) -> str:
    """Return what a column is by the type that its file gives it."""
    if dtype.is_numeric() or dtype == pl.Duration:
        return "number"
    if dtype in (pl.Date, pl.Datetime, pl.Time):
        return "date"
    if dtype in (pl.Boolean, pl.String, pl.Categorical, pl.Enum):
        return "text"
    return "nothing"  # lists, contents of files, or no cell at all


def kind_of_texts(
    cells: pl.Series,
    plain: pl.Series,
    file: str,
    decimal: str | None,
    missing: list[str],
    notes: list[str],
) -> tuple[dict, Numbers]:
    """Return what a column is whose cells are stored as texts, and what they are as numbers.

    It is one of numbers if all of its cells are, or nearly all: then the others are mistakes.
    """
    numbers = read_numbers(cells, missing, decimal, plain)
    if numbers.wrong.any():
        cells = stripped(cells)
        numbers = read_numbers(cells, missing, decimal)
    right = numbers.values.count()
    wrong = int(numbers.wrong.sum())
    if numbers.unclear:
        return {"kind": "number"}, numbers
    if right + wrong == 0:
        return {"kind": "nothing"}, numbers
    if wrong == 0:
        if not is_whole(numbers.values):
            return {"kind": "number"}, numbers
        if cells.str.contains(ZEROS).any():
            notes.append(f"{cells.name}: texts, since some have leading zeros")
            return {"kind": "text"}, numbers
        if are_compact_dates(numbers.values):
            notes.append(f"{cells.name}: whole numbers such as {int(numbers.values.max())} are read as dates")
            return {"kind": "date", "format": COMPACT}, numbers
        return {"kind": "number"}, numbers
    dates = read_dates(cells, missing)
    if dates is not None and dates.wrong.sum() <= (1 - MOSTLY) * (right + wrong):
        if dates.wrong.any():
            raise wrong_cell(cells, dates.wrong, "date", file)
        if dates.other:
            example = cells.filter(dates.values.is_not_null())[0]
            notes.append(
                f"{cells.name}: dates such as {example} are read as {dates.format}, not {dates.other}"
            )
        return {"kind": "date", "format": dates.format}, numbers
    share = right / (right + wrong)
    odd = cells.filter(numbers.wrong)
    if share >= MOSTLY or (share >= 0.5 and odd.n_unique() <= 3):
        raise wrong_cell(cells, numbers.wrong, "number", file)
    if share > 1 - MOSTLY:
        total = right + wrong
        notes.append(
            f"{cells.name}: texts, since {wrong} of {total} cells are no numbers, such as {odd[0][:40]}"
        )
    return {"kind": "text"}, numbers


def wrong_cell(cells: pl.Series, wrong: pl.Series, kind: str, file: str) -> UserError:
    """Return the error that names the first cell that is not of the kind of its column."""
    row = int(wrong.arg_max() or 0)
    value = cells[row][:40]
    others = cells.filter(wrong)
    more = ""
    if len(others) > 1:
        more = f" (so are {len(others) - 1} more cells, such as {others[-1][:40]})"
    return UserError(
        f"{file}, row {row + 1}: {cells.name} is {value}, not a {kind}{more}; correct it, or take it for missing "
        f"with --data.missing '[\"{value}\"]', or all of the column for texts with --data.categories '[{cells.name}]'"
    )


def stripped(texts: pl.Series) -> pl.Series:
    """Return texts without spaces around them, null where nothing else is there."""
    return texts.str.strip_chars().replace("", None)


def is_whole(numbers: pl.Series) -> bool:
    """Return whether all numbers are whole."""
    known = numbers.drop_nulls()
    return bool((known == known.floor()).all())


def are_compact_dates(numbers: pl.Series) -> bool:
    """Return whether whole numbers are dates such as 20240131, all of them and more than one."""
    if numbers.min() < 1900_01_01 or numbers.max() > 2100_12_31 or numbers.min() == numbers.max():
        return False
    texts = numbers.drop_nulls().cast(pl.Int64).cast(pl.String)
    return texts.str.to_datetime(COMPACT, strict=False).null_count() == 0


# --- the cells, as what their columns are ---------------------------------------------------------------------------


def read_kinds(
    table: pl.DataFrame, kinds: dict[str, dict], file: str, *, missing: list[str], notes: list[str]
) -> pl.DataFrame:
    """Return the columns of these kinds: numbers as Float64, dates as Datetime, texts as String, null if missing.

    Args:
        table: Rows of training or others.
        kinds: What `find_kinds` has found in training.
        file: What errors call the table.
        missing: Words that stand for a missing cell in numbers and dates.
        notes: Gets a sentence for cells that are written otherwise than plain numbers.

    Raises:
        UserError: If columns are missing, or a cell is not of the kind of its column, or is infinite.
    """
    lacking = [name for name in kinds if name not in table.columns]
    if lacking:
        raise UserError(f"{file}: there is no column {first_few(lacking)}; training had it")
    found: dict[str, Numbers] = {}
    columns = []
    for name, kind in kinds.items():
        cells = table[name]
        if kind["kind"] == "number":
            found[name] = as_numbers(cells, file, kind.get("decimal"), missing)
            check_finite(found[name].values, cells, file)
            cells = found[name].values
        elif kind["kind"] == "date":
            cells = as_dates(cells, kind.get("format"), file, missing)
        else:
            cells = texts_of(table, name)
        columns.append(cells.rechunk().alias(name))
    note_readings(found, notes)
    return pl.DataFrame(columns)


def as_numbers(cells: pl.Series, file: str, decimal: str | None, missing: list[str]) -> Numbers:
    """Return the numbers of a column.

    Raises:
        UserError: If a cell is neither a number nor missing, or if it can be two numbers.
    """
    if cells.dtype == pl.String:
        numbers = read_numbers(cells, missing, decimal)
        if numbers.wrong.any():
            cells = stripped(cells)
            numbers = read_numbers(cells, missing, decimal)
        if numbers.unclear:
            cell = numbers.unclear
            raise UserError(
                f"{file}: {cells.name} has cells such as {cell}, which may be {cell.replace(',', '')} or "
                f"{cell.replace(',', '.')}; set --data.decimal . or --data.decimal ,"
            )
        if numbers.wrong.any():
            raise wrong_cell(cells, numbers.wrong, "number", file)
    elif kind_of_type(cells.dtype) == "number":
        if cells.dtype == pl.Duration:
            cells = cells.dt.total_microseconds() / 1e6
        values = cells.cast(pl.Float64).fill_nan(None)
        marks = (
            pl.Series(missing, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
        )  # such as -999
        values = values.set(values.is_in(marks.to_list()).fill_null(False), None)
        numbers = Numbers(values, values.is_null() & False, [])
    elif cells.null_count() == len(cells):
        empty = pl.Series(cells.name, [None] * len(cells), pl.Float64)
        numbers = Numbers(empty, empty.is_not_null(), [])
    else:
        raise UserError(f"{file}, row 1: {cells.name} is {str(cells[0])[:40]}, not a number")
    return numbers


def check_finite(numbers: pl.Series, cells: pl.Series, file: str) -> None:
    """Raise a UserError if a number is infinite, or too large for four bytes."""
    largest = numbers.abs().max()
    if largest is None or largest <= LARGEST:
        return
    row = int((numbers.abs() > LARGEST).arg_max() or 0)
    raise UserError(
        f"{file}, row {row + 1}: {cells.name} is {cells[row]}, no finite number; correct it, or take it for "
        f"missing with --data.missing '[\"{cells[row]}\"]'"
    )


def as_dates(cells: pl.Series, format: str | None, file: str, missing: list[str]) -> pl.Series:
    """Return the dates of a column as datetimes; times are of the first day of 2000.

    Raises:
        UserError: If a cell is neither a date nor missing.
    """
    if cells.dtype == pl.Time:
        return pl.Series([20000101] * len(cells)).cast(pl.String).str.to_date(COMPACT).dt.combine(cells)
    if cells.dtype in (pl.Date, pl.Datetime):
        dates = cells.cast(pl.Datetime("us", getattr(cells.dtype, "time_zone", None)))
        return dates.dt.replace_time_zone(None)
    if cells.dtype.is_numeric():
        cells = cells.cast(pl.Int64, strict=False)
    texts = stripped(cells.cast(pl.String))
    if format == COMPACT:
        values = texts.str.to_datetime(COMPACT, time_unit="us", strict=False)
        wrong = texts.is_not_null() & values.is_null()
        if not wrong.any():
            return values
    dates = read_dates(texts, missing, None if format == COMPACT else format)
    if dates is None:
        if texts.null_count() == len(texts):
            return texts.cast(pl.Datetime("us"))
        raise wrong_cell(texts, texts.is_not_null(), "date", file)
    if dates.wrong.any():
        raise wrong_cell(texts, dates.wrong, "date", file)
    return dates.values


def note_readings(found: dict[str, Numbers], notes: list[str]) -> None:
    """Say which words stand for missing numbers, and how what is not written as a plain number is read."""
    words: dict[str, list[str]] = {}
    written = []
    for name, numbers in found.items():
        for word in numbers.words:
            words.setdefault(word, []).append(name)
        if numbers.example:
            written.append((name, *numbers.example))
    if words:
        columns = list(dict.fromkeys(name for names in words.values() for name in names))
        notes.append(f"{first_few(words)} stands for a missing number in {first_few(columns)}")
    if written:
        name, text, value = written[0]
        more = ""
        if len(written) > 1:
            more = f", and alike in {first_few([other for other, _, _ in written[1:]])}"
        notes.append(f"{name}: {text} is read as the number {value:.15g}{more}")


# --- what is left out -----------------------------------------------------------------------------------------------


def leave_out(
    table: pl.DataFrame, kinds: dict[str, dict], categories: list[str], notes: list[str]
) -> pl.DataFrame:
    """Return a table that `read_kinds` has read without the columns that say nothing, and name those."""
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
            f"warning: {shown}: whole numbers that differ in every row; if they only name the row, leave them "
            f"out: --data.ignore '[{', '.join(identifiers[:5])}]'"
        )
    return table.select(kept)


def why_left_out(cells: pl.Series, kind: str, wanted: bool) -> str | None:
    """Return why a column says nothing, None if it may say something."""
    known = cells.drop_nulls()
    if kind == "nothing":
        return "since they hold no cells, or lists and other things that are neither numbers nor texts"
    if len(known) == 0:
        return "since they hold no cells"
    if len(known) == len(cells) and known.min() == known.max():
        return "since all rows have the same value"
    if kind == "number" and is_row_number(cells):
        return "since they number the rows"
    if kind == "text" and not wanted:
        counts = known.value_counts()["count"]
        if (counts == 1).sum() > 0.5 * len(known):
            return "since most of their texts occur in one row only"
    return None


def is_row_number(cells: pl.Series) -> bool:
    """Return whether cells are 0, 1, 2, … or 1, 2, 3, … or, without a name, differ in every row."""
    if cells.null_count() or len(cells) < 3 or not is_whole(cells):
        return False
    name = cells.name.lower()
    if name.startswith((UNNAMED, "unnamed: ")) and cells.n_unique() == len(cells):
        return True
    return cells[0] in (0, 1) and bool((cells.diff().drop_nulls() == 1).all())


def is_identifier(cells: pl.Series) -> bool:
    """Return whether cells are whole numbers that differ in every row."""
    if cells.dtype != pl.Float64 or cells.null_count() or len(cells) < 20 or not is_whole(cells):
        return False
    return cells.n_unique() == len(cells)


# --- rows for a network ---------------------------------------------------------------------------------------------


def describe(
    table: pl.DataFrame, kinds: dict[str, dict], max_categories: int, notes: list[str]
) -> list[dict]:
    """Return what the rows of training say about each column: numbers first, then texts.

    Args:
        table: Rows that `read_kinds` has read.
        kinds: What its columns are.
        max_categories: Most values of a column of texts that are told apart.
        notes: Gets a sentence on what the columns are, on missing cells, and on values that are not told apart.
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
            counts = cells.fill_null("").value_counts().filter(pl.col("count") > 1)
            counts = counts.sort(["count", counts.columns[0]], descending=[True, False])
            values = counts.to_series().to_list()
            if len(values) > max_categories:
                rare.append(f"{name} ({len(values)})")
            texts.append({"name": name, "values": values[:max_categories], **kind})
    if rare:
        notes.append(
            f"more values than data.max_categories {max_categories}, so the rarer are all alike: {first_few(rare)}"
        )
    note_columns(table, kinds, parts, notes)
    return numbers + parts + texts


def scale(numbers: pl.Series) -> dict:
    """Return mean and standard deviation of numbers, and whether some are missing."""
    mean = numbers.mean()
    if mean is None:
        mean = 0.0
    described = {"mean": float(mean), "std": float(numbers.std(ddof=0) or 0) or 1.0}
    if numbers.null_count():
        described["missing"] = True
    return described


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
    for kind, plural in (("number", "numbers"), ("date", "dates"), ("text", "texts")):
        if names[kind]:
            said.append(f"{len(names[kind])} {plural} ({first_few(names[kind])})")
    notes.append(f"learns from {', '.join(said)}")
    if parts:
        notes.append(f"dates become numbers: {first_few([part['name'] for part in parts], 8)}")
    counts = []
    for name in table.columns:
        count = table[name].null_count()
        if count:
            counts.append(f"{name} {count}")
    if counts:
        notes.append(
            f"missing in {table.height} rows of training: {first_few(counts)}; numbers get the mean and a mark, "
            "texts a value of their own"
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

"""What a column of a table is: numbers, dates or texts; and its cells, read as such.

The rows of training decide. Others are read as the same, and what does not fit is refused with row and value.
"""

import json
import re

import numpy as np
import polars as pl

from .cells import COMPACT, Numbers, look_like_words, missing_numbers, read_dates, read_numbers
from .errors import UserError, first_few
from .tables import texts_of

MOSTLY = 0.8  # share of numbers in a column from which on its other cells are taken for mistakes
AT_ONCE = 4  # columns that are read together
LARGEST = float(np.finfo(np.float32).max)
YAML_WORDS = ("yes", "no", "on", "off", "y", "n", "true", "false", "null")
ZEROS = r"^[-+]?0\d"  # 007 is no number


def find_kinds(
    table: pl.DataFrame,
    file: str,
    *,
    decimal: str | None,
    missing: list[str],
    categories: list[str],
    notes: list[str],
) -> tuple[dict[str, dict], pl.DataFrame]:
    """Return what the columns of training are, and the table with its numbers read.

    A kind is {"kind": "number"}, {"kind": "date"}, {"kind": "text"} or, for what cannot be used,
    {"kind": "nothing"}; perhaps with its "decimal" sign, or "format" of dates.

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
    kinds: dict[str, dict] = {}
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
    commas = table.select(pl.col(texts).str.contains(",", literal=True).any())
    may_have_decimal_commas = bool(texts) and (decimal == "," or True in commas.row(0))
    read = {}
    for start in range(0, len(texts), AT_ONCE):
        few = texts[start : start + AT_ONCE]
        plain = table.select(pl.col(few).cast(pl.Float64, strict=False)).rechunk()  # on all cores
        for name in few:
            cells = table[name]
            kinds[name], read[name] = kind_of_texts(cells, plain[name], file, decimal, missing, notes)
            if kinds[name]["kind"] == "number" and not may_have_decimal_commas:
                check_finite(read[name].values, cells, file)
                # Texts are let go as they are read, or a large table would be twice in memory.
                table = table.with_columns(read[name].values.alias(name))
    signs = {numbers.decimal for numbers in read.values() if numbers.decimal}
    if decimal is None and len(signs) == 1:
        (decimal,) = signs
    for name, kind in kinds.items():
        if kind["kind"] != "number":
            continue
        if decimal:
            kind["decimal"] = decimal
        cells = table[name]
        if may_have_decimal_commas or name not in read:
            read[name] = as_numbers(cells, file, decimal, missing)
            check_finite(read[name].values, cells, file)
            table = table.with_columns(read[name].values.rechunk().alias(name))
    note_readings({name: read[name] for name in table.columns if name in read}, notes)
    return kinds, table


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
    value = cells[row][:30]
    others = cells.filter(wrong)
    more = ""
    if len(others) > 1:
        more = f" (so are {len(others) - 1} more cells, such as {others[-1][:30]})"
    return UserError(
        f"{file}, row {row + 1}: {cells.name} is {value}, not a {kind}{more}; correct it, or take it for "
        f"missing with --data.missing {list_setting([value])}, or the column for texts with "
        f"--data.categories {list_setting([cells.name])}"
    )


def list_setting(names: list[str]) -> str:
    """Return names as the command line takes a list of them: '[a, b]', in quotes what YAML would misread."""
    words = []
    for name in names:
        plain = re.fullmatch(r"[^\W\d]\w*", name) and name.lower() not in YAML_WORDS
        words.append(name if plain else json.dumps(name, ensure_ascii=False))
    return f"'[{', '.join(words)}]'"


def stripped(texts: pl.Series) -> pl.Series:
    """Return texts without spaces around them, null where nothing else is there."""
    texts = texts.str.strip_chars()
    return texts.set(texts == "", None)


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


def read_kinds(
    table: pl.DataFrame, kinds: dict[str, dict], file: str, *, missing: list[str], notes: list[str]
) -> pl.DataFrame:
    """Return the columns of these kinds: numbers as Float64, dates as Datetime, texts as String.

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
        is_missing = values.is_in(missing_numbers(missing).to_list())
        values = values.set(is_missing.fill_null(False), None)
        numbers = Numbers(values, values.is_null() & False, [])
    elif cells.null_count() == len(cells):
        empty = pl.Series(cells.name, [None] * len(cells), pl.Float64)
        numbers = Numbers(empty, empty.is_not_null(), [])
    else:
        raise UserError(f"{file}, row 1: {cells.name} is {str(cells[0])[:40]}, not a number")
    return numbers


def check_finite(numbers: pl.Series, cells: pl.Series, file: str) -> None:
    """Raise a UserError if a number is infinite, or too large for four bytes."""
    if numbers.count() == 0 or (numbers.min() >= -LARGEST and numbers.max() <= LARGEST):
        return
    row = int((numbers.abs() > LARGEST).arg_max() or 0)
    raise UserError(
        f"{file}, row {row + 1}: {cells.name} is {cells[row]}, no finite number; correct it, or take it for "
        f"missing with --data.missing {list_setting([str(cells[row])])}"
    )


def as_dates(cells: pl.Series, format: str | None, file: str, missing: list[str]) -> pl.Series:
    """Return the dates of a column as datetimes; times are of the first day of 2000.

    Raises:
        UserError: If a cell is neither a date nor missing.
    """
    if cells.dtype == pl.Time:
        cells = cells.cast(pl.String)
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

"""Read your tables with Polars: CSV and other texts, JSON, Parquet and Excel files.

Compared with `datasets`, Polars reads a CSV four times as fast, needs no copy of it on disk, and does not
decide after the first rows what a column is. `datasets` is the way to the hub (hub.py).
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from .delimited import UNNAMED, as_utf8, looks_like_table, read_delimited
from .errors import UserError, first_few
from .files import SPLIT_NAMES, files_in
from .hub import class_names_of, tables_from_hub

TEXTS = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".tab.gz")
JSONS = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
PARQUETS = (".parquet", ".pq")
EXCELS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
ENDINGS = (*TEXTS, *JSONS, *PARQUETS, *EXCELS)
TARGETS = ("label", "labels", "target", "class", "category")  # usual names of the column of targets


def read_tables(
    path: str, *, separator: str | None = None, decimal: str | None = None, notes: list[str]
) -> dict[str, pl.DataFrame]:
    """Return the table of each split: "train", and "val" and "test" where files are called so.

    Args:
        path: A file, a folder of files, or the name of a data set on the Hugging Face hub.
        separator: What is between two cells of a text; None: it is recognised.
        decimal: The decimal sign; see `read_table`.
        notes: Gets a sentence for what is worth knowing.

    Raises:
        UserError: If there is nothing at `path`, or it cannot be read.
    """
    root = Path(path)
    if not root.exists():
        return tables_from_hub(path)
    tables = {}
    for split, files in splits_of(table_files(root), root, notes).items():
        tables[split] = read_table(files, separator=separator, decimal=decimal, notes=notes)
    return tables


def splits_of(files: list[Path], root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Group files into "train", "val" and "test" by the first word of their file or folder; name the others.

    All of them are "train" if none is called so.
    """
    if root.is_file():
        return {"train": files}
    found: dict[str, list[Path]] = {}
    for file in files:
        place = file.relative_to(root).parts[0]
        word = re.split(r"[-_. ]", place.lower())[0]
        found.setdefault(SPLIT_NAMES.get(word, "none"), []).append(file)
    if "train" not in found:
        if len(files) > 1:
            names = first_few([file.relative_to(root) for file in files])
            notes.append(f"the rows of {len(files)} files are taken together: {names}")
        return {"train": files}
    others = found.pop("none", [])
    if others:
        names = first_few([file.relative_to(root) for file in others])
        notes.append(f"not used, since no split is called so: {names}")
    return found


def table_files(root: Path) -> list[Path]:
    """Return the tables in a folder, or the file itself.

    Files without a known ending are tables if their content is one, and there are no others.

    Raises:
        UserError: If there are none.
    """
    if root.is_file():
        return [root]
    try:
        return files_in(root, ENDINGS)
    except UserError:
        others = []
        for file in sorted(root.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
            if file.is_file() and not hidden and looks_like_table(file):
                others.append(file)
        if not others:
            raise
        return others


def read_table(
    files: list[Path], *, separator: str | None = None, decimal: str | None = None, notes: list[str]
) -> pl.DataFrame:
    """Return the rows of files that have the same columns, in whatever order.

    Cells of text files are texts, as they stand there, and null where they are empty; columns.py reads
    them as numbers, with the `decimal` sign that is given there.

    Raises:
        UserError: If a file cannot be read, has no rows, or lacks a column of the first one.
    """
    tables: list[pl.DataFrame] = []
    for file in files:
        table = _read_file(file, separator, notes)
        if not table.height or not table.width:
            raise UserError(f"{file} contains no row")
        if tables:
            table = _with_columns_of(tables[0], table, file, files[0], notes)
        tables.append(table)
    try:
        return pl.concat(tables, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{files[0]} and {files[1]} have columns of different types: {error}") from error


def ending(file: Path) -> str | None:
    """Return which of ENDINGS a file has, None for another."""
    for known in sorted(ENDINGS, key=len, reverse=True):
        if file.name.lower().endswith(known):
            return known
    return None


def find_column(table: pl.DataFrame, name: str | None, setting: str, usual: Sequence[str]) -> str:
    """Return the name of a column: the one that is given, or the only one that has a usual name.

    Raises:
        UserError: If there is no such column; it names the setting `data.<setting>` and the columns.
    """
    columns = first_few([column[:40] for column in table.columns], 8)
    if name is not None:
        if name not in table.columns:
            raise UserError(f"data.{setting}: there is no column {name}; choose from {columns}")
        return name
    found = [known for known in table.columns if known.lower() in usual]
    if len(found) != 1:
        problem = f"several columns are called {', '.join(usual)}"
        if not found:
            problem = f"no column is called {', '.join(usual)}"
        raise UserError(f"{problem}; set --data.{setting} to one of {columns}")
    return found[0]


def texts_of(table: pl.DataFrame, column: str) -> pl.Series:
    """Return a column as texts without spaces around them, null where a cell is missing or empty.

    A number is as it stands in the file, and True and False are written so.
    """
    cells = table[column]
    if cells.dtype == pl.Boolean:
        cells = cells.replace_strict({True: "True", False: "False"}, return_dtype=pl.String)
    texts = cells.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)


def _read_file(file: Path, separator: str | None, notes: list[str]) -> pl.DataFrame:
    kind = ending(file)
    if kind is None and not looks_like_table(file):
        raise UserError(f"{file} does not end in {', '.join(ENDINGS[:9])} …, and its content is no table")
    if kind in JSONS:
        return _read(read_json, file)
    if kind in PARQUETS:
        return _read(read_parquet, file)
    if kind in EXCELS:
        return _read(read_excel, file, notes)
    return read_delimited(file, separator, notes)


def _read(reader: Callable, file: Path, *arguments) -> pl.DataFrame:
    """Call a reader; what it cannot read is the user's mistake."""
    try:
        return reader(file, *arguments)
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{file} cannot be read, or contains no row: {reason[:200]}") from error


def read_json(file: Path) -> pl.DataFrame:
    """Return the rows of JSON lines, of an array of objects, or of an object of columns."""
    source = as_utf8(file, [])
    content = source if isinstance(source, bytes) else source.read_bytes()
    content = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if content.startswith(b"["):
        return pl.read_json(content, infer_schema_length=None)
    try:
        table = pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        table = pl.DataFrame()
    if table.height > 1 or not (table.is_empty() or any(kind.is_nested() for kind in table.dtypes)):
        return table
    columns = json.loads(content)
    if len(columns) == 1:
        (columns,) = columns.values()  # such as {"data": [...]}
    if isinstance(columns, list):
        return pl.DataFrame(columns, infer_schema_length=None)
    cells = {}
    for name, column in columns.items():
        cells[name] = list(column.values()) if isinstance(column, dict) else column
    return pl.DataFrame(cells, strict=False)


def read_parquet(file: Path) -> pl.DataFrame:
    """Return the rows of a Parquet file; classes that `datasets` has stored as numbers by their names."""
    table = pl.read_parquet(file)
    for column, names in class_names_of(pl.read_parquet_metadata(file)).items():
        table = table.with_columns(pl.col(column).replace_strict(dict(enumerate(names)), default=None))
    return table.rename(
        {name: f"{UNNAMED}{name}" for name in table.columns if name.startswith("__index_level")}
    )


def read_excel(file: Path, notes: list[str]) -> pl.DataFrame:
    """Return the rows of the first sheet of a workbook.

    Raises:
        UserError: If the package that reads it is not installed.
    """
    try:
        import fastexcel
    except ModuleNotFoundError as error:
        raise UserError(f"{file} needs a package: pip install fastexcel; or save it as CSV") from error
    try:
        sheets = fastexcel.read_excel(file).sheet_names
        table = pl.read_excel(file, infer_schema_length=None)
    except fastexcel.FastExcelError as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0][:200]}") from error
    if len(sheets) > 1:
        notes.append(f"{file.name}: the sheet {sheets[0]} is read; {first_few(sheets[1:])} not")
    return table


def _with_columns_of(
    first: pl.DataFrame, table: pl.DataFrame, file: Path, first_file: Path, notes: list[str]
) -> pl.DataFrame:
    """Return a table with the columns of the first one, in its order."""
    missing = [name for name in first.columns if name not in table.columns]
    if missing:
        raise UserError(f"{file} has no column {first_few(missing)}, which {first_file} has")
    more = [name for name in table.columns if name not in first.columns]
    if more:
        notes.append(f"{file.name}: {first_few(more)} left out, since {first_file.name} has no such column")
    return table.select(first.columns)

"""Read your tables with Hugging Face `datasets`: they are mapped into memory, not loaded whole.

Importing `datasets` takes a second, so each function does it for itself: only who needs it waits.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError
from .files import SPLIT_NAMES, by_split, files_in

if TYPE_CHECKING:
    from datasets import Dataset as Table

KINDS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
ENDINGS = tuple(KINDS)
TARGETS = ("label", "labels", "target", "class", "category")  # usual names of the column of targets


class Column(Sequence):
    """One column of a table, whose cells are read when they are asked for."""

    def __init__(self, table: "Table", name: str):
        self.table = table.select_columns([name])
        self.name = name

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index):
        """Return a cell; for a list of indices, a list of cells."""
        return self.table[index][self.name]

    def __iter__(self) -> Iterator:
        """Read the cells one after the other, which is faster than by index."""
        for row in self.table:
            yield row[self.name]

    def select(self, indices: Sequence[int]) -> "Column":
        """Return some of the cells, as a column that is still not read."""
        return Column(self.table.select(indices), self.name)


def read_tables(path: str, **csv) -> dict[str, "Table"]:
    """Return the table of each split: "train", and "val" and "test" where files are called so.

    Args:
        path: A file, a folder of files, or the name of a data set on the Hugging Face hub.
        csv: Options of `pandas.read_csv`.

    Raises:
        UserError: If there is nothing at `path`, or it cannot be read.
    """
    root = Path(path)
    if not root.exists():
        return _from_hub(path)
    tables = {}
    for split, files in by_split(files_in(root, ENDINGS), root).items():
        tables[split] = read_table(files, **csv)
    return tables


def read_table(files: list[Path], **csv) -> "Table":
    """Return the rows of CSV, JSON lines or Parquet files; pandas gets the options `csv`.

    Raises:
        UserError: If a file cannot be read, with the line that is not UTF-8 if that is the reason.
    """
    if "notes" in csv:  # stand-in
        import polars

        return polars.read_csv(files[0]) if files[0].suffix == ".csv" else polars.read_ndjson(files[0])
    import datasets

    datasets.disable_progress_bars()
    kind = KINDS.get(files[0].suffix.lower())
    if kind is None:
        raise UserError(f"{files[0]} does not end in {', '.join(KINDS)}")
    names = [str(file) for file in files]
    try:
        if kind == "csv":
            table = datasets.Dataset.from_csv(names, **csv)
        elif kind == "json":
            table = datasets.Dataset.from_json(names)
        else:
            table = datasets.Dataset.from_parquet(names)
    except Exception as error:  # datasets wraps what pandas, pyarrow and the file system raise
        if kind != "parquet":
            _check_utf8(files)
        reason = error.__cause__ or error
        raise UserError(f"{files[0]} cannot be read, or contains no row: {reason}") from error
    return _undecoded(table)


def table_of(columns: dict) -> "Table":
    """Return a table with these columns, each a list or an array."""
    import datasets

    return datasets.Dataset.from_dict(columns)


def files_in_tables(path: str, target: str | None, notes=None) -> dict[str, tuple[Sequence, list]]:
    """Return for each split the images or sounds that its table contains, and their labels.

    Raises:
        UserError: If it contains none, or more than one column of them.
    """
    import datasets

    found: dict[str, tuple[Sequence, list]] = {}
    for split, table in read_tables(path).items():
        media = []
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image | datasets.Audio):
                media.append(name)
        if not media:
            raise UserError(
                f"{path} contains no images or sounds; give a folder that has a folder for each class"
            )
        if len(media) > 1:
            raise UserError(f"{path} has several columns of images or sounds ({', '.join(media)}); keep one")
        labels = column_values(table, find_column(table, target, "target", TARGETS), path)
        found[split] = Column(table, media[0]), labels
    return found


def texts_of(table, column: str):
    """Stand-in: return a column as texts."""
    import polars

    return table[column].cast(polars.String).str.strip_chars().replace("", None)


def find_column(table: "Table", name: str | None, setting: str, usual: Sequence[str]) -> str:
    """Return the name of a column: the one that is given, or the only one that has a usual name.

    Raises:
        UserError: If there is no such column; it names the setting `data.<setting>` and the columns.
    """
    columns_of = getattr(table, "column_names", None) or table.columns  # stand-in
    columns = ", ".join(columns_of)
    if name is not None:
        if name not in columns_of:
            raise UserError(f"data.{setting}: there is no column {name}; choose from {columns}")
        return name
    found = [known for known in columns_of if known.lower() in usual]
    if len(found) != 1:
        problem = f"several columns are called {', '.join(usual)}"
        if not found:
            problem = f"no column is called {', '.join(usual)}"
        raise UserError(f"{problem}; set --data.{setting} to one of {columns}")
    return found[0]


def column_values(table: "Table", column: str, file: str | Path) -> list:
    """Return all values of a column; classes that are stored as numbers by their names.

    Raises:
        UserError: If there is no such column or no row in the file, or if a value is missing.
    """
    if column not in table.column_names:
        raise UserError(f"{file}: there is no column {column}, only {', '.join(table.column_names)}")
    if len(table) == 0:
        raise UserError(f"{file} contains no row")
    values = table[column][:]
    for row, value in enumerate(values, 1):
        if value is None or value != value:
            raise UserError(f"{file}, row {row}: {column} is missing")
    names = getattr(table.features[column], "names", None)
    if names:
        return [names[value] for value in values]
    return values


def _undecoded(table: "Table") -> "Table":
    """Leave images and sounds as the files they are: they are decoded when a batch needs them."""
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            table = table.cast_column(name, type(feature)(decode=False))
    return table


def _from_hub(name: str) -> dict[str, "Table"]:
    if not re.fullmatch(r"[\w-]+(/[\w.-]+)?", name) or Path(name).suffix.lower() in KINDS:
        raise UserError(f"there is no file or folder {name}")
    import datasets

    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # of the network, of the hub, of the name
        raise UserError(f"there is no file or folder {name}, and the hub says: {error}") from error
    tables = {}
    for split, table in found.items():
        if split in SPLIT_NAMES:
            tables[SPLIT_NAMES[split]] = _undecoded(table)
    if "train" not in tables:
        raise UserError(f"{name} has no split called train, only {', '.join(found)}")
    return tables


def _check_utf8(files: list[Path]) -> None:
    """Raise a UserError that names the first line that is not UTF-8, if there is one."""
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{file}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8"
                    ) from error

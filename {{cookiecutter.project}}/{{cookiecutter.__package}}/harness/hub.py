"""Read data sets of the Hugging Face hub, by its package `datasets`: `pip install datasets`.

Importing it takes a second, so each function does it for itself: only who needs it waits.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from .errors import UserError, first_few
from .files import SPLIT_NAMES

if TYPE_CHECKING:
    from datasets import Dataset as Table


class Column(Sequence):
    """One column of a table that lies on disk, whose cells are read when they are asked for."""

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


def tables_from_hub(name: str) -> dict[str, pl.DataFrame]:
    """Return the table of each split of a data set on the hub.

    Raises:
        UserError: If there is neither a file nor a data set of this name, or no package to read it.
    """
    return {split: with_names(table) for split, table in _splits(name).items()}


def media_from_hub(name: str) -> dict[str, tuple[dict[str, Sequence], pl.DataFrame]]:
    """Return what `media_of` returns for each split of a data set on the hub."""
    found = {}
    for split, table in _splits(name).items():
        media, others = media_of(table)
        found[split] = media, with_names(others)
    return found


def media_of(table: "Table") -> tuple[dict[str, Sequence], "Table"]:
    """Return the columns of images or sounds, left on disk and not decoded, and a table of the others."""
    import datasets

    media: dict[str, Sequence] = {}
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            undecoded = table.cast_column(column, type(feature)(decode=False))
            media[column] = Column(undecoded, column)
    return media, table.remove_columns(list(media))


def with_names(table: "Table") -> pl.DataFrame:
    """Return a table in memory, with the names of classes that are stored as numbers."""
    columns = pl.from_arrow(table.with_format("arrow")[:])
    assert isinstance(columns, pl.DataFrame)
    for column, feature in table.features.items():
        names = getattr(feature, "names", None)
        if names:
            named = pl.col(column).replace_strict(dict(enumerate(names)), default=None)
            columns = columns.with_columns(named)
    return columns


def class_names_of(metadata: dict[str, str]) -> dict[str, list[str]]:
    """Return the names of classes that `datasets` has stored as numbers in a Parquet file."""
    described: Any = json.loads(metadata.get("huggingface", "{}"))
    features = described.get("info", {}).get("features", {})
    names = {}
    for column, feature in features.items():
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names[column] = feature["names"]
    return names


def _splits(name: str) -> dict[str, "Table"]:
    """Return the tables of "train", and of "val" and "test" if there are any."""
    if not re.fullmatch(r"[\w-]+(/[\w.-]+)?", name):
        raise UserError(f"there is no file or folder {name}")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError(
            f"there is no file or folder {name}; to look for it on the Hugging Face hub: pip install datasets"
        ) from error
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # of the network, of the hub, of the name
        raise UserError(f"there is no file or folder {name}, and the hub says: {error}") from error
    tables = {}
    for split, table in found.items():
        if split in SPLIT_NAMES:
            tables[SPLIT_NAMES[split]] = table
    if "train" not in tables:
        raise UserError(f"{name} has no split called train, only {first_few(found)}")
    return tables

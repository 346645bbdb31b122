"""Labels of files: from a table beside or above them, or else from the names of their folders."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .errors import UserError, first_few
from .files import (
    SPLIT_NAMES,
    Folder,
    classes_in,
    ending_of,
    groups_of,
    list_folder,
    note_others,
    only_folder,
    place_below,
    split_of,
)
from .hub import media_from_hub
from .splits import select
from .tables import ENDINGS as TABLE_ENDINGS
from .tables import TARGETS, find_column, read_table, read_tables, texts_of
from .targets import find_targets

LABEL_TABLES = ("metadata", "labels", "label", "annotations", "targets")  # their names without the ending
SPLIT_COLUMNS = ("split", "subset", "partition")

Labels = list[str] | np.ndarray
Examples = tuple[Sequence, Labels]


@dataclass
class LabelTable:
    """Rows that name files, without the column of their names.

    Attributes:
        path: The table that they are from.
        rows: A row for each file.
        files: Its path.
    """

    path: str
    rows: pl.DataFrame
    files: list[str]

    @property
    def name(self) -> str:
        return Path(self.path).name

    def select(self, rows: np.ndarray) -> "LabelTable":
        """Return some of the rows, by their indices."""
        return LabelTable(self.path, self.rows[rows], select(self.files, rows))


def labelled_files(
    root: str,
    endings: Sequence[str],
    *,
    target: str | None,
    regression: bool | None,
    class_folder: str | None,
    group: str | None,
    skip: bool,
    notes: list[str],
) -> tuple[dict[str, Examples], list | None]:
    """Return files and labels of each split, and the group of each training file if groups are asked for.

    The labels are in a table such as labels.csv, beside the files or above them, with a column that names
    the files. Without one they are the names of folders, as in `class_folders`.

    Args:
        root: The folder.
        endings: Those of the files that are wanted.
        target: Column of the labels; None: the one that is called so, or the only one beside the files.
        regression: Whether the labels are numbers; None: of those in a table as `find_targets` decides.
        class_folder: Where folders lie in folders, whether the "outer" or the "inner" one names the class.
        group: Column of the groups, or a regular expression that finds them in the paths of the files.
        skip: Whether to leave out rows that name files which do not exist.
        notes: What was found is appended to it.

    Raises:
        UserError: If something of it is missing, or not clear.
    """
    top = list_folder(root, endings)
    tables = tables_of_labels(top, skip, notes)
    note_others(top, [table.path for table in tables.values()], notes)
    if not tables:
        found: dict[str, Examples] = {}
        for split, (files, names) in classes_in(top, class_folder, notes).items():
            found[split] = files, folder_numbers(names, root) if regression else names
        groups = groups_of(found["train"][0], root, group) if group else None
        return found, groups

    label = label_column(tables["train"], target, notes)
    tables = by_split_column(tables, label, notes)
    found = {}
    for split, (rows, labels) in targets_of(tables, label, regression, notes).items():
        tables[split] = tables[split].select(rows)
        found[split] = tables[split].files, labels
    train = tables["train"]
    groups = None
    if group in train.rows.columns:
        groups = texts_of(train.rows, str(group)).to_list()
    elif group is not None:
        groups = groups_of(train.files, root, group)
    return found, groups


def labelled_media(
    path: str, *, target: str | None, regression: bool | None, group: str | None, notes: list[str]
) -> tuple[dict[str, Examples], list | None]:
    """Return what `labelled_files` returns, for images or sounds that a table contains.

    Each of them is a dict of its content, "bytes", and of its name, "path".

    Args:
        path: A table, a folder of tables, or the name of a data set on the Hugging Face hub.
        target: Column of the labels; None: the one that is called so.
        regression: Whether the labels are numbers; None: as `find_targets` decides.
        group: Column of the groups.
        notes: What was found is appended to it.

    Raises:
        UserError: If there are none, or more than one column of them.
    """
    media: dict[str, Mapping[str, Sequence]] = {}
    tables: dict[str, pl.DataFrame] = {}
    if Path(path).exists():
        for split, table in read_tables(path, notes=notes).items():
            media[split], tables[split] = media_in(table), table
    else:
        for split, (on_disk, table) in media_from_hub(path).items():
            media[split], tables[split] = on_disk, table
    for columns in media.values():
        if not columns:
            raise UserError(
                f"{path} contains no images or sounds; give a folder that has a folder for each class, "
                "or a table such as labels.csv that names the files in it"
            )
        if len(columns) > 1:
            raise UserError(
                f"{path} has several columns of images or sounds ({first_few(columns)}); keep one"
            )
    label = find_column(tables["train"], target, "target", TARGETS)
    found: dict[str, Examples] = {}
    groups = None
    targets = find_targets(tables, label, path, regression=regression, decimal=None, missing=[], notes=notes)
    for split, (rows, labels) in targets.items():
        (files,) = media[split].values()
        found[split] = select(files, rows), labels
        if group is not None and split == "train":
            column = find_column(tables["train"], group, "group", [])
            groups = texts_of(tables["train"], column)[rows].to_list()
    return found, groups


def media_in(table: pl.DataFrame) -> dict[str, Sequence]:
    """Return the columns whose cells have the content of a file and its name, as `datasets` writes them."""
    media: dict[str, Any] = {}  # a series is no Sequence for a type checker
    for name, kind in table.schema.items():
        if isinstance(kind, pl.Struct) and {"bytes", "path"} <= {field.name for field in kind.fields}:
            media[name] = table[name]
    return media


def tables_of_labels(top: Folder, skip: bool, notes: list[str]) -> dict[str, LabelTable]:
    """Return for each split the table that names its files, nothing if there are none.

    Raises:
        UserError: If there are two for a split, or none for training.
    """
    folder: Folder | None = top
    while folder is not None:
        found: dict[str, LabelTable] = {}
        for split, scope, path in possible_tables(folder):
            table = rows_of_files(path, scope, skip, notes)
            if table is None:
                continue
            if split in found:
                raise UserError(f"both {found[split].name} and {table.name} name files; keep one of them")
            found[split] = table
        if found and "train" not in found:
            raise UserError(f"{folder.path} has labels for {first_few(found)}, but none for training")
        if found:
            names = first_few(dict.fromkeys(table.name for table in found.values()))
            notes.append(f"the labels are in {names}")
            note_unnamed(folder.all_files(), found, names, notes)
            return found
        folder = only_folder(folder)
    return {}


def possible_tables(folder: Folder) -> list[tuple[str, Folder, str]]:
    """Return the tables that may have labels: the split, the folder of its files, the path of the table.

    A table has a name such as labels.csv and is in the folder, or in those of its splits. Where there are no
    class folders any table in the folder is one; train.csv has the labels of the folder train.
    """
    found = []
    for path in tables_in(folder):
        if is_called_labels(path):
            found.append(("train", folder, path))
    if found:
        return found
    for inner in folder.folders:
        for path in tables_in(inner):
            if split_of(inner.name) != "none" and is_called_labels(path):
                found.append((split_of(inner.name), inner, path))
    if found or has_class_folders(folder):
        return found
    for path in tables_in(folder):
        split = split_of(Path(path).name)
        scope = folder
        for inner in folder.folders:
            if split != "none" and split_of(inner.name) == split:
                scope = inner
        found.append((split.replace("none", "train"), scope, path))
    return found


def tables_in(folder: Folder) -> list[str]:
    """Return the paths of the tables that lie in a folder itself."""
    names = [name for name in folder.others if name.lower().endswith(TABLE_ENDINGS)]
    return [f"{folder.path}{os.sep}{name}" for name in names]


def is_called_labels(path: str) -> bool:
    return Path(path).name.split(".")[0].lower() in LABEL_TABLES


def has_class_folders(folder: Folder) -> bool:
    """Return whether all files are in folders that may be classes, or in those of the splits."""
    full = [inner for inner in folder.folders if inner.has_files()]
    if folder.files or len(full) < 2:
        return False
    in_splits = [inner for inner in full if split_of(inner.name) != "none"]
    return len(in_splits) < len(full) or not any(inner.files for inner in in_splits)


def rows_of_files(path: str, folder: Folder, skip: bool, notes: list[str]) -> LabelTable | None:
    """Return the rows of a table that name files below a folder; None if no column does.

    Raises:
        UserError: If some of the files do not exist, unless `skip`, or one has two labels.
    """
    rows = read_table([Path(path)], notes=notes)
    files = folder.all_files()
    column, places = files_named_by(rows, files, folder.path)
    if column is None:
        notes.append(f"{Path(path).name} is not used: none of its columns names files")
        return None
    names = texts_of(rows, column).to_list()
    known = np.flatnonzero([place is not None for place in places])
    table = LabelTable(path, rows.drop(column), [place or "" for place in places]).select(known)
    lost = [name for name, place in zip(names, places, strict=True) if place is None]
    if lost and not skip:
        raise UserError(
            f"{path}: {len(lost)} of {len(names)} rows name files that are not in {folder.path}: "
            f"{first_few(lost, 3)}; remove the rows, or leave them out with --data.skip_unreadable true"
        )
    if lost:
        notes.append(f"{table.name}: {len(lost)} rows of missing files are left out: {first_few(lost, 3)}")
    return without_repeats(table)


def note_unnamed(files: list[str], tables: dict[str, LabelTable], names: str, notes: list[str]) -> None:
    """Say how many of the files are in none of the tables."""
    unnamed = set(files)
    for table in tables.values():
        unnamed.difference_update(table.files)
    if unnamed:
        examples = first_few([Path(file).name for file in sorted(unnamed)[:3]])
        notes.append(
            f"{len(unnamed)} of {len(files)} files are not in {names} and are left out, such as {examples}"
        )


def files_named_by(rows: pl.DataFrame, files: list[str], root: str) -> tuple[str | None, list[str | None]]:
    """Return the column that names files below a folder, and the path of each; None if there is none.

    The names may be paths below the folder, names of files wherever these are, or those without ending.
    """
    places = [place_below(root, file) for file in files]
    for part in (whole, without_ending, base, base_without_ending):
        by_name = {}
        for place, file in zip(places, files, strict=True):
            by_name[part(place)] = file
        if len(by_name) < len(files):
            continue  # two files have the same name
        for column in rows.columns:
            names = [tidy(name) for name in texts_of(rows, column).to_list()]
            some = names[:200]
            hits = {by_name.get(name) or by_name.get(part(name)) for name in some} - {None}
            if len(hits) > len(some) / 2:  # a label such as 1 may be the name of a file as well, but of one
                return column, [by_name.get(name) or by_name.get(part(name)) for name in names]
    return None, []


def tidy(name: str | None) -> str:
    """Return a path as it is written in a table with "/" between its parts."""
    return (name or "").replace("\\", "/").removeprefix("./")


def whole(path: str) -> str:
    return path


def without_ending(path: str) -> str:
    return path.removesuffix(ending_of(path))


def base(path: str) -> str:
    return path.rpartition("/")[2]


def base_without_ending(path: str) -> str:
    return without_ending(base(path))


def without_repeats(table: LabelTable) -> LabelTable:
    """Return the table with one row for each file.

    Raises:
        UserError: If the rows of a file differ.
    """
    repeated = [file for file, count in Counter(table.files).items() if count > 1]
    if not repeated:
        return table
    rows: dict[str, tuple] = {}
    kept = np.ones(len(table.files), dtype=bool)
    for index, (file, row) in enumerate(zip(table.files, table.rows.iter_rows(), strict=True)):
        if rows.setdefault(file, row) != row:
            raise UserError(
                f"{table.path} has different rows for {Path(file).name}; keep one row for each file "
                f"({len(repeated)} have more)"
            )
        kept[index] = rows[file] is row
    return table.select(np.flatnonzero(kept))


def label_column(table: LabelTable, target: str | None, notes: list[str]) -> str:
    """Return the column of the labels: the one that is given, has a usual name, or is the only one."""
    columns = [name for name in table.rows.columns if name.lower() not in SPLIT_COLUMNS]
    usual = [name for name in columns if name.lower() in TARGETS]
    if target is None and not usual and len(columns) == 1:
        notes.append(f"the column of the labels is {columns[0]}")
        return columns[0]
    return find_column(table.rows, target, "target", TARGETS)


def by_split_column(tables: dict[str, LabelTable], label: str, notes: list[str]) -> dict[str, LabelTable]:
    """Return the splits that a column such as `split` of the only table names, if it has one."""
    if len(tables) > 1:
        return tables
    table = tables["train"]
    for column in table.rows.columns:
        if column.lower() in SPLIT_COLUMNS and column != label:
            names = [SPLIT_NAMES.get(str(name).lower(), "none") for name in texts_of(table.rows, column)]
            if "none" in names or "train" not in names:
                continue
            notes.append(f"the splits are those in the column {column} of {table.name}")
            return {
                split: table.select(np.flatnonzero(np.array(names) == split))
                for split in dict.fromkeys(names)
            }
    return tables


def targets_of(
    tables: dict[str, LabelTable], label: str, regression: bool | None, notes: list[str]
) -> dict[str, tuple[np.ndarray, Labels]]:
    """Return for each split the rows that have a label, and the labels, as `find_targets` does."""
    rows = {split: table.rows for split, table in tables.items()}
    path = tables["train"].path
    return find_targets(rows, label, path, regression=regression, decimal=None, missing=[], notes=notes)


def folder_numbers(names: list[str], root: str) -> np.ndarray:
    """Return the names of class folders as numbers (N,).

    Raises:
        UserError: If one is no number.
    """
    numbers = {}
    for name in dict.fromkeys(names):
        try:
            numbers[name] = float(name)
        except ValueError as error:
            raise UserError(
                f"data.regression true: the folder {name} in {root} is not called by a number"
            ) from error
    return np.array([numbers[name] for name in names])

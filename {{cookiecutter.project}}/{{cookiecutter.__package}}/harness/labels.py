"""Labels of files: from a table beside or above them, or else from the names of their folders."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
from .tables import ENDINGS as TABLE_ENDINGS
from .tables import TARGETS, find_column, read_table, texts_of

if TYPE_CHECKING:
    from polars import DataFrame, Series

LABEL_TABLES = ("metadata", "labels", "label", "annotations", "targets")  # their names without the ending
SPLIT_COLUMNS = ("split", "subset", "partition")
FEW = 20  # whole numbers are classes if there are at most so many of them, and
FREQUENT = 5  # in the mean so many examples of each

Labels = list[str] | np.ndarray


@dataclass
class LabelTable:
    """Rows that name files, without the column of their names.

    Attributes:
        path: The table that they are from.
        rows: A row for each file.
        files: Its path.
    """

    path: str
    rows: "DataFrame"
    files: list[str]

    @property
    def name(self) -> str:
        return Path(self.path).name

    def select(self, kept: np.ndarray) -> "LabelTable":
        """Return the rows for which `kept`, bool (N,), is True."""
        files = [self.files[index] for index in np.flatnonzero(kept).tolist()]
        return LabelTable(self.path, self.rows.filter(kept), files)


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
) -> tuple[dict[str, tuple[list[str], Labels]], list[str] | None]:
    """Return files and labels of each split, and the group of each training file if groups are asked for.

    The labels are in a table such as labels.csv, beside the files or above them, with a column that names
    the files. Without one they are the names of folders, as in `class_folders`.

    Args:
        root: The folder.
        endings: Those of the files that are wanted.
        target: Column of the labels; None: the one that is called so, or the only one beside the files.
        regression: Whether the labels are numbers; None: as `are_numbers` decides.
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
        found: dict[str, tuple[list[str], Labels]] = {}
        for split, (files, names) in classes_in(top, class_folder, notes).items():
            found[split] = files, numbers_in(names, files) if regression else names
        groups = groups_of(found["train"][0], root, group) if group else None
        return found, groups

    label = label_column(tables["train"], target, notes)
    tables = by_split_column(tables, label, notes)
    for split, table in tables.items():
        tables[split] = with_labels(table, label, notes)
    train = tables["train"]
    numbers = are_numbers(train.rows[label], regression, notes)
    found = {}
    for split, table in tables.items():
        labels = class_labels(table.rows, label)
        found[split] = table.files, numbers_in(labels, table.files) if numbers else labels
    groups = None
    if group in train.rows.columns:
        groups = texts_of(train.rows, str(group)).fill_null("").to_list()
    elif group is not None:
        groups = groups_of(train.files, root, group)
    return found, groups


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
            names = [table.name for table in found.values()]
            notes.append(f"the labels are in {first_few(dict.fromkeys(names))}")
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
    known = np.array([place is not None for place in places])
    table = LabelTable(path, rows.drop(column), [place or "" for place in places]).select(known)
    lost = [name for name, place in zip(names, places, strict=True) if place is None]
    if lost and not skip:
        raise UserError(
            f"{path}: {len(lost)} of {len(names)} rows name files that are not in {folder.path}: "
            f"{first_few(lost, 3)}; remove the rows, or leave them out with --data.skip_unreadable true"
        )
    if lost:
        notes.append(f"{table.name}: {len(lost)} rows of missing files are left out: {first_few(lost, 3)}")
    table = without_repeats(table)
    unnamed = len(files) - len(table.files)
    if unnamed:
        notes.append(f"{unnamed} of {len(files)} files are not in {table.name} and are left out")
    return table


def files_named_by(rows: "DataFrame", files: list[str], root: str) -> tuple[str | None, list[str | None]]:
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
    return table.select(kept)


def label_column(table: LabelTable, target: str | None, notes: list[str]) -> str:
    """Return the column of the labels: the one that is given, has a usual name, or is the only one."""
    columns = [name for name in table.rows.columns if name.lower() not in SPLIT_COLUMNS]
    usual = [name for name in columns if name.lower() in TARGETS]
    if target is None and not usual and len(columns) == 1:
        notes.append(f"the labels are in the column {columns[0]} of {table.name}")
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
            return {split: table.select(np.array(names) == split) for split in dict.fromkeys(names)}
    return tables


def with_labels(table: LabelTable, label: str, notes: list[str]) -> LabelTable:
    """Return the rows that have a label.

    Raises:
        UserError: If there is no such column, or no row has one.
    """
    if label not in table.rows.columns:
        raise UserError(f"{table.path}: there is no column {label}, only {first_few(table.rows.columns)}")
    known = texts_of(table.rows, label).is_not_null().to_numpy()
    missing = len(known) - int(known.sum())
    if missing == len(known):
        raise UserError(f"{table.path}: the column {label} is empty")
    if not missing:
        return table
    notes.append(f"{table.name}: {missing} of {len(known)} rows have no {label} and are left out")
    return table.select(known)


def are_numbers(values: "Series", regression: bool | None, notes: list[str]) -> bool:
    """Return whether to predict numbers: as it is set, or else if the labels are many numbers.

    Numbers with decimals are numbers; whole ones are classes if they are few, and each is frequent.
    """
    if regression is not None:
        return regression
    if not values.dtype.is_numeric():
        return False
    if not bool((values % 1 == 0).all()):
        return True
    different = values.n_unique()
    if different <= FEW and len(values) >= FREQUENT * different:
        notes.append(f"{values.name}: {different} different numbers are classes; else --data.regression true")
        return False
    notes.append(f"{values.name} is predicted as a number, not as a class; else --data.regression false")
    return True


def class_labels(rows: "DataFrame", label: str) -> list[str]:
    """Return the labels as names of classes; numbers that are whole without decimals: 1, not 1.0."""
    values = rows[label]
    if values.dtype.is_float() and bool((values % 1 == 0).all()):
        return values.cast(int).cast(str).to_list()
    return texts_of(rows, label).to_list()


def numbers_in(labels: Sequence[str], files: Sequence[str]) -> np.ndarray:
    """Return labels as numbers (N,).

    Raises:
        UserError: If one is not a finite number.
    """
    try:
        numbers = np.array(labels, dtype=float)
    except ValueError:
        numbers = np.array([])
    if len(numbers) == len(labels) and np.isfinite(numbers).all():
        return numbers
    for label, file in zip(labels, files, strict=True):
        if not is_finite(label):
            raise UserError(f"data.regression: the label of {file} is {label}, not a number")
    raise AssertionError("unreachable")


def is_finite(label: str) -> bool:
    try:
        return bool(np.isfinite(float(label)))
    except ValueError:
        return False

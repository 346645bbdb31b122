"""What a table asks to predict: classes or numbers."""

import numpy as np
import polars as pl

from .cells import look_like_words
from .errors import UserError
from .kinds import as_numbers, check_finite, is_whole, kind_of_texts, kind_of_type, note_readings
from .tables import texts_of

FEW = 20  # different whole numbers that may be classes,
FREQUENT = 5  # if each is in so many rows on average


def find_targets(
    tables: dict[str, pl.DataFrame],
    column: str,
    file: str,
    *,
    regression: bool | None,
    decimal: str | None,
    missing: list[str],
    notes: list[str],
) -> dict[str, tuple[np.ndarray, list[str] | np.ndarray]]:
    """Return for each split the rows that have a target, and their targets: names of classes, or numbers.

    Texts, True and False are classes; so are whole numbers, if there are at most two different ones, or at
    most 20 and each in five rows or more on average. Other numbers are to be predicted as such.

    Args:
        tables: The rows of each split.
        column: Name of the column of targets.
        file: What errors call the table.
        regression: Whether targets are numbers; None: as above.
        decimal: The decimal sign where it is set.
        missing: Words that stand for a missing number.
        notes: Gets a sentence on what the targets are, and on rows without one.

    Raises:
        UserError: If the targets of a regression are not numbers, or no row has a target.
    """
    cells = tables["train"][column]
    numbers = None
    if are_numbers(cells, file, regression, decimal, missing):
        found = as_numbers(cells, file, decimal, missing)
        check_finite(found.values, cells, file)
        note_readings({column: found}, notes)
        numbers = found.values
    if regression is None:
        regression = numbers is not None and are_to_be_predicted(numbers, notes)
    whole = numbers is not None and is_whole(numbers)
    targets: dict[str, tuple[np.ndarray, list[str] | np.ndarray]] = {}
    for split, table in tables.items():
        if column not in table.columns:
            notes.append(
                f"the {split} table has no column {column}, so it is not used; predict.py can take it"
            )
            continue
        if regression or whole:
            values = as_numbers(table[column], file, decimal, missing).values
        else:
            values = texts_of(table, column)
        if whole and not regression:
            values = values.cast(pl.Int64).cast(pl.String)  # 1.0 is the class 1
        known = values.is_not_null()
        rows = np.flatnonzero(known.to_numpy())
        if len(rows) == 0 and split != "train":
            notes.append(
                f"no row of the {split} table has a {column}, so it is not used; predict.py can take it"
            )
            continue
        if len(rows) == 0:
            raise UserError(f"{file}: no row has a {column}")
        if len(rows) < len(values):
            notes.append(f"{len(values) - len(rows)} of {len(values)} rows have no {column} and are left out")
        values = values.filter(known)
        targets[split] = rows, values.to_numpy() if regression else values.to_list()
    return targets


def are_numbers(
    cells: pl.Series, file: str, regression: bool | None, decimal: str | None, missing: list[str]
) -> bool:
    """Return whether the targets of training are numbers.

    Raises:
        UserError: If they are not, and `regression` is true.
    """
    if cells.dtype != pl.String:
        kind = kind_of_type(cells.dtype)
    elif look_like_words(cells):
        kind = "text"
    else:
        try:
            plain = cells.cast(pl.Float64, strict=False)
            kind = kind_of_texts(cells, plain, file, decimal, missing, [])[0]["kind"]
        except UserError:
            if regression is not False:
                raise
            kind = "text"
    if regression and kind != "number":
        first = cells.drop_nulls().head(1).to_list()
        raise UserError(f"data.regression true: the targets {cells.name} are no numbers, but such as {first}")
    return kind == "number"


def are_to_be_predicted(numbers: pl.Series, notes: list[str]) -> bool:
    """Return whether numbers are to be predicted as such, rather than as classes; of whole ones, say so."""
    if not is_whole(numbers):
        return True
    different = numbers.drop_nulls().n_unique()
    frequent = numbers.count() >= FREQUENT * different
    if different <= 2 or (different <= FEW and frequent):
        notes.append(
            f"{numbers.name}: {different} different whole numbers are taken for classes; "
            "--data.regression true predicts a number"
        )
        return False
    notes.append(
        f"{numbers.name}: {different} different whole numbers are predicted as a number; "
        "--data.regression false takes them for classes"
    )
    return True

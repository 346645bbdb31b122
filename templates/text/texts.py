"""Text files, and columns of texts: which they are, and what is in them."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from .harness.delimited import as_utf8, looks_like_table
from .harness.errors import UserError, first_few
from .harness.files import list_folder
from .harness.labels import is_called_labels, labelled_files
from .harness.opening import look_at
from .harness.tables import ENDINGS, find_column

TEXTS = ("text", "texts", "sentence", "content")  # usual names of the column of texts
FEW = 20  # different numbers that may be classes, or more if each
FREQUENT = 5  # is in so many rows on average


def find_text_column(
    table: pl.DataFrame, name: str | None, others: Sequence[str | None], notes: list[str]
) -> str:
    """Return the column of texts: the one that is given or has a usual name, or the only likely one.

    Args:
        table: The rows. Likely is the only column of words, or if there are more the only one of sentences.
        name: The column that is given.
        others: Columns that have another use.
        notes: Is told which column was found by its content.

    Raises:
        UserError: If there is no such column, or more than one.
    """
    usual = [column for column in table.columns if column.lower() in TEXTS and column not in others]
    if name is not None or len(usual) == 1:
        return find_column(table, name or usual[0], "text_column", TEXTS)
    columns = [column for column in table.columns if column not in others]
    words = [column for column in columns if mostly_has(table[column], r"\p{L}")]
    sentences = [column for column in words if mostly_has(table[column], r"\S\s+\S")]
    likely = words
    if len(words) != 1:
        likely = sentences
    if len(likely) != 1:
        names = first_few([column[:40] for column in likely or columns], 8)
        raise UserError(f"which column has the texts? Set --data.text_column to one of {names}")
    notes.append(f"the column {likely[0]} is taken for that of the texts (--data.text_column)")
    return likely[0]


def mostly_has(column: pl.Series, pattern: str) -> bool:
    """Return whether most of about a thousand cells of a column are texts in which a pattern is found."""
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return False
    some = column.gather_every(1 + len(column) // 1000).drop_nulls().cast(pl.String)
    return len(some) > 0 and some.str.contains(pattern).mean() > 0.5


def check_classes(labels: list[str], column: str, notes: list[str]) -> None:
    """Say so if numbers are taken for classes.

    Raises:
        UserError: If there are so many different numbers that they are none.
    """
    names = set(labels)
    try:
        for name in names:
            float(name)
    except ValueError:
        return
    if len(names) > FEW and len(labels) < FREQUENT * len(names):
        raise UserError(
            f"data.target: {column} has {len(names)} different numbers in {len(labels)} rows, but texts are "
            "sorted into classes: name another column, or write one with a few groups of these numbers"
        )
    notes.append(f"{column}: {len(names)} different numbers are taken for classes")


def is_folder_of_texts(path: str) -> bool:
    """Return whether `path` has texts in .txt files, which are in folders or have a table of labels.

    A folder of tables may have a .txt file as well, such as a README.
    """
    if not Path(path).is_dir():
        return False
    try:
        top = list_folder(path, (".txt",))
    except UserError:
        return False
    tables = []
    for folder in top.all_folders():
        tables += [name for name in folder.others if name.lower().endswith(ENDINGS)]
    if not all(is_called_labels(name) for name in tables):
        return False
    return bool(tables) or any(folder.has_files() for folder in top.folders)


def text_files(
    path: str, target: str | None, group: str | None, notes: list[str]
) -> tuple[dict[str, tuple[pl.Series, list[str]]], list[str] | None]:
    """Return the texts in .txt files and their labels, for each split, and the group of each training text.

    Raises:
        UserError: If a file cannot be read, or its class is not clear.
    """
    found, groups = labelled_files(
        path,
        (".txt",),
        target=target,
        regression=False,
        class_folder=None,
        group=group,
        skip=False,
        notes=notes,
    )
    encodings: list[str] = []
    examples = {}
    for split, (files, labels) in found.items():
        texts = look_at(list(files), partial(read_text, notes=encodings), skip=False)
        examples[split] = pl.Series(texts, dtype=pl.String).str.strip_chars(), list(labels)
    if encodings:
        notes.append(f"{len(encodings)} files are not UTF-8: {first_few(sorted(encodings), 3)}")
    return examples, groups


def read_text(file: str | Path, notes: list[str]) -> str:
    """Return the text in a file as it is; `notes` is told of encodings other than UTF-8.

    Raises:
        UserError: If the file cannot be read, or its encoding is not clear; it names the line.
    """
    try:
        content = Path(file).read_bytes()
        if b"\0" not in content:
            return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass  # it has another encoding
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    source = as_utf8(Path(file), notes)
    if isinstance(source, Path):
        source = source.read_bytes()
    return source.decode()


def read_lines(file: Path, notes: list[str]) -> list[str]:
    """Return the lines of a text file; signs that Python's `splitlines` divides at may be in a text."""
    lines = []
    for line in io.StringIO(read_text(file, notes), newline=None):
        lines.append(line.removesuffix("\n"))
    return lines


def is_table(file: Path, column: str | None) -> bool:
    """Return whether a file is a table: by its ending, or because it looks like one and has this column."""
    if file.name.lower().endswith(ENDINGS):
        return True
    return column is not None and looks_like_table(file) and column in read_text(file, []).partition("\n")[0]

"""Read CSV and other text tables: recognise encoding, separator and quotes, and refuse rows that do not fit.

Polars reads every cell as a text, and kinds.py decides what a column is when it has seen all of it. A reader
that guesses types from the first rows would lose the zeros of 007, and stumble over what comes late.
"""

import codecs
import csv
import gzip
import io
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import BinaryIO

import polars as pl

from .errors import UserError, first_few

SEPARATORS = (",", "\t", ";", "|")
SEPARATOR_NAMES = {"\t": "tabs", ";": "semicolons", "|": "|"}
HEAD = 2**16  # bytes that are enough to recognise encoding and separator
NO_CELL = "\x1f"  # separates nothing: each line is one cell
UNNAMED = "column "  # and its place
NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?", re.IGNORECASE)
LETTER = "[A-Za-zÀ-ÖØ-öø-ÿ]"
# What a text in Latin-1 does not have: other letters, three accents in a row, a word of two, or a sign within
# a word.
NOT_LATIN1 = re.compile(
    r"[^\W\d_A-Za-zÀ-ÖØ-öø-ÿªºµ]|[À-ÿ]{3}"
    rf"|(?<!{LETTER})[À-ÿ][À-ÿ](?!{LETTER})|{LETTER}[^\w\s\x00-\x7f’–—]{LETTER}"
)


def read_delimited(file: Path, separator: str | None, notes: list[str]) -> pl.DataFrame:
    """Return the rows of a text table; each column holds texts, and null where a cell is empty.

    Raises:
        UserError: If the file is not a text, has no header, or has rows of another length than the header.
    """
    separator = checked_separator(separator)
    source = as_utf8(file, notes)
    head = head_of(source)
    skipped = 0
    declared = re.match(r"sep=(.)\s*\n", head)  # as Excel writes it for itself
    if declared:
        separator = separator or declared[1]
        head = head[declared.end() :]
        skipped = 1
    if not head.strip():
        raise UserError(f"{file} contains no row")
    separator = separator or find_separator(head)
    if separator in SEPARATOR_NAMES:
        notes.append(f"{file.name}: the cells are separated by {SEPARATOR_NAMES[separator]}")
    table = _read_rows(source, separator, skipped, file)
    header = []
    for name in table.row(0):
        header.append((name or "").strip())
    table = table.slice(1)
    if not table.height:
        raise UserError(f"{file} contains no row below its header")
    _check_header(header, table, file)
    table.columns = _names(header)
    return _without_empty_rows(table, file, notes)


def looks_like_table(file: Path) -> bool:
    """Return whether a text file has several lines that one separator divides into equally many cells.

    Sentences may well have one comma each, so that other separators than tabs must divide into three.
    """
    try:
        head = head_of(as_utf8(file, []))
    except UserError:
        return False
    lines = [line for line in head.splitlines() if line]
    if len(lines) < 2:
        return False
    separator = find_separator(head)
    least = 2 if separator == "\t" else 3
    cells, share = agreement(lines, separator)
    return cells >= least and share == 1


def checked_separator(separator: str | None) -> str | None:
    r"""Return the separator, a tab where it is written as \t or tab.

    Raises:
        UserError: If it is not one character.
    """
    if separator is None:
        return None
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(separator) != 1 or not separator.isascii() or separator in '"\n\r':
        raise UserError(f"data.separator must be one character, such as ; or \\t (got {separator})")
    return separator


def find_separator(head: str) -> str:
    """Return the separator that divides the first lines best into equally many cells, or a comma."""
    lines = [line for line in head.splitlines() if line][:100]
    best = (0.0, 1)
    found = ","
    for separator in SEPARATORS:
        cells, share = agreement(lines, separator)
        if cells > 1 and (share, cells) > best:
            best = (share, cells)
            found = separator
    return found


def agreement(lines: list[str], separator: str) -> tuple[int, float]:
    """Return the number of cells in the header, and the share of all lines that have as many.

    It is counted with quotes, and as if they were letters; the better counts.
    """
    found = []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        lengths = []
        try:
            for row in csv.reader(lines, delimiter=separator, quoting=quoting):
                lengths.append(len(row))
        except csv.Error:
            continue
        found.append((lengths.count(lengths[0]) / len(lengths), lengths[0]))
    share, cells = max(found, default=(0.0, 1))
    return cells, share


def as_utf8(file: Path, notes: list[str]) -> Path | bytes:
    """Return the file, or where it is compressed or has another encoding its content in UTF-8.

    Raises:
        UserError: If it is not a text, or its encoding is not clear; it names the line.
    """
    with file.open("rb") as content:
        head = content.read(HEAD)
    data = None
    if head.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(file.read_bytes())
        except (OSError, EOFError) as error:
            raise UserError(f"{file} cannot be unpacked: {error}") from error
        head = data[:HEAD]
    encoding = _unicode_with_zeros(head)
    if encoding:
        data = data or file.read_bytes()
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not in {encoding}, as it seems: {error.reason}") from error
        notes.append(f"{file.name}: read as {encoding.upper()}")
        data = text.removeprefix("\ufeff").encode()
    elif b"\0" in head:
        raise UserError(f"{file} is not a text, so it cannot be read as a table")
    elif not _is_utf8(data or file):
        data = data or file.read_bytes()
        data = _from_latin1(data, file).encode()
        notes.append(f"{file.name}: read as Latin-1, since it is not UTF-8")
    if b"\r" in head and b"\n" not in (data or head)[:HEAD]:
        data = (data or file.read_bytes()).replace(b"\r", b"\n")  # as old Macs end lines
    if data is None:
        return file
    return data.removeprefix(b"\xef\xbb\xbf")


def head_of(source: Path | bytes) -> str:
    """Return the first lines of a text, without a byte-order mark and without a line that is cut."""
    with _opened(source) as content:
        head = content.read(HEAD + 1)
    if len(head) > HEAD:
        whole = head.rfind(b"\n")
        head = head[: whole if whole > 0 else HEAD]
    return head.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")


def _unicode_with_zeros(head: bytes) -> str | None:
    """Return the name of a Unicode encoding that has zero bytes in it, None if the text has none of those."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    half = len(head) // 2
    if half and head[1::2].count(0) > 0.5 * half and head[::2].count(0) < 0.1 * half:
        return "utf-16-le"
    if half and head[::2].count(0) > 0.5 * half and head[1::2].count(0) < 0.1 * half:
        return "utf-16-be"
    return None


def _is_utf8(source: Path | bytes) -> bool:
    """Return whether a text is UTF-8, reading it in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with _opened(source) as content:
            for chunk in iter(partial(content.read, 2**24), b""):
                cut_before = decoder.getstate()[0]  # the first bytes of a character
                if cut_before or not chunk.isascii():  # which is seen ten times as fast as decoded
                    decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _from_latin1(data: bytes, file: Path) -> str:
    """Decode a text that is not UTF-8, if it can be nothing but Latin-1 (or its extension by Windows).

    Raises:
        UserError: Otherwise; it names the first line that is not UTF-8.
    """
    mixed = data.decode("utf-8", errors="ignore")
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        text = None
    if text is not None and mixed.isascii() and not NOT_LATIN1.search(text):
        return text
    number = 1
    for line in data.split(b"\n"):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8"
            ) from error
        number += 1
    raise AssertionError("the file changed while it was read")


def _read_rows(source: Path | bytes, separator: str, skipped: int, file: Path) -> pl.DataFrame:
    """Return all rows as texts, the header as the first of them.

    Quotes are signs around a cell where that makes rows of one length, and otherwise letters like others: who
    types texts between tabs does not double them.
    """
    quotes = _contains(source, b'"')
    table = _try_polars(source, separator, '"' if quotes else None, skipped)
    if quotes:
        too_short = table is None or table.height < _count_lines(source) - skipped
        if too_short and _lengths_agree(source, separator, skipped):
            table = _try_polars(source, separator, None, skipped)
            quotes = False
    if table is None:
        return _read_slowly(source, separator, skipped, file)
    may_be_short = table.width > 1 and table.to_series(-1).slice(1).null_count()  # Polars fills such rows
    if may_be_short and (quotes or not _lengths_agree(source, separator, skipped)):
        return _read_slowly(source, separator, skipped, file)
    return table


def _contains(source: Path | bytes, sign: bytes) -> bool:
    """Return whether a text has a sign anywhere."""
    with _opened(source) as content:
        return any(sign in chunk for chunk in iter(partial(content.read, 2**24), b""))


def _count_lines(source: Path | bytes) -> int:
    """Return how many lines a text has, with a last one that does not end."""
    lines = 0
    last = b""
    with _opened(source) as content:
        for chunk in iter(partial(content.read, 2**24), b""):
            lines += chunk.count(b"\n")
            last = chunk
    if not last.endswith(b"\n"):
        lines += 1
    return lines


def _opened(source: Path | bytes) -> BinaryIO:
    """Return a file, or bytes as one."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return source.open("rb")


def _try_polars(source: Path | bytes, separator: str, quote: str | None, skipped: int) -> pl.DataFrame | None:
    """Return the table as Polars reads it, None if it finds a fault."""
    try:
        return pl.read_csv(
            source,
            separator=separator,
            quote_char=quote,
            has_header=False,
            infer_schema=False,
            skip_lines=skipped,
        )
    except pl.exceptions.PolarsError:
        return None


def _lengths_agree(source: Path | bytes, separator: str, skipped: int) -> bool:
    """Return whether all lines that are not empty have equally many separators."""
    lines = _try_polars(source, NO_CELL, None, skipped)
    if lines is None:
        return False
    counts = lines.to_series().drop_nulls().str.count_matches(separator, literal=True)
    return counts.n_unique() == 1


def _read_slowly(source: Path | bytes, separator: str, skipped: int, file: Path) -> pl.DataFrame:
    """Return all rows as Python's csv reads them: it forgives more than Polars, and knows what is wrong.

    Raises:
        UserError: If rows have more or fewer cells than the header.
    """
    rows: list[list[str]] = []
    wrong = []
    with io.TextIOWrapper(_opened(source), encoding="utf-8-sig", newline="") as text:
        for _ in range(skipped):
            text.readline()
        try:
            for row in csv.reader(text, delimiter=separator, skipinitialspace=True):
                if not row:
                    continue
                if rows and len(row) != len(rows[0]):
                    wrong.append((len(rows), len(row)))
                rows.append(row)
        except csv.Error as error:
            raise UserError(f"{file}, row {len(rows)} cannot be read: {error}") from error
    if wrong:
        number, cells = wrong[0]
        raise UserError(
            f"{file}, row {number}: it has {cells} cells, but the header has {len(rows[0])}; "
            f"there are {len(wrong)} such rows; correct them, or set --data.separator"
        )
    table = pl.DataFrame(rows, orient="row")
    return table.with_columns(pl.all().replace("", None))


def _check_header(header: list[str], table: pl.DataFrame, file: Path) -> None:
    """Raise a UserError if two columns have one name, or if the first row holds no names but cells.

    Cells are numbers with decimals, and what occurs below as well; so is a sentence beside one of those.
    """
    like_cells = 0
    sentences = 0
    for place, name in enumerate(header):
        below = table.to_series(place).head(1000)
        is_decimal = NUMBER.fullmatch(name) and not name.isdecimal()
        if name and (is_decimal or name in below):
            like_cells += 1
        elif name.count(" ") > 4:
            sentences += 1
    if like_cells and like_cells + sentences > len(header) / 2:
        raise UserError(
            f"{file} has no header: its first row is {first_few([name[:30] for name in header])}; "
            "add a line above it with the names of the columns"
        )
    for name, count in Counter(header).items():
        if name and count > 1:
            places = [str(place) for place, other in enumerate(header, 1) if other == name]
            raise UserError(
                f"{file}: {count} columns are called {name} (columns {first_few(places)}); rename them"
            )


def _names(header: list[str]) -> list[str]:
    """Return the names of the columns; those without one are called by their place, such as "column 1"."""
    names = []
    for place, name in enumerate(header, 1):
        names.append(name or f"{UNNAMED}{place}")
    return names


def _without_empty_rows(table: pl.DataFrame, file: Path, notes: list[str]) -> pl.DataFrame:
    """Leave out rows without any cell, as spreadsheets write them below a table."""
    if not table.to_series(-1).null_count():
        return table
    filled = table.filter(~pl.all_horizontal(pl.all().is_null()))
    empty = table.height - filled.height
    if empty:
        notes.append(f"{file.name}: {empty} empty rows are left out")
    if not filled.height:
        raise UserError(f"{file} contains no row below its header")
    return filled

"""Read texts as numbers or as dates, where it is clear what they say."""

from dataclasses import dataclass

import polars as pl

# Words that stand for a missing cell, in columns of numbers and of dates. In columns of texts they are texts.
MISSING = (
    "?",
    "-",
    "--",
    "–",
    "—",
    ".",
    "..",
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "nan",
    "nat",
    "null",
    "none",
    "nil",
)
CURRENCIES = "[$€£¥₹]"
SPACES = "[ \u00a0\u2009\u202f'’]"  # between groups of three digits
SIGN = r"^[-+]?"
PLAIN = SIGN + r"(\d+\.?\d*|\.\d+)$"  # 1234.5
THOUSANDS_COMMA = SIGN + r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?$"  # 1,234,567.8
DECIMAL_COMMA = SIGN + r"\d*,\d+$"  # 1234,5
THOUSANDS_POINT = SIGN + r"[1-9]\d{0,2}(\.\d{3})+(,\d+)?$"  # 1.234.567,8
GROUPS = SIGN + r"[1-9]\d{0,2}(" + SPACES + r"\d{3})+([.,]\d+)?$"  # 1 234 567
UNIT = r"^[-+]?[\d.,]*\d\s*(\pL+[²³]?|[°%‰])$"  # 22.8%, 12 kg

# How dates are written. Of two that fit all cells of a column, the first is taken, and that is said.
DAYS = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d.%m.%Y",
    "%d.%m.%y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %d %Y",
    "%B %d %Y",
)
TIMES = ("%H:%M:%S%.f", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
TWO_DIGITS = r"^\d\d?[-/.](\d\d?|\pL+)[-/.]\d\d(\D|$)"  # of a year, such as 31.12.24
COMPACT = "%Y%m%d"  # 20240131, which is a whole number as well
MAYBE_NUMBER = r"^[-+−(]?\s*[$€£¥₹]?\s*[-+]?[.,]?\d"
MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\pL*"
MAYBE_DATE = (
    r"^\d{4}[-/.]\d|^\d{1,2}[-/.]\d|^\d{1,2}:\d\d"
    r"|^\d\d?[- ]" + MONTH + "|^" + MONTH + r" \d"
)


@dataclass
class Numbers:
    """What a column of texts says when it is read as numbers.

    Attributes:
        values: The numbers, null where a cell is missing or is none.
        wrong: Which cells are neither a number nor missing.
        words: Words in it that stand for a missing cell.
        decimal: The decimal sign that the column shows, None if it shows none.
        unclear: A text that can be two numbers, such as 1,234.
        example: A text that is no plain number and how it is read, None if there is none.
    """

    values: pl.Series
    wrong: pl.Series
    words: list[str]
    decimal: str | None = None
    unclear: str | None = None
    example: tuple[str, float] | None = None


def look_like_words(texts: pl.Series) -> bool:
    """Return whether a column surely is none of numbers or dates, by a thousand of its cells."""
    if texts.null_count():
        texts = texts.drop_nulls()
    some = texts.gather_every(1 + len(texts) // 1000).str.strip_chars()
    some = some.filter(~some.str.to_lowercase().is_in(("", *MISSING)))
    if not len(some):
        return False
    may_be_numbers = some.str.contains(MAYBE_NUMBER).mean() >= 0.3
    may_be_dates = some.str.contains(MAYBE_DATE).mean() >= 0.3
    if may_be_numbers or not may_be_dates:
        return not may_be_numbers
    dates = read_dates(some, [])  # "zone 12" looks like "June 12"
    return dates is None or bool(dates.wrong.mean() > 0.9)


def read_numbers(
    texts: pl.Series, missing: list[str], decimal: str | None, values: pl.Series | None = None
) -> Numbers:
    """Read texts as numbers, also with currency, percent, unit or thousands where that is clear.

    Args:
        texts: Cells without spaces around them, null where they are empty.
        missing: Words that stand for a missing cell besides those of `MISSING`.
        decimal: The decimal sign, "." or ",", where it is known.
        values: The plain numbers among the texts, where Polars has already read them.
    """
    if values is None:
        values = texts.cast(pl.Float64, strict=False)
    if values.is_nan().any():
        values = values.fill_nan(None)
    odd = texts.is_not_null() & values.is_null()
    words: list[str] = []
    if odd.any() or missing:
        is_word = texts.str.to_lowercase().is_in(MISSING) | texts.is_in(missing)
        is_word = is_word | values.is_in(missing_numbers(missing).implode())
        is_word = texts.is_not_null() & is_word.fill_null(False)
        words = texts.filter(is_word).unique().sort().to_list()
        values = values.set(is_word, None)
        odd = odd & ~is_word
    plain = Numbers(values, odd, words)
    if odd.any() or decimal == ",":
        return _read_written(texts, plain, decimal)
    return plain


def missing_numbers(missing: list[str]) -> pl.Series:
    """Return the numbers among the words that stand for a missing cell, such as -999."""
    return pl.Series(missing, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()


def _read_written(texts: pl.Series, plain: Numbers, decimal: str | None) -> Numbers:
    """Read numbers that are written otherwise than Python writes them.

    All cells must have the same decimal sign. Those that can be read as both stay as they are: `unclear`.

    Args:
        texts: The cells.
        plain: What they are without this; `wrong` are those that are written otherwise, or are none.
        decimal: The decimal sign, "." or ",", where it is known.
    """
    odd = plain.wrong
    is_cell = plain.values.is_not_null() | odd
    bare = _without_signs(texts.filter(odd), alone=bool((is_cell == odd).all()))
    cells = texts.set(odd, None).scatter(odd.arg_true(), bare)
    has_comma = cells.str.contains(",", literal=True)
    point = cells.str.contains(PLAIN) | cells.str.contains(THOUSANDS_COMMA) | ~odd
    comma = cells.str.contains(DECIMAL_COMMA) | cells.str.contains(THOUSANDS_POINT)
    comma = comma | ~cells.str.contains("[.,]")
    fits_point = bool(point.filter(is_cell).all())
    fits_comma = bool(comma.filter(is_cell).all())
    found = Numbers(plain.values, odd, plain.words)
    if fits_point and fits_comma and has_comma.any() and decimal is None:
        found.unclear = texts.filter(is_cell & has_comma)[0]
        return found
    by_comma = fits_comma and (decimal == "," or (decimal is None and not fits_point))
    if by_comma:
        clear = comma
        digits = cells.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    else:
        clear = point
        digits = cells.str.replace_all(",", "", literal=True)
    if has_comma.any() and fits_point != fits_comma:
        found.decimal = "," if by_comma else "."
    parsed = digits.cast(pl.Float64, strict=False).set(~clear, None)
    found.values = parsed.set(~is_cell, None)
    found.wrong = is_cell & found.values.is_null()
    changed = is_cell & parsed.is_not_null() & (odd | (parsed != plain.values))
    for place in changed.arg_true()[:1]:
        found.example = texts[place], parsed[place]
    return found


def _without_signs(texts: pl.Series, alone: bool) -> pl.Series:
    """Return the bare digits of numbers with a currency, a unit, or spaces between groups of digits.

    A currency must be the same in all of them; so must a unit, and no other cell of the column may lack it:
    nobody knows whether a 3 beside 22.8% means 3% or 300%. That these texts are `alone` says so.
    """
    bare = texts.str.replace("^−", "-")
    currencies = bare.str.extract(f"({CURRENCIES})").drop_nulls().unique()
    if len(currencies) == 1:
        bare = bare.str.replace(rf"^([-+]?)\s*{CURRENCIES}\s*([-+]?)", "$1$2")
        bare = bare.str.replace(rf"\s*{CURRENCIES}$", "")
    units = bare.str.extract(UNIT)
    if alone and units.null_count() == 0 and units.n_unique() == 1:
        bare = bare.str.replace(r"\s*(\pL+[²³]?|[°%‰])$", "")
    grouped = bare.str.contains(GROUPS)
    if grouped.any():
        bare = bare.zip_with(~grouped, bare.str.replace_all(SPACES, ""))
    return bare


@dataclass
class Dates:
    """What a column of texts says when it is read as dates.

    Attributes:
        values: The dates as datetimes, null where a cell is missing or is none.
        wrong: Which cells are neither a date nor missing.
        format: How they are written.
        other: Another way to read all of them, such as day before month, None if there is none.
    """

    values: pl.Series
    wrong: pl.Series
    format: str
    other: str | None = None


def read_dates(texts: pl.Series, missing: list[str], format: str | None = None) -> Dates | None:
    """Read texts as dates, times or both, if most of the first ones are written as such.

    Args:
        texts: Cells without spaces around them, null where they are empty.
        missing: Words that stand for a missing cell besides those of `MISSING`.
        format: How dates are written if it is known; then they may be written otherwise only if none is so.
    """
    is_word = texts.str.to_lowercase().is_in(MISSING) | texts.is_in(missing)
    cells = texts.set(is_word.fill_null(False), None)
    sample = cells.drop_nulls().head(200)
    if not len(sample) or sample.str.contains(MAYBE_DATE).mean() < 0.5:
        return None
    candidates = []
    for known in [format] if format else date_formats():
        read = _as_datetimes(sample, known)
        if read.null_count() < 0.5 * len(sample):
            candidates.append((read.null_count(), known))
    candidates.sort(key=lambda candidate: candidate[0])
    best: list[Dates] = []
    for _, known in candidates[:2]:
        values = _as_datetimes(cells, known)
        wrong = cells.is_not_null() & values.is_null()
        best.append(Dates(values, wrong, known))
    best.sort(key=lambda dates: dates.wrong.sum())
    if not best:
        return None if format is None else read_dates(texts, missing)
    if len(best) == 2:
        as_good = best[0].wrong.sum() == best[1].wrong.sum()
        if as_good and not best[0].values.equals(best[1].values):
            best[0].other = best[1].format
    return best[0]


def date_formats() -> list[str]:
    """Return all formats: days, days with a time and perhaps a time zone, and times."""
    formats = list(DAYS)
    for day in DAYS:
        for time in TIMES:
            formats.append(f"{day} {time}")
    for zone in ("", "Z", "%#z"):
        formats.append(f"%Y-%m-%dT%H:%M:%S%.f{zone}")
    formats += ["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z", "%Y-%m", "%m/%Y"]
    return [*formats, *TIMES]


def _as_datetimes(texts: pl.Series, format: str) -> pl.Series:
    """Return texts as datetimes, null where they are written otherwise; times are of 2000-01-01."""
    if format in TIMES:
        texts = "2000-01-01 " + texts
        format = f"%Y-%m-%d {format}"
    dates = texts.str.to_datetime(format, time_unit="us", strict=False)
    if dates.dtype.time_zone:
        dates = dates.dt.replace_time_zone(None)
    if "%y" in format:
        dates = dates.set(~texts.str.contains(TWO_DIGITS), None)  # 1.2.3 is no date
    if "%Y" in format:
        dates = dates.set((dates.dt.year() < 1000).fill_null(False), None)  # 24 is no year of four digits
    return dates

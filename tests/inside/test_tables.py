"""Tables as people have them: tests/test_tables.py runs this in a project for tables."""

import datetime
import gzip
import io
import json
import zipfile
from pathlib import Path

import datasets
import numpy as np
import polars as pl
import pytest
import torch
from my_project.data import DataModule
from my_project.harness.cells import TIMES, date_formats, read_dates
from my_project.harness.columns import describe
from my_project.harness.errors import UserError
from my_project.harness.hub import media_of, with_names
from my_project.harness.labels import labelled_media
from my_project.harness.tables import read_table, texts_of
from my_project.network import Network, Numbers
from torch.utils.data import DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def made(rows: int = 60) -> pl.DataFrame:
    """Return a table with all that makes tables difficult; "label" is the target."""
    random = np.random.default_rng(0)
    words = np.array(["red", "light blue", 'the "best"', "a,b;c", "two\nlines", "größer", "NA", "None"])
    days = [
        datetime.date(2023, 1, 1) + datetime.timedelta(days=int(day))
        for day in random.integers(700, size=rows)
    ]
    table = pl.DataFrame(
        {
            "x": random.normal(size=rows).round(3),
            "count": random.integers(5, size=rows),
            "größe": (1000 * random.normal(size=rows)).round(2),
            "word": words[random.integers(len(words), size=rows)],
            "zip": [f"0{number}" for number in random.integers(100, 110, size=rows)],
            "day": days,
            "true": random.integers(2, size=rows).astype(bool),
            "label": np.array(["yes", "no"])[random.integers(2, size=rows)],
        }
    )
    gaps = {
        name: pl.when(pl.int_range(rows) % (7 + place) != 3).then(pl.col(name))
        for place, name in enumerate(table.columns[:-1])
    }
    return table.with_columns(**gaps)


def lines(table: pl.DataFrame, separator: str = ",", decimal: str = ".") -> str:
    """Return a table as a spreadsheet writes it, with quotes where they are needed."""
    rows = []
    for row in [tuple(table.columns), *table.rows()]:
        cells = []
        for cell in row:
            text = "" if cell is None else str(cell)
            if isinstance(cell, float):
                text = text.replace(".", decimal)
            if any(sign in text for sign in f'{separator}"\n'):
                text = '"' + text.replace('"', '""') + '"'
            cells.append(text)
        rows.append(separator.join(cells))
    return "\n".join(rows) + "\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def workbook(table: pl.DataFrame) -> bytes:
    """Return a table as the least that is an Excel workbook."""
    rows = []
    for row in [tuple(table.columns), *table.rows()]:
        cells = []
        for place, cell in enumerate(row):
            at = f'r="{chr(65 + place)}{len(rows) + 1}"'
            if isinstance(cell, bool):
                cells.append(f'<c {at} t="b"><v>{int(cell)}</v></c>')
            elif isinstance(cell, int | float):
                cells.append(f"<c {at}><v>{cell}</v></c>")
            elif cell is not None:
                text = str(cell).replace("&", "&amp;").replace("<", "&lt;")
                cells.append(f'<c {at} t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>')
        rows.append(f'<row r="{len(rows) + 1}">{"".join(cells)}</row>')
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship '
        f'Id="rId1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        '<sheet name="first" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{"".join(rows)}</sheetData>'
        "</worksheet>",
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def objects(table: pl.DataFrame) -> list[dict]:
    return [json.loads(json.dumps(row, default=str)) for row in table.rows(named=True)]


def parquet(table: pl.DataFrame) -> bytes:
    content = io.BytesIO()
    table.write_parquet(content)
    return content.getvalue()


FORMS = {
    "t.csv": lambda table: lines(table),
    "carriage.csv": lambda table: lines(
        table.with_columns(word=pl.col("word").str.replace("\n", " "))
    ).replace("\n", "\r\n"),
    "semicolon.csv": lambda table: lines(table, ";", ","),
    "declared.csv": lambda table: "sep=;\n" + lines(table, ";"),
    "t.tsv": lambda table: lines(table, "\t"),
    "no_ending": lambda table: lines(table, "\t"),
    "bar.txt": lambda table: lines(table, "|"),
    "mark.csv": lambda table: lines(table).encode("utf-8-sig"),
    "utf16.csv": lambda table: lines(table, ";", ",").encode("utf-16"),
    "utf16le.csv": lambda table: lines(table).encode("utf-16-le"),
    "latin1.csv": lambda table: lines(table).encode("latin-1"),
    "t.csv.gz": lambda table: gzip.compress(lines(table).encode()),
    "t.jsonl": lambda table: "\n".join(json.dumps(row) for row in objects(table)),
    "t.json": lambda table: json.dumps(objects(table)),
    "columns.json": lambda table: json.dumps(
        {name: [row[name] for row in objects(table)] for name in table.columns}
    ),
    "t.parquet": parquet,
    "t.xlsx": workbook,
}


def read(path: Path, **settings) -> DataModule:
    data = DataModule(path=str(path), **settings)
    data.setup("fit")
    return data


def said(data: DataModule, *words: str) -> bool:
    """Return whether one of the notes has all of the words."""
    return any(all(word in note for word in words) for note in data.notes)


def column(data: DataModule, name: str) -> torch.Tensor:
    """Return the cells of a column in all splits, in some order."""
    place = [column["name"] for column in data.columns].index(name)
    return torch.cat([part.rows[:, place] for part in (data.train_set, data.val_set, data.test_set)])


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> DataModule:
    return read(write(tmp_path_factory.mktemp("expected") / "t.parquet", parquet(made())))


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_a_table_does_not_matter(expected, tmp_path, name):
    """Neither do the order of its columns, and what of it is a number, a date or a text."""
    table = made()
    data = read(write(tmp_path / name, FORMS[name](table.select(sorted(table.columns)))))
    places = {column["name"]: place for place, column in enumerate(data.columns)}
    order = [places[column["name"]] for column in expected.columns]
    for part in ("train_set", "val_set", "test_set"):
        found = getattr(data, part)
        torch.testing.assert_close(found.rows[:, order], getattr(expected, part).rows, equal_nan=True)
        assert found.targets.equal(getattr(expected, part).targets)
    assert max(map(len, data.notes)) < 200
    assert said(data, "missing", "x 6", "word 4") or said(data, "missing", "count", "day")


def test_what_the_columns_are(expected):
    names = {column["name"]: column.get("values", "number") for column in expected.columns}
    assert names["x"] == names["count"] == names["day.month"] == names["day.weekday"] == "number"
    assert names["zip"][0].startswith("0") or names["zip"][0] == ""
    assert {"NA", "None", ""} <= set(names["word"])  # words of people and places; and missing cells
    assert {"True", "False"} <= set(names["true"])
    assert "day.hour" not in names


# A column of numbers in a notation, and what it says.
NOTATIONS = {
    "1,5 2 -3,25": [1.5, 2, -3.25],
    "1,234,567 12 1,000": [1234567, 12, 1000],
    "1.234.567,5 12 1.000": [1234567.5, 12, 1000],
    "$61.19 $3 -$5": [61.19, 3, -5],
    "$1,234.50 7.25 12": [1234.5, 7.25, 12],
    "12,50€ 3€ 1.000,25€": [12.5, 3, 1000.25],
    "22.8% 3% 0%": [22.8, 3, 0],
    "12kg 3kg 4.5kg": [12, 3, 4.5],
    "1'234'567 12 13": [1234567, 12, 13],
    "1_234 1_234_567 1": [1234, 1234567, 1],  # spaces
    "−3 4 5": [-3, 4, 5],
    "1e3 2E-1 +.5": [1000, 0.2, 0.5],
    "? 1 2": [None, 1, 2],
    "NA 1 2": [None, 1, 2],
    "- 1.5 2": [None, 1.5, 2],
    "NaN 1 2": [None, 1, 2],
    "None 1 null": [None, 1, None],
    "0,123 0,456 0,789": [0.123, 0.456, 0.789],
}


@pytest.mark.parametrize("cells", NOTATIONS)
def test_numbers_are_read_as_people_write_them(tmp_path, cells):
    texts = [cell.replace("_", " ") for cell in cells.split(" ")] * 10
    rows = [f"{text}\t{number % 4}.5\t{'ab'[number % 2]}" for number, text in enumerate(texts)]
    data = read(write(tmp_path / "t.tsv", "\n".join(["x\tother\tlabel", *rows])))
    numbers = [float("nan") if number is None else number for number in NOTATIONS[cells]] * 10
    torch.testing.assert_close(
        column(data, "x").sort()[0], torch.tensor(numbers).float().sort()[0], equal_nan=True
    )


def test_dates_are_read_as_people_write_them():
    """Each format is recognised; of some dates, day and month could be exchanged, and then it is said."""
    start = datetime.datetime(2020, 12, 31, 23, 30)
    dates = [start - datetime.timedelta(days=37 * number, hours=number) for number in range(60)]
    for format in date_formats():
        texts = [date.strftime(format.replace("%.f", ".250000").replace("%#z", "+0000")) for date in dates]
        wanted = pl.Series(dates)
        if "%d" not in format:
            wanted = wanted.dt.truncate("1mo")
        if not any(code in format for code in ("%H", "%I")):
            wanted = wanted.dt.truncate("1d")
        found = read_dates(pl.Series(texts), [])
        assert found is not None, format
        assert not found.wrong.any(), format
        if format in TIMES:
            assert found.values.dt.hour().to_list() == [date.hour for date in dates], format
        else:
            assert (found.values.dt.truncate("1m") == wanted).all(), format
    ambiguous = read_dates(pl.Series(["03/04/2024", "05/06/2024"]), [])
    assert {ambiguous.format, ambiguous.other} == {"%m/%d/%Y", "%d/%m/%Y"}


@pytest.mark.parametrize(
    ("part", "is_a"),
    [
        ("month", lambda date: 4 <= date.month <= 9),
        ("weekday", lambda date: date.weekday() >= 5),
        ("hour", lambda date: 9 <= date.hour < 17),
        ("year", lambda date: date.year > 2015),
    ],
)
def test_parts_of_dates_are_columns(tmp_path, part, is_a):
    random = np.random.default_rng(0)
    rows = ["when,label"]
    for hours in random.integers(24 * 365 * 20, size=200):
        date = datetime.datetime(2005, 1, 1) + datetime.timedelta(hours=int(hours))
        rows.append(f"{date},{'ab'[is_a(date)]}")
    data = read(write(tmp_path / "t.csv", "\n".join(rows)))
    cells, targets = data.train_set[:]
    place = [column["name"] for column in data.columns].index(f"when.{part}")
    of_a = set(cells[targets == 0, place].tolist())
    assert of_a.isdisjoint(cells[targets == 1, place].tolist())


def test_a_number_that_may_be_two_is_asked_for(tmp_path):
    file = write(tmp_path / "t.tsv", "x\tlabel\n" + "1,234\ta\n5,678\tb\n" * 20)
    with pytest.raises(UserError, match=r"x has cells such as 1,234.*1234 or 1\.234.*--data.decimal"):
        read(file)
    assert sorted(set(column(read(file, decimal="."), "x").tolist())) == [1234, 5678]
    assert column(read(file, decimal=","), "x").max() < 6


# Name of the file, its content (%s: forty good rows), settings, what the line says.
GOOD = "".join(f"{number % 9}.5,{'ab'[number % 2]}\n" for number in range(40))
MISTAKES = [
    (
        "word",
        "t.csv",
        f"x,label\n{GOOD}oops,a\n",
        {},
        ["t.csv, row 41", "x", "oops", "--data.missing", "--data.categories"],
    ),
    ("unknowns", "t.csv", "x,label\n" + GOOD + "unknown,a\n" * 20, {}, ["row 41", "x", "unknown", "19 more"]),
    ("percent", "t.csv", f"x,label\n22.8%,a\n{GOOD}", {}, ["row 1", "x", "22.8%"]),
    ("infinite", "t.csv", f"x,label\n{GOOD}inf,a\n", {}, ["row 41", "x", "inf"]),
    ("huge", "t.csv", f"x,label\n{GOOD}1e300,a\n", {}, ["row 41", "x", "1e300"]),
    (
        "date",
        "t.csv",
        "x,label\n" + "2024-01-05,a\n2024-02-05,b\n" * 20 + "soon,a\n",
        {},
        ["row 41", "x", "soon", "date"],
    ),
    ("twins", "t.csv", "x,x,label\n1,2,a\n", {}, ["2 columns", "called x", "1, 2"]),
    ("no header", "t.csv", GOOD, {}, ["no header", "0.5, a"]),
    ("only header", "t.csv", "x,label\n", {}, ["t.csv contains no row"]),
    ("nothing", "t.csv", "", {}, ["t.csv contains no row"]),
    (
        "short row",
        "t.csv",
        f"x,label\n{GOOD}3\n",
        {},
        ["row 41", "1 cells", "header has 2", "--data.separator"],
    ),
    ("long row", "t.csv", f"x,label\n1,a\n1,2,a\n{GOOD}", {}, ["row 2", "3 cells", "header has 2"]),
    ("short in quotes", "t.csv", f'x,label\n{GOOD}"3,5"\n', {}, ["row 41", "1 cells"]),
    ("cyrillic", "t.csv", "x,label\n1,да\n2,нет\n".encode("cp1251"), {}, ["t.csv, line 2", "UTF-8"]),
    ("polish", "t.csv", "x,label\n1,był\n2,łódź\n".encode("cp1250"), {}, ["t.csv, line 2", "UTF-8"]),
    ("binary", "t.csv", b"\0\1\2\3" * 9, {}, ["t.csv is not a text"]),
    ("broken gzip", "t.csv.gz", gzip.compress(GOOD.encode())[:40], {}, ["t.csv.gz cannot be unpacked"]),
    ("broken json", "t.jsonl", '{"x": 1, "label": \n', {}, ["t.jsonl cannot be read"]),
    ("broken parquet", "t.parquet", b"PAR1 no", {}, ["t.parquet cannot be read"]),
    ("broken workbook", "t.xlsx", b"no", {}, ["t.xlsx cannot be read"]),
    ("another ending", "t.yaml", "seed: 0\n", {}, ["t.yaml does not end in .csv"]),
    ("a typo", "t.csv", f"x,label\n{GOOD}", {"ignore": ["y"]}, ["data.ignore", "y", "x, label"]),
    ("another typo", "t.csv", f"x,label\n{GOOD}", {"only": ["y"]}, ["data.only", "y", "x, label"]),
    ("no group", "t.csv", f"x,label\n{GOOD}", {"group": "y"}, ["data.group", "y", "x, label"]),
    ("nothing left", "t.csv", f"x,label\n{GOOD}", {"ignore": ["x"]}, ["no column is left", "data.ignore"]),
    ("nothing said", "t.csv", "x,label\n" + "1,a\n1,b\n" * 20, {}, ["no column to learn from", "x"]),
    (
        "two signs",
        "t.csv",
        f"x,label\n{GOOD}",
        {"separator": "ab"},
        ["data.separator", "one character", "ab"],
    ),
    ("no number", "t.csv", f"x,label\n{GOOD}", {"regression": True}, ["data.regression", "label", "a"]),
    (
        "odd target",
        "t.csv",
        "x,label\n" + "1.5,2.5\n2.5,3.5\n" * 20 + "3.5,oops\n",
        {},
        ["row 41", "label", "oops"],
    ),
    ("no target", "t.csv", "x,label\n" + "1.5,\n2.5,\n" * 20, {}, ["no row has a label"]),
]


@pytest.mark.parametrize(
    ("name", "content", "settings", "words"),
    [case[1:] for case in MISTAKES],
    ids=[case[0] for case in MISTAKES],
)
def test_a_mistake_gets_one_clear_line(tmp_path, name, content, settings, words):
    with pytest.raises(UserError) as caught:
        read(write(tmp_path / name, content), **settings)
    line = str(caught.value).replace(str(tmp_path), "")
    assert len(line) <= 400
    assert "\n" not in line
    for word in words:
        assert word in line, line


def test_settings_name_what_a_column_is(tmp_path):
    rows = "".join(
        f"{number % 3}00,{'-999' if number % 5 == 0 else number % 7},{'ab'[number % 2]}\n"
        for number in range(60)
    )
    data = read(write(tmp_path / "t.csv", f"zip,x,label\n{rows}"), categories=["zip"], missing=[-999])
    assert sorted(data.columns[1]["values"]) == ["000", "100", "200"]
    assert column(data, "x").isnan().sum() == 12
    assert said(data, "-999 stands for a missing number in x")
    assert [column["name"] for column in read(tmp_path / "t.csv", only=["x"]).columns] == ["x"]
    assert [column["name"] for column in read(tmp_path / "t.csv", ignore=["x"]).columns] == ["zip"]


def test_columns_that_say_nothing_are_left_out_and_named(tmp_path):
    random = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "": range(60),
            "number": range(1, 61),
            "key": random.permutation(1000)[:60],
            "name": [f"n{number}" for number in range(60)],
            "same": [3] * 60,
            "empty": [None] * 60,
            "x": random.normal(size=60),
            "label": ["a", "b"] * 30,
        }
    )
    data = read(write(tmp_path / "t.csv", lines(table)))
    assert [column["name"] for column in data.columns] == ["key", "x"]
    assert said(data, "left out", "number the rows", "column 1, number")
    assert said(data, "left out", "occur in one row only", "name")
    assert said(data, "left out", "same value", "same")
    assert said(data, "left out", "no cells", "empty")
    assert said(data, "warning", "key", "--data.ignore '[key]'")
    kept = read(tmp_path / "t.csv", categories=["name"])
    assert "name" in [column["name"] for column in kept.columns]


# Targets, whether they are to be predicted as numbers, what a note says.
TARGETS = {
    "classes of texts": (["a", "b"] * 30, False, ""),
    "truth": ([True, False] * 30, False, ""),
    "decimals": ([0.5 * number for number in range(60)], True, ""),
    "two whole numbers": ([0, 1] * 30, False, "--data.regression true"),
    "whole decimals": ([0.0, 1.0] * 30, False, "--data.regression true"),
    "grades": (list(range(6)) * 10, False, "--data.regression true"),
    "prices": (list(range(1000, 1060)), True, "--data.regression false"),
    "counts": (list(range(20)) * 3, True, "--data.regression false"),
}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("kind", TARGETS)
def test_targets_are_classes_or_numbers(tmp_path, kind, ending):
    targets, regression, words = TARGETS[kind]
    x = np.random.default_rng(0).normal(size=60).round(3)
    table = pl.DataFrame({"x": x, "label": targets})
    data = read(write(tmp_path / f"t.{ending}", lines(table) if ending == "csv" else parquet(table)))
    assert (data.classes == []) == regression
    assert said(data, words)
    if kind == "whole decimals":
        assert data.classes == ["0", "1"]
    if words:
        other = DataModule(path=str(tmp_path / f"t.{ending}"), regression=not regression)
        _, targets, _ = other.read_examples()
        _, labels = targets["train"]
        assert isinstance(labels, list) == regression


def test_rows_without_a_target_are_left_out_and_counted(tmp_path):
    rows = "".join(f"{number % 9}.5,{['a', 'b', '', '?'][number % 4]}\n" for number in range(80))
    data = read(write(tmp_path / "t.csv", f"x,label\n{rows}"))
    assert data.classes == ["?", "a", "b"]  # a word among words
    assert said(data, "20 of 80 rows have no label")
    numbers = "".join(f"{number % 9}.5,{['1.5', '2.5', '', '?'][number % 4]}\n" for number in range(80))
    data = read(write(tmp_path / "n.csv", f"x,label\n{numbers}"))
    assert data.classes == []
    assert said(data, "40 of 80 rows have no label")


def test_splits_are_files_and_their_columns_have_names(tmp_path):
    table = made()
    write(tmp_path / "t" / "train.csv", lines(table))
    write(tmp_path / "t" / "val_1.csv", lines(table.select(reversed(table.columns)).head(20), ";", ","))
    write(tmp_path / "t" / "test.csv", lines(table.head(10).drop("label")))
    write(tmp_path / "t" / "sample_submission.csv", "id,label\n1,yes\n")
    data = read(tmp_path / "t")
    assert len(data.val_set) == 20
    assert len(data.train_set) + len(data.test_set) == 60
    assert said(data, "sample_submission.csv", "not used")
    assert said(data, "test table has no column label")
    write(tmp_path / "t" / "test.csv", lines(table.head(10).drop("x", "zip")))
    with pytest.raises(UserError, match="no column x, zip"):
        read(tmp_path / "t")


def test_quotes_that_are_letters_keep_every_row(tmp_path):
    """People type texts between tabs, and do not double their quotes."""
    texts = ['"Hi" he said', 'say "hi', '"open', 'closing"', "it's", "a, b", '"all of it"', "plain"] * 5
    rows = [f"{'spam' if number % 2 else 'ham'}\t{text}" for number, text in enumerate(texts)]
    table = read_table([write(tmp_path / "SMS", "\n".join(["Label\tSMS", *rows]))], notes=[])
    assert texts_of(table, "SMS").to_list() == texts


def test_texts_are_as_they_stand_in_the_file(tmp_path):
    cells = ["007", "1.50", " spaces ", "NA", "null", "None", "", "nan", "1e5", "True"]
    table = read_table(
        [write(tmp_path / "t.csv", "text,n\n" + "".join(f"{cell},1\n" for cell in cells))], notes=[]
    )
    stripped = [cell.strip() or None for cell in cells]
    assert texts_of(table, "text").to_list() == stripped


def test_prediction_counts_what_training_does_not_know(expected, tmp_path):
    data = DataModule()
    data.load_state_dict(json.loads(json.dumps(expected.state_dict())))  # as it is in a checkpoint
    new = made().head(5).with_columns(word=pl.lit("pink"), x=pl.lit(None, pl.Float64)).drop("label")
    names = data.predict_inputs([write(tmp_path / "new.csv", lines(new, ";", ","))])
    assert names == [f"{tmp_path}/new.csv:{row}" for row in range(1, 6)]
    assert said(data, "never seen in training", "word in 5 of 5 rows (pink)")
    with pytest.raises(UserError, match="no column x, zip; training had"):
        data.predict_inputs([write(tmp_path / "few.csv", lines(new.drop("x", "zip")))])
    with pytest.raises(UserError, match=r"odd.csv, row 1: x is big, not a number"):
        data.predict_inputs([write(tmp_path / "odd.csv", lines(new.with_columns(x=pl.lit("big"))))])


def test_the_network_learns_what_a_gap_and_a_new_value_mean(expected):
    torch.manual_seed(0)
    network = Network(expected.columns, 2, [0.0, 1.0], category_dropout=0.5)
    rows, _ = expected.train_set[:]
    network.train()(rows).sum().backward()
    for embedding in network.backbone.columns.embeddings:
        assert embedding.weight.grad[0].any()  # of all values that are not known
    network.eval()
    gap = rows[:1].clone()
    gap[0, 0] = float("nan")
    mean = gap.clone()
    mean[0, 0] = expected.columns[0]["mean"]
    features = network.backbone.columns
    differ = (features(gap) != features(mean)).sum()
    assert differ == 1  # the feature that says so
    assert network(gap).isfinite().all()


@pytest.mark.parametrize(
    ("numbers", "bins"),
    [
        (np.random.default_rng(0).normal(size=2000) ** 3, 48),
        (np.random.default_rng(0).normal(size=200), 5),  # few rows
        (np.arange(3000) % 3, 2),  # few values
        (1e9 + np.arange(3000) // 64 * 64, 46),  # as float32 tells them apart
        (np.full(900, 7.0), 0),
        (np.full(900, np.nan), 0),
    ],
    ids=["many", "few rows", "few values", "large", "constant", "empty"],
)
def test_bins_hold_about_equally_many_numbers(numbers, bins):
    table = pl.DataFrame({"x": pl.Series(numbers, dtype=pl.Float64).fill_nan(None)})
    (column,) = describe(table, {"x": {"kind": "number"}}, 100, [])
    edges = np.array(column["edges"])
    assert len(edges) == bins + 1
    assert (edges == edges.astype(np.float32)).all()
    assert (np.diff(edges) > 0).all()
    if bins > 2:
        counts, _ = np.histogram(numbers, edges)
        assert counts.max() < 2 * len(numbers) / bins
    vectors = Numbers([column], width=4)(torch.tensor(numbers).float().nan_to_num(0.0)[:, None])
    assert vectors.isfinite().all()


def test_numbers_bend_at_the_edges_of_bins():
    """Between two edges a vector changes in a straight line, by the weights of the bin between them."""
    column = {"mean": 0.0, "std": 1.0, "edges": [0.0, 1.0, 5.0]}
    numbers = Numbers([column, {"mean": 0.0, "std": 1.0, "edges": [0.0, 1.0]}], width=3)
    cells = torch.tensor([-9.0, 0.0, 0.5, 1.0, 3.0, 5.0, 9.0])[:, None].expand(-1, 2)
    before = numbers(cells)
    torch.nn.init.normal_(numbers.bends)
    change = numbers(cells) - before  # (7, 2, 3)
    first, second = numbers.bends[0]
    for place, share in enumerate([0, 0, 0.5, 1, 1, 1, 1]):
        torch.testing.assert_close(change[place, 1], share * numbers.bends[1, 0])
    for place, share in enumerate([0, 0, 0, 0, 0.5, 1, 1]):
        expected = min(1, max(0, float(cells[place, 0]))) * first + share * second
        torch.testing.assert_close(change[place, 0], expected)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_members_learn_alone_and_predict_together(expected, num_classes):
    torch.manual_seed(0)
    network = Network(expected.columns, num_classes, [5.0, 2.0], category_dropout=0.0, dropout=0.0)
    rows = network.example_input(batch=6)
    alone = network.train()(rows)  # (B, num_classes, members)
    together = network.eval()(rows)
    if num_classes == 1:
        torch.testing.assert_close(together, alone.mean(dim=2))
    else:
        torch.testing.assert_close(together.exp(), alone.softmax(dim=1).mean(dim=2))
    alone[0, 0, 0].backward()
    (own,) = network.head.bias.grad[:, 0].nonzero().T
    assert own.tolist() == [0]
    with torch.no_grad():
        network.head.weight *= 1e6
    assert network(rows).isfinite().all()  # where members are certain, other classes stay possible


def test_images_in_a_table_are_read_where_a_batch_is_made(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    content = [{"bytes": bytes([number]) * 9, "path": f"{number}.png"} for number in range(6)]
    table = datasets.Dataset.from_dict({"image": content, "label": [0, 1] * 3}, features=features)
    table.to_parquet(tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    found, _ = labelled_media(path, target=None, regression=None, group=None, notes=[])
    files, labels = found["train"]
    assert labels == ["cat", "dog"] * 3
    loader = DataLoader(files, batch_size=None, num_workers=1)
    assert [file["bytes"] for file in loader] == [file["bytes"] for file in content]

    media, rest = media_of(table)  # as it comes from the hub
    assert [file["bytes"] for file in media["image"]] == [file["bytes"] for file in content]
    assert with_names(rest)["label"].to_list() == labels

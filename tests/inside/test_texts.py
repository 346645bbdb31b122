"""Texts as people have them: tests/test_texts.py runs this in a project for texts."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from my_project.data import DataModule
from my_project.harness.errors import UserError
from my_project.network import Network, find_words

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

WORDS = ["lorem", "ipsum", "größer", "日本", 'say "no"', "it's", "a;b", "x,y", "NA", "null", "None", "100 %"]


def made(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return texts of all kinds of words, all different, and their labels."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words = random.choice(WORDS, random.integers(2, 7))
        rows.append((f"{' '.join(words)} {number}", ["good", "bad"][number % 2]))
    return rows


def write(path: Path, header: str, rows, separator=",", encoding="utf-8") -> Path:
    """Write a table as a spreadsheet does: with quotes where they are needed."""
    lines = [header.replace(",", separator)]
    for row in rows:
        cells = []
        for cell in row:
            if any(sign in cell for sign in f'{separator}"\n'):
                cell = '"' + cell.replace('"', '""') + '"'
            cells.append(cell)
        lines.append(separator.join(cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def read(path: Path, **settings) -> DataModule:
    data = DataModule(path=str(path), **settings)
    data.setup("fit")
    return data


def contents(data: DataModule) -> dict[str, str]:
    """Return all texts of all splits, as bytes that were made texts again, with their labels."""
    found = {}
    for dataset in (data.train_set, data.val_set, data.test_set):
        for tokens, label in dataset:
            found[bytes(tokens.tolist()).decode()] = data.classes[label]
    return found


@pytest.mark.parametrize(
    "kind", ["csv", "semicolon", "tsv", "no ending", "bom", "utf-16", "gz", "jsonl", "json", "parquet"]
)
def test_every_text_arrives_as_it_is(tmp_path, kind):
    rows = made(60)
    path = tmp_path / "texts.csv"
    table = pl.DataFrame(rows, schema=["text", "label"], orient="row")
    if kind == "gz":
        path = tmp_path / "texts.csv.gz"
        path.write_bytes(gzip.compress(write(tmp_path / "t.csv", "text,label", rows).read_bytes()))
    elif kind == "jsonl":
        path = tmp_path / "texts.jsonl"
        table.write_ndjson(path)
    elif kind == "json":
        path = tmp_path / "texts.json"
        path.write_text(json.dumps(table.to_dicts()))
    elif kind == "parquet":
        path = tmp_path / "texts.parquet"
        table.write_parquet(path)
    else:
        separator = {"semicolon": ";", "tsv": "\t", "no ending": "\t"}.get(kind, ",")
        encoding = {"bom": "utf-8-sig", "utf-16": "utf-16"}.get(kind, "utf-8")
        path = tmp_path / {"tsv": "texts.tsv", "no ending": "Collection"}.get(kind, "texts.csv")
        write(path, "text,label", rows, separator, encoding)
    assert contents(read(path)) == dict(rows)


def test_quotes_that_are_never_closed_lose_no_row(tmp_path):
    """As in the SMS Spam Collection: tabs, and quotes wherever someone has typed them."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(400):
        words = random.choice(["hi", '"', '"what', 'no"', "''", "said"], 5)
        rows.append((f"{number} {' '.join(words)}", ["ham", "spam"][number % 4 == 0]))
    lines = [f"{label}\t{text}" for text, label in rows]
    (tmp_path / "Messages").write_text("\n".join(["Label\tSMS", *lines]) + "\n")
    data = read(tmp_path / "Messages")
    assert contents(data) == {text.strip(): label for text, label in rows}
    assert any("the column SMS is taken for that of the texts" in note for note in data.notes)


def folder_of_texts(folder: Path, rows) -> Path:
    for number, (text, label) in enumerate(rows):
        file = folder / label / f"author{number % 8}_{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n", encoding="utf-8")
    return folder


def test_a_folder_of_text_files(tmp_path):
    rows = made(64)
    folder = folder_of_texts(tmp_path / "texts", rows)
    (folder / "README.txt").write_text("All my texts")
    (folder / "README.txt").unlink()
    data = read(folder)
    assert contents(data) == dict(rows)
    names = data.predict_inputs([folder / "good", folder / "bad" / "author1_1.txt"])
    assert len(names) == 33
    assert names[-1].endswith("author1_1.txt")
    assert bytes(data.predict_set[32].tolist()).decode() == rows[1][0]


def test_splits_of_text_files_are_kept(tmp_path):
    for split, count in {"train": 20, "val": 6, "test": 8}.items():
        folder_of_texts(tmp_path / "texts" / split, made(count))
    data = read(tmp_path / "texts")
    assert [len(part[1]) for part in data.parts.values()] == [20, 6, 8]


@pytest.mark.parametrize("kind", ["files", "table"])
def test_what_belongs_together_is_in_one_split(tmp_path, kind):
    rows = made(64)
    if kind == "files":
        data = read(folder_of_texts(tmp_path / "texts", rows), group=r"(author\d)_")
    else:
        cells = [(text, label, f"author{number % 8}") for number, (text, label) in enumerate(rows)]
        path = write(tmp_path / "texts.csv", "text,label,author", cells)
        data = read(path, group="author")
    places: dict[int, set] = {}
    for split in ("train_set", "val_set", "test_set"):
        for tokens, _ in getattr(data, split):
            number = int(bytes(tokens.tolist()).decode().split()[-1])
            places.setdefault(number % 8, set()).add(split)
    assert all(len(splits) == 1 for splits in places.values())
    assert len(set.union(*places.values())) == 3
    assert "groups: 8, each in one split" in data.notes


def test_missing_texts_and_labels_are_counted(tmp_path):
    """An empty text is an example all the same: there are such among those to predict on, too."""
    rows = [*made(40), ("", "good"), ("  ", "bad"), ("no label", ""), ("nor here", " ")]
    path = write(tmp_path / "texts.csv", "text,label", rows)
    data = read(path)
    assert sum(len(part[1]) for part in data.parts.values()) == 42
    assert any(note.startswith("2 of 42 texts are missing or empty") for note in data.notes), data.notes
    assert any(note.startswith("2 of 44 rows have no label") for note in data.notes), data.notes
    (tmp_path / "new.csv").write_text('text\nabc\n""\n')
    assert len(data.predict_inputs([tmp_path / "new.csv"])) == 2
    assert data.predict_set[1].tolist() == [32]


def test_a_zero_byte_is_no_padding(tmp_path):
    table = pl.DataFrame({"text": [f"a\0b {i}" for i in range(40)], "label": ["a", "b"] * 20})
    table.write_parquet(tmp_path / "texts.parquet")
    assert all(text.startswith("a b ") for text in contents(read(tmp_path / "texts.parquet")))


def test_how_many_texts_are_cut_is_said(tmp_path):
    rows = [(f"{number} " + "ä" * 10 * (number % 4), "ab"[number % 2]) for number in range(40)]
    data = read(write(tmp_path / "texts.csv", "text,label", rows), max_length=30)
    assert any(note.startswith("20 of 40 texts (50%) are longer than 30 bytes") for note in data.notes)
    assert max(len(tokens) for tokens, _ in data.train_set) == 30
    assert data.test_example(0)  # though it may end within a letter


def test_labels_are_stripped_and_numbers_are_classes(tmp_path):
    rows = [(text, f" {number % 5 + 1}" + " " * (number % 3)) for number, (text, _) in enumerate(made(60))]
    data = read(write(tmp_path / "texts.csv", "text,stars", rows), target="stars")
    assert data.classes == ["1", "2", "3", "4", "5"]
    assert "stars: 5 different numbers are taken for classes" in data.notes


REFUSED = {
    "numbers": (
        "text,label",
        lambda n: f"{n} text,{n * 0.37}",
        {},
        ["label has 60 different numbers", "data.target"],
    ),
    "two columns": (
        "title,body,label",
        lambda n: f"no {n},yes {n},{n % 2}",
        {},
        ["--data.text_column", "title, body"],
    ),
    "no column": ("a,b,label", lambda n: f"{n},{n % 7},{n % 2}", {}, ["--data.text_column", "a, b"]),
    "no target": ("text,kind", lambda n: f"text {n},{n % 2}", {}, ["--data.target", "text, kind"]),
    "wrong group": ("text,label", lambda n: f"t {n},{n % 2}", {"group": "author"}, ["data.group", "author"]),
    "wrong text": ("text,label", lambda n: f"t {n},{n % 2}", {"text_column": "x"}, ["data.text_column", "x"]),
    "one class": ("text,label", lambda n: f"t {n},a", {}, ["only one class, a"]),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_gets_one_line(tmp_path, mistake):
    header, row, settings, words = REFUSED[mistake]
    path = tmp_path / "texts.csv"
    path.write_text("\n".join([header, *map(row, range(60))]) + "\n")
    assert_refused(words, path, **settings)


def assert_refused(words: list[str], path: Path, **settings) -> None:
    with pytest.raises(UserError) as error:
        read(path, **settings)
    assert len(str(error.value)) <= 400
    assert all(word in str(error.value) for word in words), error.value


def test_other_encodings(tmp_path):
    """Latin-1 is read where it can be nothing else; what can be anything is named."""
    folder = folder_of_texts(tmp_path / "texts", made(40))
    (folder / "good" / "old.txt").write_bytes("Ein schöner, großer Tag für Müller".encode("latin-1"))
    (folder / "good" / "wide.txt").write_bytes("Ein schöner Tag".encode("utf-16"))
    data = read(folder)
    found = contents(data)
    assert "Ein schöner, großer Tag für Müller" in found
    assert "Ein schöner Tag" in found
    (note,) = [note for note in data.notes if "UTF-8" in note]
    assert "old.txt" in note
    for name in ("one", "two"):
        (folder / "bad" / f"{name}.txt").write_bytes(b"\xd0\xff\x81\xfe what\n")
    assert_refused(["one.txt", "line 1"], folder)


def test_lines_are_divided_where_a_reader_sees_it(tmp_path):
    data = read(write(tmp_path / "texts.csv", "text,label", made(30)))
    (tmp_path / "new.txt").write_bytes("a\u2028b\x0bc\r\n\nd\re\x85f".encode())
    names = data.predict_inputs([tmp_path / "new.txt"])
    assert [name.rpartition(":")[2] for name in names] == ["1", "2", "3", "4"]
    found = [bytes(tokens.tolist()).decode() for tokens in data.predict_set]
    assert found == ["a\u2028b\x0bc", " ", "d", "e\x85f"]


def test_a_file_that_cannot_be_read_is_left_out_of_the_prediction(tmp_path):
    data = read(write(tmp_path / "texts.csv", "text,label", made(30)))
    new = tmp_path / "new"
    new.mkdir()
    (new / "a.txt").write_text("one\ntwo\n")
    (new / "b.txt").write_bytes(b"\xd0\xff\x81\xfe what\n")
    (new / "c.csv").write_text("text\nthree\n")
    names = data.predict_inputs([new])
    assert names == [f"{new}/a.txt:1", f"{new}/a.txt:2", f"{new}/b.txt", f"{new}/c.csv:1"]
    assert data.predict_set.readable.tolist() == [True, True, False, True]
    with pytest.raises(UserError, match=r"b\.txt"):
        data.predict_inputs([new / "b.txt"])


def test_prediction_reads_the_column_of_training(tmp_path):
    rows = [(f"id{number}", text, str(number), label) for number, (text, label) in enumerate(made(40))]
    data = read(write(tmp_path / "texts.csv", "code,review,number,label", rows))
    trained = DataModule()
    trained.load_state_dict(json.loads(json.dumps(data.state_dict())))
    assert "not used: code, number; the texts are in review" in data.notes
    write(tmp_path / "new.csv", "author,review", [("me", "abc"), ("you", "def")])
    write(tmp_path / "new.txt", "author,review", [("me", "abc"), ("you", "d, e")], "\t")
    for file in ("new.csv", "new.txt"):
        assert len(trained.predict_inputs([tmp_path / file])) == 2
        assert bytes(trained.predict_set[0].tolist()).decode() == "abc"


def test_batches_are_padded_and_the_same_from_workers(tmp_path):
    path = write(tmp_path / "texts.csv", "text,label", made(100))
    batches = {}
    for workers in (0, 1):
        data = read(path, num_workers=workers, shuffle=False, batch_size=16)
        batches[workers] = list(data.train_dataloader())
        persistent = data.train_dataloader()
        assert persistent.num_workers == workers
    for (tokens, labels), (others, other_labels) in zip(batches[0], batches[1], strict=True):
        assert tokens.dtype == torch.int64
        assert tokens.equal(others)
        assert labels.equal(other_labels)
        assert (tokens > 0).sum(dim=1).max() == tokens.shape[1]
    for index in range(16):
        tokens, label = data.train_set[index]
        assert batches[0][0][0][index, : len(tokens)].equal(tokens)
        assert not batches[0][0][0][index, len(tokens) :].any()
        assert batches[0][0][1][index] == label


def test_many_texts_take_the_memory_of_their_bytes(tmp_path):
    count = 200_000
    table = pl.DataFrame(
        {"text": [f"{number:0100}" for number in range(count)], "label": ["a", "b"] * (count // 2)}
    )
    table.write_parquet(tmp_path / "texts.parquet")
    data = read(tmp_path / "texts.parquet", text_column="text")
    texts = data.train_set.texts
    assert texts.content.numel() == 100 * count
    assert texts.content.data_ptr() == data.test_set.texts.content.data_ptr()
    assert not any(isinstance(value, pl.Series) for part in data.parts.values() for value in part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a bc, d", [1, 1, 2, 2, 2, 2, 3]),
        ('"it\'s" 10', [0, 1, 1, 1, 2, 2, 2, 3, 3]),
        ("größer", [1] * 8),
        ("日本 x", [1, 1, 1, 2, 2, 2, 2, 3]),
        ("?! ", [0, 0, 0]),
    ],
)
def test_network_finds_words_in_any_script(text, expected):
    tokens = torch.tensor([list(text.encode())])
    starts, _ = find_words(tokens)
    assert starts.cumsum(dim=1).tolist() == [expected]


def test_network_reads_words_by_their_neighbours_and_in_either_case():
    torch.manual_seed(0)
    network = Network(num_classes=3).eval()
    texts = ["who found what", "WHO found What", "what found who"]
    tokens = torch.tensor([list(text.encode()) for text in texts])
    with torch.no_grad():
        scores = network(tokens)
        words, _ = network.backbone.words(tokens)
    torch.testing.assert_close(words[0], words[1])
    assert (scores[0] - scores[2]).abs().max() > 1e-3

"""Your own data, for real: each kind of file trains, is tested and predicted; a mistake gets one line."""

import csv
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import QUESTIONS
from datasets import Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from project import TINY, run_many

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def projects(bake) -> dict[str, Path]:
    """Bake a project for each task, and write the data that the commands below name into it."""
    made = {task: bake(accept_hooks=False, task=task) for task in QUESTIONS["task"]}
    write_images(made["image"])
    write_texts(made["text"])
    write_sounds(made["audio"])
    write_tables(made["tabular"])
    return made


def write_images(folder: Path) -> None:
    random = np.random.default_rng(0)

    def save(name: str, size=(12, 10), mode="RGB") -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8), mode).save(path)

    for i in range(8):
        for name, mode in [("red", "RGB"), ("grey", "L"), ("clear", "RGBA")]:
            for data in ("mixed", "broken"):
                save(f"{data}/{name}/{i}.png", mode=mode)
            save(f"grey/{name}/{i}.png", (20, 30) if i else (5, 5), "L")
            for split in ("train", "val", "test"):
                save(f"split/{split}/{name}/{i}.png")
                save(f"unseen/{split}/{name if split == 'train' else 'new'}/{i}.jpg")
        save(f"single/cat/{i}.png")
        save(f"hollow/cat/{i}.png")
    save("loose/0.png")
    (folder / "mixed" / ".thumbs").mkdir()
    shutil.copy(folder / "mixed" / "red" / "0.png", folder / "mixed" / ".thumbs" / "0.png")
    (folder / "mixed" / "red" / "folder.png").mkdir()
    write_hostile(folder)
    (folder / "hollow" / "dog").mkdir()
    (folder / "empty").mkdir()
    (folder / "mixed" / "red" / "._0.png").write_text("of a Mac")
    (folder / "broken" / "red" / "note.png").write_text("no image")
    cut = folder / "broken" / "red" / "cut.jpg"
    Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])


def write_hostile(folder: Path) -> None:
    """Write data that would take the memory, read files from elsewhere, or run a program."""
    for name in ("cat/0.png", "dog/0.png"):
        (folder / "bomb" / name).parent.mkdir(parents=True)
        Image.new("1", (20_000, 20_000)).save(folder / "bomb" / name)
    shutil.make_archive(str(folder / "archive"), "zip", folder / "single")
    (folder / "script").mkdir()
    (folder / "script" / "script.py").write_text("open('pwned', 'w')")
    elsewhere = ["/etc/passwd", "../../secret.png"] * 9
    pd.DataFrame({"file": elsewhere, "label": ["a", "b"] * 9}).to_csv(folder / "names.csv", index=False)
    features = Features({"image": ImageFeature(), "label": Value("string")})
    content = (folder / "single" / "cat" / "0.png").read_bytes()
    for name, image in {"named": {"bytes": None, "path": "/etc/passwd"}, "held": {"bytes": content}}.items():
        rows = {"image": [image] * 18, "label": ["a", "b"] * 9}
        pq.write_table(pa.table(rows, schema=features.arrow_schema), folder / f"{name}.parquet")


def write_texts(folder: Path) -> None:
    rows = [{"text": f"{word} number {i}", "label": word} for i in range(12) for word in ("one", "zwei")]
    table = pd.DataFrame(rows)
    table.to_csv(folder / "texts.csv", index=False)
    table.to_json(folder / "texts.jsonl", orient="records", lines=True)
    table.rename(columns={"text": "phrase", "label": "language"}).to_csv(folder / "named.csv", index=False)
    table.drop(columns="label").to_csv(folder / "no_label.csv", index=False)
    (folder / "splits").mkdir()
    for split in ("train", "validation", "test"):
        table.to_csv(folder / "splits" / f"{split}.csv", index=False)
    table.assign(text="up 5% $3 & 10% $4", label="$" + table["label"] + "$ \\x").to_csv(
        folder / "dollars.csv", index=False
    )
    (folder / "nothing.txt").write_text("")
    (folder / "header.csv").write_text("text,label\n")
    (folder / "broken.jsonl").write_text('{"text": "a", "label": \n')
    (folder / "new.txt").write_text("one number 3\n\nцвай номер 7\n", encoding="utf-8")
    (folder / "unclear.txt").write_bytes(b"\xd0\xff\x81\xfe what\n")


def write_sounds(folder: Path) -> None:
    random = np.random.default_rng(0)

    def save(name: str, rate=8000, channels=1) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        length = int(rate * random.uniform(0.05, 0.2))
        soundfile.write(path, random.normal(scale=0.1, size=(length, channels)), rate)

    for i in range(8):
        for name in ("low", "high"):
            save(f"sounds/{name}/{i}.wav", rate=16000 if i == 0 else 8000, channels=1 + i % 2)
            save(f"sounds/{name}/{i}.flac")
            save(f"broken/{name}/{i}.wav")
    (folder / "broken" / "low" / "note.wav").write_text("no sound")
    (folder / "broken" / "low" / "none.wav").write_bytes(b"")


def write_tables(folder: Path) -> None:
    random = np.random.default_rng(0)
    size = random.normal(5, 2, 80).round(3)
    colour = random.choice(["red", "green", "blue"], 80)
    table = pd.DataFrame({"size": size, "colour": colour, "id": [f"n{i}" for i in range(80)]})
    table["kind"] = np.where((size > 5) ^ (colour == "red"), "a", "b")
    table["price"] = (3 * size + (colour == "blue")).round(3)
    table.to_csv(folder / "table.csv", index=False)
    table.to_parquet(folder / "table.parquet", index=False)
    table.drop(columns="kind").head(3).assign(colour="pink").to_csv(folder / "new.csv", index=False)
    table.drop(columns=["kind", "size"]).head(3).to_csv(folder / "narrow.csv", index=False)
    table.head(3).assign(size="large").to_csv(folder / "words.csv", index=False)
    for name, test in {
        "narrow_test": table.drop(columns="size"),
        "words_test": table.assign(size="large"),
    }.items():
        (folder / name).mkdir()
        table.to_csv(folder / name / "train.csv", index=False)
        test.to_csv(folder / name / "test.csv", index=False)


# Task: settings, what is predicted, how many rows there must be, what training says.
WORKS = {
    "image": [
        ("--data.path mixed", "mixed", 24, ""),
        ("--data.path grey --data.image_size 16 --data.balanced true", "grey mixed/red/0.png", 25, ""),
        ("--data.path split --data.num_workers 0", "split/test", 24, ""),
        ("--data.path held.parquet", "mixed/red", 8, ""),
        ("--data.path broken --data.skip_unreadable true", "broken/grey", 8, ""),
        ("--data.path mixed --data.fold 2 --data.num_folds 4", "mixed", 24, ""),
    ],
    "text": [
        ("--data.path texts.csv", "new.txt", 3, ""),
        ("--data.path texts.jsonl --data.max_length 5", "no_label.csv texts.jsonl", 48, ""),
        ("--data.path named.csv --data.text_column phrase --data.target language", "named.csv", 24, ""),
        ("--data.path splits", "splits", 72, ""),
        ("--data.path dollars.csv", "dollars.csv", 24, ""),
    ],
    "audio": [
        ("--data.path sounds", "sounds", 32, "resampled to 8000 Hz"),
        ("--data.path broken --data.skip_unreadable true --data.max_seconds 0.1", "sounds/low/0.wav", 1, ""),
    ],
    "tabular": [
        ("--data.path table.csv --data.target kind", "new.csv table.csv", 83, ""),
        ("--data.path table.parquet --data.target kind --data.balanced true", "table.parquet", 80, ""),
        ("--data.path table.csv --data.target price", "table.csv", 80, ""),
        ("--data.dataset diabetes", "", 0, ""),
    ],
}


@pytest.mark.parametrize("task", WORKS)
def test_own_data_train_evaluate_and_predict(projects, home, task):
    project = projects[task]
    done = run_many(project, [f"train.py {TINY} {flags}" for flags, *_ in WORKS[task]], home=home)
    for (flags, _, _, said), result in zip(WORKS[task], done, strict=True):
        assert result.code == 0, f"{flags}\n{result.err}"
        assert said in result.err + result.out
    runs = all_runs(project)[-len(done) :]
    commands = []
    for (_, new, _, _), folder in zip(WORKS[task], runs, strict=True):
        commands.append(f"evaluate.py {folder}")
        if new:
            commands.append(f"predict.py {folder} {new}")
    for command, result in zip(commands, run_many(project, commands, home=home), strict=True):
        assert result.code == 0, f"{command}\n{result.err}"
    for (flags, new, count, _), folder in zip(WORKS[task], runs, strict=True):
        if new:
            assert len(predictions(folder)) == count, flags


def all_runs(project: Path) -> list[Path]:
    """Return the folders of all runs, the newest last."""
    settings = (project / "runs").glob("*/config.yaml")
    return [path.parent for path in sorted(settings, key=lambda path: path.stat().st_mtime)]


def predictions(folder: Path) -> list[str]:
    """Return what predict.py wrote."""
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return [row["prediction"] for row in csv.DictReader(file)]


MISTAKES = {
    "image": {
        "--data.path nowhere": ["no file or folder nowhere"],
        "--data.path empty": ["empty contains no file"],
        "--data.path single": ["one class", "cat"],
        "--data.path hollow": ["hollow/dog contains no file"],
        "--data.path loose": ["loose/0.png is in no class folder"],
        "--data.path broken": ["broken/red/cut.jpg", "broken/red/note.png", "--data.skip_unreadable true"],
        "--data.path bomb": ["bomb/cat/0.png is not an image", "decompression bomb"],
        "--data.path archive.zip": ["archive.zip does not end in .csv"],
        "--data.path my_images/": ["there is no file or folder my_images/"],
        "--data.path script": ["script contains no file"],
        "--data.path script/script.py": ["script/script.py does not end in"],
        "--data.path names.csv": ["names.csv contains no images"],
        "--data.path named.parquet": ["refers to /etc/passwd but does not contain it"],
        "--data.path unseen": ["'new'", "in the validation split", "red"],
        "--data.path config.yaml": ["config.yaml", "no table"],
        "--data.path split --data.fold 0": ["data.fold 0", "test split of their own"],
        "--data.fold 5": ["data.fold must be 0 to 4", "got 5"],
        "--data.prefetch_factor 2": ["data.prefetch_factor", "data.num_workers above 0"],
        "--data.persistent_workers true": ["data.persistent_workers", "data.num_workers above 0"],
        "--data.timeout 5": ["data.timeout", "data.num_workers above 0"],
        "--data.path mixed --data.drop_last true --data.batch_size 64": [
            "data.drop_last",
            "64",
            "18 examples",
        ],
        "--data.num_workers -1": ["data.num_workers must be 0 or more", "-1"],
        "--data.batch_size 0": ["data.batch_size must be at least 1"],
        "--data.val_share 0.9": ["data.val_share + data.test_share must be below 1", "0.9 and 0.2"],
    },
    "text": {
        "--data.path no_label.csv": ["--data.target", "one of text"],
        "--data.path header.csv": ["header.csv", "contains no row"],
        "--data.path broken.jsonl": ["broken.jsonl cannot be read"],
        "--data.path nowhere.csv": ["nowhere.csv"],
    },
    "audio": {
        "--data.path broken": ["broken/low/note.wav", "broken/low/none.wav", "--data.skip_unreadable true"],
        "--data.path nowhere/sounds": ["nowhere/sounds"],
    },
    "tabular": {
        "--data.path table.csv": ["--data.target", "size, colour, id, kind, price"],
        "--data.path table.csv --data.target kind --data.regression true": ["regression", "a"],
        "--data.path table.csv --data.target price --data.balanced true": ["balanced", "regression"],
        "--data.dataset iris": ["data.dataset", "iris"],
        "--data.path narrow_test --data.target kind": ["narrow_test", "no column size"],
        "--data.path words_test --data.target kind": ["words_test", "row 1: size is large, not a number"],
    },
}


@pytest.fixture(scope="module")
def refused(projects, home):
    """Return refused(task), which runs all the mistakes of a task in one process, once."""

    @functools.cache
    def run_mistakes(task: str) -> dict:
        commands = [f"train.py {TINY} {flags}" for flags in MISTAKES[task]]
        # The hub is asked for half a minute, once is enough.
        variables = {} if task == "image" else {"HF_HUB_OFFLINE": "1"}
        done = run_many(projects[task], commands, home=home, variables=variables)
        return dict(zip(MISTAKES[task], done, strict=True))

    return run_mistakes


@pytest.mark.parametrize(("task", "flags"), [(task, flags) for task in MISTAKES for flags in MISTAKES[task]])
def test_a_mistake_gets_one_clear_line(refused, task, flags):
    assert_one_line(refused(task)[flags], MISTAKES[task][flags])


def test_no_data_run_a_program(projects, refused):
    refused("image")
    assert not (projects["image"] / "pwned").exists()


def assert_one_line(done, words: list[str]) -> None:
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 1
    assert "Traceback" not in done.err, done.err
    assert len(lines) == 1, done.err
    for word in words:
        assert word in lines[0]


def test_a_checkpoint_needs_no_data_set(projects, home):
    """Predict after the data set has gone; what is wrong with new inputs is said in one line."""
    project = projects["tabular"]
    commands = ["train.py --data.path gone.csv --data.target kind --trainer.max_epochs 1"]
    shutil.copy(project / "table.csv", project / "gone.csv")
    (trained,) = run_many(project, commands, home=home)
    assert trained.code == 0, trained.err
    (project / "gone.csv").unlink()
    folder = all_runs(project)[-1]
    good, narrow, words = run_many(
        project,
        [f"predict.py {folder} {new}" for new in ("new.csv", "narrow.csv", "words.csv")],
        home=home,
    )
    assert good.code == 0, good.err
    assert "colour in 3 of 3 rows (pink)" in good.err + good.out
    assert_one_line(narrow, ["narrow.csv", "size"])
    assert_one_line(words, ["words.csv, row 1", "size", "large"])


def test_a_test_of_other_data_says_so(projects, home):
    project = projects["tabular"]
    shutil.copy(project / "table.csv", project / "grown.csv")
    train = "train.py --data.path grown.csv --data.target kind --trainer.max_epochs 1"
    (trained,) = run_many(project, [train], home=home)
    assert trained.code == 0, trained.err
    folder = all_runs(project)[-1]
    (same,) = run_many(project, [f"evaluate.py {folder}"], home=home)
    assert "warning: the data" not in same.err
    table = pd.read_csv(project / "grown.csv")
    pd.concat([table, table.head(10)]).to_csv(project / "grown.csv", index=False)
    (other,) = run_many(project, [f"evaluate.py {folder}"], home=home)
    assert other.code == 0, other.err
    assert "warning: the data changed since training" in other.err


def test_what_is_wrong_with_inputs_is_said(projects, home):
    project = projects["text"]
    (trained,) = run_many(project, [f"train.py {TINY} --data.path texts.csv"], home=home)
    assert trained.code == 0, trained.err
    folder = all_runs(project)[-1]
    commands = ["nothing.txt", "new.txt --output .", "unclear.txt"]
    nothing, at_a_folder, unclear = run_many(
        project, [f"predict.py {folder} {words}" for words in commands], home=home
    )
    assert_one_line(nothing, ["nothing to predict", "nothing.txt"])
    assert_one_line(at_a_folder, ["--output .", "name of a file"])
    assert_one_line(unclear, ["unclear.txt, line 1", "UTF-8"])


def test_files_that_cannot_be_read_are_named_passed_over_and_listed(projects, home):
    """By a worker in training, and in prediction, which writes all others."""
    project = projects["image"]
    later = "--data.path broken --data.check false --data.num_workers 1 --data.batch_size 4"
    stopped, trained = run_many(
        project,
        [
            f"train.py {TINY} {later} --trainer.limit_train_batches 1.0",
            f"train.py {TINY} {later} --data.skip_unreadable true --trainer.limit_train_batches 1.0",
        ],
        home=home,
    )
    assert_one_line(stopped, ["broken/red/", "is not an image", "--data.skip_unreadable true"])
    assert trained.code == 0, trained.err
    assert "cannot be read and were passed over" in trained.out + trained.err
    folder = all_runs(project)[-1]
    evaluated, predicted = run_many(
        project, [f"evaluate.py {folder}", f"predict.py {folder} mixed broken/red/note.png"], home=home
    )
    assert evaluated.code == 0, evaluated.err
    assert predicted.code == 0, predicted.err
    assert "1 could not be read and have no row: broken/red/note.png" in predicted.out
    assert len(predictions(folder)) == 24


def test_a_changed_file_is_read_again(projects, home):
    """The cache of `datasets` must not serve an old file."""
    project = projects["text"]
    file = project / "changing.jsonl"
    for classes in (("a", "b"), ("c", "d", "e")):
        rows = [{"text": f"text {i}", "label": label} for i in range(10) for label in classes]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (done,) = run_many(project, [f"train.py {TINY} --data.path {file.name}"], home=home)
        assert done.code == 0, done.err
        folder = all_runs(project)[-1]
        (predicted,) = run_many(project, [f"predict.py {folder} {file.name}"], home=home)
        assert predicted.code == 0, predicted.err
        assert set(predictions(folder)) <= set(classes)

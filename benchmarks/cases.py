"""The data that tasks.py trains on: where they come from, how a run gets them, and what it must reach."""

import csv
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sklearn.datasets import load_iris

FOLDS = [["--data.fold", str(fold)] for fold in range(5)]
SPLITS = [["--data.split_seed", str(seed)] for seed in range(3)]
SEEDS = [["--seed_everything", str(seed)] for seed in range(3)]
SPEAKERS = ("jackson", "nicolas", "theo", "yweweler")


@dataclass(frozen=True)
class Case:
    """What is measured on one data set.

    Args:
        title: What the table calls it.
        task: The task of the project.
        runs: The flags in which its trainings differ: folds, or seeds.
        flags: The flags that all of them have, besides --data.path.
        must: What it must reach; "simple": not less than the simple models on the same splits, minus one
            standard error.
        within: Seconds that a run may take on two cores; None: as long as before.
        prepare: Makes the data out of the folder of data, in an empty folder, and returns the path for
            --data.path, or one for each run; None for the data that come with the project.
    """

    title: str
    task: str
    runs: list[list[str]]
    must: float | str
    within: int | None = None
    flags: tuple[str, ...] = ()
    prepare: Callable[[Path, Path], Path | list[Path]] | None = None


def questions(source: Path, folder: Path) -> Path:
    """Kinds of questions (Li & Roth 2002), with their test split: a folder of train.csv and test.csv."""
    for split in ("train", "test"):
        shutil.copy(source / "text" / f"questions_{split}.csv", folder / f"{split}.csv")
    return folder


def spam(source: Path, folder: Path) -> Path:
    """SMS, spam or not (Almeida & Hidalgo 2011): a file without an ending."""
    return source / "text" / "SMSSpamCollection"


def bank(source: Path, folder: Path) -> Path:
    """Who takes the offer of a bank (Moro et al. 2014)."""
    return source / "tables" / "bank-full.csv"


def penguins(source: Path, folder: Path) -> Path:
    """Kinds of penguins, with missing cells."""
    return source / "tables" / "penguins.csv"


def taxis(source: Path, folder: Path) -> Path:
    """Tips of taxi rides, without `total`, which contains them."""
    return without(source / "tables" / "taxis.csv", "total", folder)


def titanic(source: Path, folder: Path) -> Path:
    """Who survived, without `alive`, which says the same."""
    return without(source / "tables" / "titanic.csv", "alive", folder)


def cars(source: Path, folder: Path) -> Path:
    """Miles per gallon, without `name`, which almost each row has for itself."""
    return without(source / "tables" / "mpg.csv", "name", folder)


def without(file: Path, left_out: str, folder: Path) -> Path:
    """Write a table without one of its columns, and return it."""
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    names = [name for name in rows[0] if name != left_out]
    copy = folder / file.name
    with copy.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return copy


def iris(source: Path, folder: Path) -> Path:
    """150 flowers of scikit-learn as a table of their own."""
    flowers = load_iris()
    copy = folder / "iris.csv"
    with copy.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow([*flowers.feature_names, "species"])
        for row, species in zip(flowers.data, flowers.target, strict=True):
            writer.writerow([*row, flowers.target_names[species]])
    return copy


def photos(source: Path, folder: Path) -> Path:
    """Colour photos of 32×32 pixels in ten classes (CIFAR-10, Krizhevsky 2009), in train/ and test/."""
    with zipfile.ZipFile(source / "photos32.zip") as archive:
        archive.extractall(folder)
    return folder


def speech(source: Path, folder: Path) -> list[Path]:
    """Spoken digits (Free Spoken Digit Dataset): for each of four speakers, training on the other three."""
    paths = []
    with zipfile.ZipFile(source / "speech.zip") as archive:
        sounds = [name for name in archive.namelist() if name.endswith(".wav")]
        for speaker in SPEAKERS:
            for name in sounds:
                split = "test" if f"_{speaker}_" in name else "train"
                archive.extract(name, folder / speaker / split)
            paths.append(folder / speaker)
    return paths


TARGET = "--data.target"
CASES = {
    "questions": Case("questions, their test split", "text", SEEDS, 0.91, 120, prepare=questions),
    "spam": Case("SMS spam", "text", FOLDS, 0.990, 60, (TARGET, "Label"), spam),
    "bank": Case("bank-full", "tabular", FOLDS, 0.907, 180, (TARGET, "y"), bank),
    "taxis": Case("taxis, tip (R²)", "tabular", FOLDS, 0.71, 60, (TARGET, "tip"), taxis),
    "mpg": Case("mpg (R²)", "tabular", FOLDS, 0.875, 20, (TARGET, "mpg"), cars),
    "titanic": Case("titanic", "tabular", FOLDS, "simple", 20, (TARGET, "survived"), titanic),
    "penguins": Case("penguins", "tabular", FOLDS, "simple", 20, (TARGET, "species"), penguins),
    "iris": Case("iris", "tabular", FOLDS, "simple", 20, (TARGET, "species"), iris),
    "photos": Case("photos32, their test split", "image", SEEDS[:1], 0.77, 360, prepare=photos),
    "speech": Case("speech, a speaker left out", "audio", [[]] * 4, 0.80, 120, prepare=speech),
    "digits": Case("the project's digits", "image", SPLITS, 0.985),
    "languages": Case("the project's phrases", "text", SPLITS, 0.83),
    "sounds": Case("the project's sounds", "audio", SPLITS, 0.95),
    "cancer": Case("breast cancer", "tabular", FOLDS, "simple"),
    "diabetes": Case("diabetes (R²)", "tabular", FOLDS, "simple", flags=("--data.dataset", "diabetes")),
}

"""Share examples out to training, validation and test, and number their classes."""

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from .errors import UserError

SPLITS = {"train": "training", "val": "validation", "test": "test"}


def check_shares(val_share: float, test_share: float, fold: int | None, num_folds: int) -> None:
    """Raise a UserError unless the settings leave examples for each of the three splits."""
    if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
        raise UserError(
            "data.val_share + data.test_share must be below 1, and each above 0 "
            f"(got {val_share} and {test_share})"
        )
    if num_folds < 2:
        raise UserError(f"data.num_folds must be at least 2 (got {num_folds})")
    if fold is not None and not 0 <= fold < num_folds:
        raise UserError(
            f"data.fold must be 0 to {num_folds - 1} when data.num_folds is {num_folds} (got {fold})"
        )


def share_out(
    examples: dict[str, tuple],
    *,
    strata: list | None,
    groups: list | None = None,
    val_share: float,
    test_share: float,
    seed: int,
    fold: int | None,
    num_folds: int,
) -> dict[str, tuple]:
    """Return "train", "val" and "test"; those that the data do not have are taken from "train".

    Args:
        examples: For each split that the data have, at least "train": the inputs, the targets and
            whatever else belongs to an example, each a list, an array or a column of a table.
        strata: The class of each training example; each split gets the same share of each class.
        groups: The group of each training example; a group is never divided between splits.
        val_share: Share of the examples to validate on.
        test_share: Share of the examples to test on, if `fold` is None.
        seed: Seed of the split.
        fold: Which of `num_folds` equal parts to test on.
        num_folds: Parts of a cross-validation.

    Raises:
        UserError: If there are too few examples, or a fold is asked for beside a test split.
    """
    if fold is not None and "test" in examples:
        raise UserError(f"data.fold {fold} is not possible: the data have a test split of their own")
    if "val" in examples:
        val_share = 0
    if "test" in examples:
        test_share = 0
    train = examples["train"]
    if groups is None:
        members = np.arange(len(train[0]))
    else:
        _, members = np.unique(groups, return_inverse=True)
    chosen = split(members.max() + 1, strata, val_share, test_share, seed, fold, num_folds)
    parts = {}
    for name in SPLITS:
        if name in examples and name != "train":
            parts[name] = examples[name]
        else:
            indices = np.flatnonzero(np.isin(members, chosen[name]))
            parts[name] = tuple(select(values, indices) for values in train)
    return parts


def split(
    count: int,
    strata: list | None,
    val_share: float,
    test_share: float,
    seed: int,
    fold: int | None,
    num_folds: int,
) -> dict[str, np.ndarray]:
    """Return the indices of "train", "val" and "test": each of `count` examples is in one of them.

    A split with a share of 0 is empty. Otherwise the arguments are those of `share_out`.
    """
    labels = None
    if strata is not None:
        _check_strata(strata, splits=1 + (val_share > 0) + (test_share > 0))
        labels = np.array(strata)
    rest = np.arange(count)
    test = np.arange(0)
    val = np.arange(0)
    try:
        if fold is not None:
            kind = KFold if labels is None else StratifiedKFold
            folds = list(kind(num_folds, shuffle=True, random_state=seed).split(rest, labels))
            rest, test = folds[fold]
        elif test_share > 0:
            rest, test = train_test_split(rest, test_size=test_share, stratify=labels, random_state=seed)
        if val_share > 0:
            share = val_share * count / len(rest)
            if labels is not None:
                labels = labels[rest]
            rest, val = train_test_split(rest, test_size=share, stratify=labels, random_state=seed)
    except ValueError as error:
        raise UserError(f"the data cannot be split: {error}") from error
    return {"train": rest, "val": val, "test": test}


def _check_strata(strata: list, splits: int) -> None:
    """Raise a UserError unless there are two classes, and each has an example for each of the splits."""
    counts = Counter(strata)
    few = []
    for label, count in counts.items():
        if count < splits:
            few.append(f"{label} ({count})")
    if few:
        raise UserError(f"the data cannot be split: too few examples of {', '.join(few)}")
    if len(counts) < 2:
        raise UserError(f"the data cannot be split: there is only one class, {strata[0]}")


def deciles(numbers: Sequence[float]) -> list[int]:
    """Return the decile of each number, as strata; fewer bins for fewer than 100 numbers."""
    count = len(numbers)
    bins = max(2, min(10, count // 10))
    ranks = np.argsort(np.argsort(numbers))
    return (ranks * bins // count).tolist()


def select(values, indices: Sequence[int] | np.ndarray):
    """Return some of the values of a list, an array, a table or one of its columns."""
    if isinstance(values, list):
        return [values[index] for index in indices]
    if hasattr(values, "select"):
        return values.select(indices)
    return values[indices]


def class_names(labels: list) -> list[str]:
    """Return the names of the classes, in order."""
    return [str(label) for label in sorted(set(labels))]


def class_numbers(labels: list, classes: list[str], split: str) -> list[int]:
    """Return the place of each label in `classes`.

    Raises:
        UserError: If a label does not occur in training.
    """
    places = {name: place for place, name in enumerate(classes)}
    numbers = []
    for label in labels:
        if str(label) not in places:
            known = ", ".join(classes[:20])
            raise UserError(
                f"label '{label}' in the {SPLITS[split]} split does not occur in the training split "
                f"(classes: {known})"
            )
        numbers.append(places[str(label)])
    return numbers


def fingerprint(parts: dict[str, tuple]) -> int:
    """Return a number that changes with the targets of the splits, the second entry of each."""
    targets = [parts[name][1] for name in SPLITS]
    return zlib.crc32(repr(targets).encode())


def warn_of_other_data(parts: dict[str, tuple], expected: int) -> None:
    """Say so if the fingerprint of the splits is not the one of the training."""
    if fingerprint(parts) != expected:
        rank_zero_info("warning: the data changed since training, so test examples may have been trained on")

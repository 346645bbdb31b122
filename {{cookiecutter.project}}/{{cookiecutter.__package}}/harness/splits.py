"""Share examples out to training, validation and test, and number their classes."""

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from .errors import UserError, first_few

SPLITS = {"train": "training", "val": "validation", "test": "test"}
LARGE = 100_000  # examples; of a million scikit-learn takes a second, `deal` a fifth


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
    if fold is not None and val_share + 1 / num_folds >= 1:
        raise UserError(
            f"data.val_share {val_share} leaves nothing to train on when a fold is 1/{num_folds} of the data"
        )


def share_out(
    examples: dict[str, tuple],
    *,
    strata: Sequence | None,
    groups: Sequence | None = None,
    val_share: float,
    test_share: float,
    seed: int,
    fold: int | None,
    num_folds: int,
    notes: list[str] | None = None,
) -> dict[str, tuple]:
    """Return "train", "val" and "test"; those that the data do not have are taken from "train".

    Args:
        examples: For each split that the data have, at least "train": the inputs, the targets and
            whatever else belongs to an example, each a list, an array or a column of a table.
        strata: The class of each training example. Each split gets the same share of each class, as far as
            groups allow, and at least one example; classes that are too rare for that are in training only.
        groups: The group of each training example, None where it has none; a group is never divided
            between splits.
        val_share: Share of the examples to validate on.
        test_share: Share of the examples to test on, if `fold` is None.
        seed: Seed of the split.
        fold: Which of `num_folds` equal parts to test on. Each example is in exactly one of them.
        num_folds: Parts of a cross-validation.
        notes: Gets sentences on the splits, and on classes that a split lacks.

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
    members = group_numbers(groups, len(train[1]))
    labels = None
    if strata is not None:
        names, labels = encode(strata)
        if len(names) < 2:
            raise UserError(f"the data cannot be split: there is only one class, {first_few(names)}")
    if labels is None or (
        groups is None and suits_scikit_learn(labels, val_share, test_share, fold, num_folds)
    ):
        chosen = split(members.max() + 1, labels, val_share, test_share, seed, fold, num_folds)
        if groups is not None:
            chosen = {name: np.flatnonzero(np.isin(members, kept)) for name, kept in chosen.items()}
    else:
        chosen = split_groups(members, labels, val_share, test_share, seed, fold, num_folds)
    parts = {}
    for name in SPLITS:
        if name in examples and name != "train":
            parts[name] = examples[name]
        elif len(chosen[name]) == 0:
            raise UserError(too_few(name, train[1], None if groups is None else members.max() + 1))
        else:
            parts[name] = tuple(select(values, np.sort(chosen[name])) for values in train)
    if notes is not None:
        notes += descriptions(parts, list(examples), fold, num_folds)
        if groups is not None:
            notes.append(described_groups(groups, members.max() + 1))
    return parts


def group_numbers(groups: Sequence | None, count: int) -> np.ndarray:
    """Return the number of each example's group; one without a group is a group of its own."""
    if groups is None:
        return np.arange(count)
    alone = np.array([group is None for group in groups])
    known, numbers = encode([group for group in groups if group is not None])
    members = np.zeros(count, dtype=np.int64)
    members[~alone] = numbers
    members[alone] = len(known) + np.arange(alone.sum())
    return members


def suits_scikit_learn(
    labels: np.ndarray, val_share: float, test_share: float, fold: int | None, num_folds: int
) -> bool:
    """Return whether there are not too many examples, and enough of each class to be in each split."""
    if len(labels) > LARGE:
        return False
    shares = [val_share, test_share]
    if fold is not None:
        shares = [val_share, 1 / num_folds]
    smallest = min([share for share in shares if share > 0], default=1)
    return np.bincount(labels).min() * smallest >= 2


def split(
    count: int,
    labels: Sequence | np.ndarray | None,
    val_share: float,
    test_share: float,
    seed: int,
    fold: int | None,
    num_folds: int,
) -> dict[str, np.ndarray]:
    """Return the indices of "train", "val" and "test": each of `count` examples is in one of them.

    A split with a share of 0 is empty. Otherwise the arguments are those of `share_out`.
    """
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
                labels = np.asarray(labels)[rest]
            rest, val = train_test_split(rest, test_size=share, stratify=labels, random_state=seed)
    except ValueError as error:
        raise UserError(f"the data cannot be split: {error}") from error
    return {"train": rest, "val": val, "test": test}


def split_groups(
    members: np.ndarray,
    labels: np.ndarray,
    val_share: float,
    test_share: float,
    seed: int,
    fold: int | None,
    num_folds: int,
) -> dict[str, np.ndarray]:
    """Do what `split` does for examples in groups, rare classes and large data, which scikit-learn does not.

    Its functions refuse a class of one example and may leave a split without a rare one; StratifiedGroupKFold
    compares all groups in Python.
    """
    chosen = {"val": np.arange(0), "test": np.arange(0)}
    rest = np.arange(len(labels))
    if fold is not None:
        folds = deal(members, labels, [1 / num_folds] * num_folds, seed, spread_rare=True)
        chosen["test"] = np.flatnonzero(folds == fold)
        rest = np.flatnonzero(folds != fold)
        val_share = val_share * len(labels) / max(1, len(rest))
        test_share = 0
    shares = {"train": 1 - val_share - test_share, "val": val_share, "test": test_share}
    names = [name for name, share in shares.items() if share > 0]
    places = deal(members[rest], labels[rest], [shares[name] for name in names], seed, spread_rare=False)
    for place, name in enumerate(names):
        chosen[name] = rest[places == place]
    return chosen


def deal(
    members: np.ndarray, labels: np.ndarray, shares: Sequence[float], seed: int, *, spread_rare: bool
) -> np.ndarray:
    """Return which of several parts each example is dealt to; a group goes to one part as a whole.

    Classes are dealt one after the other, those in few groups first, which leave the least choice: the
    iterative stratification of Sechidis et al. 2011.

    Args:
        members: The number of each example's group.
        labels: The number of each example's class.
        shares: The share of each part.
        seed: Seed of the order in which groups are dealt.
        spread_rare: Whether a class in fewer groups than there are parts is dealt to as many parts as it
            can be; otherwise it goes to the first part.
    """
    if len(labels) == 0:
        return labels
    random = np.random.default_rng(seed)
    classes = labels.max() + 1
    cells, counts = np.unique(members * classes + labels, return_counts=True)
    cell_groups, cell_classes = np.divmod(cells, classes)  # a cell: the examples of a class in a group
    ends = np.cumsum(np.bincount(cell_classes))
    by_class = np.split(np.argsort(cell_classes, kind="stable"), ends[:-1])
    part_of = np.full(members.max() + 1, -1)  # of each group; -1: it is not dealt yet
    room = np.array(shares) * len(labels)  # examples that each part still takes
    for mine in sorted(by_class, key=len):
        dealt = part_of[cell_groups[mine]]
        free = random.permutation(mine[dealt < 0])
        if len(mine) < len(shares) and not spread_rare:
            part_of[cell_groups[free]] = 0
        else:
            has = np.bincount(dealt[dealt >= 0], counts[mine][dealt >= 0], minlength=len(shares))
            needs = np.array(shares) * counts[mine].sum() - has
            part_of[cell_groups[free]] = fill(counts[free], needs, has == 0, room)
        room -= np.bincount(part_of[cell_groups[free]], counts[free], minlength=len(shares))
    return part_of[members]


def fill(sizes: np.ndarray, needs: np.ndarray, empty: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Return the part for each group of these sizes, so that each part gets about what it needs.

    Args:
        sizes: Examples in each group.
        needs: Examples that each part should get.
        empty: Whether a part has nothing yet; it gets at least one group, as far as there are enough.
        room: What decides between parts that need equally many.
    """
    parts = np.zeros(len(sizes), dtype=np.int64)
    urgency = needs + 1e-9 * room
    first = [part for part in np.argsort(-urgency, kind="stable") if empty[part]][: len(sizes)]
    order = np.argsort(-sizes, kind="stable")
    large, small = np.split(order, [len(order) - len(first)])
    parts[small] = first
    needs = needs - np.bincount(first, sizes[small], minlength=len(needs))
    same_size = np.split(large, np.flatnonzero(np.diff(sizes[large])) + 1)
    for block in same_size:
        if len(block) == 0:
            continue
        size = sizes[block[0]]
        wanted = needs.clip(min=0)
        numbers = np.floor(len(block) * wanted / wanted.sum() + 1e-9).astype(np.int64)
        while numbers.sum() < len(block):
            numbers[np.argmax(needs - size * numbers + 1e-9 * room)] += 1
        parts[block] = np.repeat(np.arange(len(needs)), numbers)
        needs = needs - size * numbers
    return parts


def too_few(name: str, labels: list | np.ndarray, groups: int | None) -> str:
    """Return what to tell the user if nothing is left for a split."""
    problem = f"the data cannot be split: nothing is left for the {SPLITS[name]} split"
    advice = "add data, or give files or folders called train, val and test"
    if groups is not None:
        return f"{problem}, because data.group makes only {groups} groups; {advice}"
    if isinstance(labels, np.ndarray):
        return f"{problem}: there are only {len(labels)} examples; {advice}"
    counts = [f"{label} ({count})" for label, count in Counter(labels).most_common()]
    return f"{problem}: too few examples of {first_few(counts)}; {advice}"


def descriptions(
    parts: dict[str, tuple], given: Sequence[str], fold: int | None, num_folds: int
) -> list[str]:
    """Return sentences on the size and origin of the splits, and on the classes in them."""
    sizes = []
    for name, (_, labels, *_) in parts.items():
        origin = ""
        if name != "train" and name in given:
            origin = " (a split of its own)"
        elif name == "test" and fold is not None:
            origin = f" (fold {fold} of {num_folds}, from 0)"
        elif name != "train":
            origin = " (drawn from training)"
        sizes.append(f"{len(labels)} {SPLITS[name]}{origin}")
    found = [f"examples: {', '.join(sizes)}"]
    if not isinstance(parts["train"][1], list):
        return found  # numbers to predict
    counts: Counter[str] = Counter()
    for _, labels, *_ in parts.values():
        counts.update(labels)
    found.append(described_classes(counts))
    lacking: dict[tuple, list[str]] = {}  # for some classes and a reason, the splits that have none of them
    for name, (_, labels, *_) in parts.items():
        classes = sorted(counts.keys() - set(labels))
        reason = ": there are too few"
        if name in given and name != "train":
            reason = ""
        if classes:
            lacking.setdefault((first_few(classes), reason), []).append(SPLITS[name])
    for (classes, reason), splits in lacking.items():
        found.append(f"no example of {classes} in {' and '.join(splits)}{reason}")
    return found


def described_classes(counts: Counter[str]) -> str:
    """Return a sentence on the classes: all of them together where they are about equally frequent."""
    most = max(counts.values())
    least = min(counts.values())
    if most <= 1.5 * least:
        size = str(most) if most == least else f"{least} to {most}"
        return f"classes: {len(counts)}, with {size} examples each"
    each = [f"{name} ({count} examples)" for name, count in counts.most_common()]
    return f"classes: {len(counts)}, the most frequent first: {first_few(each)}"


def described_groups(groups: Sequence, count: int) -> str:
    """Return a sentence on the groups of the examples."""
    alone = sum(group is None for group in groups)
    if alone:
        return f"groups: {count}, each in one split; {alone} of them are examples without a group"
    return f"groups: {count}, each in one split"


def encode(values: Sequence) -> tuple[Sequence, np.ndarray]:
    """Return the different values in order, and the place of each value among them."""
    if isinstance(values, np.ndarray):
        return np.unique(values, return_inverse=True)
    names = sorted(set(values))
    places = {name: place for place, name in enumerate(names)}
    return names, np.fromiter(map(places.__getitem__, values), dtype=np.int64, count=len(values))


def deciles(numbers: Sequence[float]) -> np.ndarray:
    """Return the decile of each number, as strata; fewer bins for fewer than 100 numbers."""
    count = len(numbers)
    bins = max(2, min(10, count // 10))
    ranks = np.argsort(np.argsort(numbers))
    return ranks * bins // count


def select(values, indices: np.ndarray):
    """Return some of the values of a list, an array, a table or one of its columns."""
    if isinstance(values, list):
        return [values[index] for index in indices.tolist()]
    if hasattr(values, "select"):
        return values.select(indices)
    return values[indices]


def class_names(labels: Sequence[str]) -> list[str]:
    """Return the names of the classes, in order: numbers by their size, others by the alphabet."""
    names = sorted(set(labels))
    try:
        return sorted(names, key=float)
    except ValueError:
        return names


def known_classes(parts: dict[str, tuple], fold: int | None) -> list[str]:
    """Return the names of the classes in training, and of those that a fold has in its test split only.

    So all folds have the same classes, even if the only example of one is tested on.
    """
    labels = parts["train"][1]
    if fold is not None:
        labels = labels + parts["test"][1]
    return class_names(labels)


def class_numbers(labels: Sequence[str], classes: list[str], split: str) -> np.ndarray:
    """Return the place of each label in `classes`, int64 (N,).

    Raises:
        UserError: If a label does not occur in training.
    """
    places = {name: place for place, name in enumerate(classes)}
    unknown = sorted(set(labels) - places.keys())
    if unknown:
        quoted = [f"'{name}'" for name in unknown]
        raise UserError(
            f"label {first_few(quoted)} in the {SPLITS[split]} split does not occur in the training split "
            f"(classes: {first_few(classes, 10)})"
        )
    return np.fromiter(map(places.__getitem__, labels), dtype=np.int64, count=len(labels))


def fingerprint(parts: dict[str, tuple]) -> int:
    """Return a number that changes with the targets of the splits, the second entry of each."""
    found = 0
    for name in SPLITS:
        targets = parts[name][1]
        if isinstance(targets, list):
            targets = np.frombuffer("\n".join(targets).encode(), dtype=np.uint8)
        found = zlib.crc32(targets.tobytes(), found)
        found = zlib.crc32(name.encode(), found)
    return found


def warn_of_other_data(parts: dict[str, tuple], expected: int) -> None:
    """Say so if the fingerprint of the splits is not the one of the training."""
    if fingerprint(parts) != expected:
        rank_zero_info("warning: the data changed since training, so test examples may have been trained on")

"""How examples are shared out, and how many make a batch: tests/test_splits.py runs this in a project."""

import time
from collections import Counter

import numpy as np
import pytest
from my_project.harness.batches import (
    SimilarLengths,
    balanced_sampler,
    check_batch_size,
    chosen_batch_size,
)
from my_project.harness.errors import UserError
from my_project.harness.splits import (
    check_shares,
    class_names,
    class_numbers,
    fingerprint,
    known_classes,
    share_out,
)
from sklearn.model_selection import StratifiedKFold, train_test_split

SHARES = {"val_share": 0.1, "test_share": 0.2, "seed": 0, "fold": None, "num_folds": 5}
SEEDS = range(30)


def shared(labels: list, groups: list | None = None, given: dict | None = None, **settings) -> dict:
    """Return the labels and the indices of the examples of each split."""
    examples = {"train": (np.arange(len(labels)), labels)}
    for split, values in (given or {}).items():
        examples[split] = (np.arange(len(values)), values)
    return share_out(examples, strata=labels, groups=groups, **SHARES | settings)


def random_classes(seed: int) -> list[str]:
    """Return the labels of a few or many examples, of classes that are frequent or rare."""
    random = np.random.default_rng(seed)
    labels = []
    for kind in range(random.integers(2, 12)):
        labels += [f"c{kind}"] * int(random.choice([1, 2, 3, 4, 5, 7, 10, 20, 150]))
    labels += ["c0", "c0", "c0", "c1"]
    random.shuffle(labels)
    return labels


def random_groups(seed: int) -> tuple[list[str], list[str]]:
    """Return labels and groups of about equal or of very different sizes, some with more than one class."""
    random = np.random.default_rng(seed)
    labels = []
    groups = []
    spread = random.choice([1, 4, 40])
    for group in range(random.integers(8, 60)):
        kind = random.integers(3)
        for _ in range(random.integers(1, spread + 1)):
            mixed = random.random() < 0.1
            labels.append("abc"[random.integers(3) if mixed else kind])
            groups.append(f"g{group}")
    return labels, groups


@pytest.mark.parametrize("seed", SEEDS)
def test_each_class_is_in_each_split_or_in_training_only(seed):
    labels = random_classes(seed)
    notes: list[str] = []
    parts = shared(labels, notes=notes)
    indices = np.concatenate([part[0] for part in parts.values()])
    assert sorted(indices) == list(range(len(labels)))
    for name, count in Counter(labels).items():
        found = {split: part[1].count(name) for split, part in parts.items()}
        if count < 3:
            assert found == {"train": count, "val": 0, "test": 0}
            assert any("no example of" in note and "in validation and test" in note for note in notes)
        else:
            assert min(found.values()) >= 1
            assert abs(found["test"] - 0.2 * count) <= 1
            assert abs(found["val"] - 0.1 * count) <= 1
    again = shared(labels)
    other = shared(labels, seed=1)
    assert all((again[split][0] == parts[split][0]).all() for split in parts)
    assert any(list(other[split][0]) != list(parts[split][0]) for split in parts)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_example_is_tested_on_in_one_fold(seed):
    labels = random_classes(seed)
    tested = []
    for fold in range(5):
        parts = shared(labels, fold=fold)
        assert sum(len(part[0]) for part in parts.values()) == len(labels)
        assert len(parts["test"][0]) >= len(labels) // 5 - len(set(labels))
        tested += list(parts["test"][0])
        assert known_classes(parts, fold) == class_names(labels)
        for name, count in Counter(labels).items():
            assert parts["train"][1].count(name) >= min(1, count - 1)
    assert sorted(tested) == list(range(len(labels)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("folds", [None, 3])
def test_groups_are_never_divided(seed, folds):
    labels, groups = random_groups(seed)
    tested: list[int] = []
    for fold in range(folds or 1):
        parts = shared(labels, groups, fold=None if folds is None else fold, num_folds=folds or 5)
        places = {}
        for split, (indices, _) in parts.items():
            for index in indices:
                assert places.setdefault(groups[index], split) == split
        assert len(places) == len(set(groups))
        tested += list(parts["test"][0])
    if folds:
        assert sorted(tested) == list(range(len(labels)))


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_one_class_are_stratified(seed):
    """Each class is in each split if it has three groups, and the splits have about their shares."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 6, size=150)
    kinds = random.choice(3, p=[0.02, 0.28, 0.7], size=150)
    labels = []
    groups = []
    for group, (size, kind) in enumerate(zip(sizes, kinds, strict=True)):
        labels += ["abc"[kind]] * int(size)
        groups += [str(group)] * int(size)
    parts = shared(labels, groups)
    for name, count in Counter(labels).items():
        of_class = len({group for group, label in zip(groups, labels, strict=True) if label == name})
        if of_class >= 3:
            assert all(name in part[1] for part in parts.values())
            assert abs(parts["test"][1].count(name) - 0.2 * count) <= 5


def test_the_speakers_of_all_words_are_shared_out():
    """Few groups, each with examples of all classes."""
    labels = [str(i % 10) for i in range(400)]
    groups = [f"speaker {i // 100}" for i in range(400)]
    tested = set()
    for fold in range(4):
        parts = shared(labels, groups, fold=fold, num_folds=4)
        assert [len(parts[split][0]) for split in ("train", "val", "test")] == [200, 100, 100]
        tested.add(groups[parts["test"][0][0]])
    assert len(tested) == 4
    parts = shared(labels[:300], groups[:300])
    assert [len(part[0]) for part in parts.values()] == [100, 100, 100]


def test_five_examples_of_each_of_twenty_classes():
    labels = [f"c{i % 20}" for i in range(100)]
    parts = shared(labels)
    assert [len(part[0]) for part in parts.values()] == [60, 20, 20]


def test_examples_without_a_group_are_alone():
    labels = ["a", "b"] * 50
    groups = ["x"] * 20 + [None] * 80
    notes: list[str] = []
    parts = shared(labels, groups, notes=notes)
    assert notes[-1] == "groups: 81, each in one split; 80 of them are examples without a group"
    assert all({"a", "b"} == set(part[1]) for part in parts.values())
    assert min(len(part[0]) for part in parts.values()) >= 5


def test_frequent_classes_are_split_by_scikit_learn():
    labels = [str(i % 7) for i in range(700)]
    rest, test = train_test_split(np.arange(700), test_size=0.2, stratify=labels, random_state=0)
    kept = [labels[i] for i in rest]
    train, val = train_test_split(rest, test_size=0.1 * 700 / len(rest), stratify=kept, random_state=0)
    parts = shared(labels)
    for split, indices in {"train": train, "val": val, "test": test}.items():
        assert set(parts[split][0]) == set(indices)
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)
    for fold, (_, indices) in enumerate(folds):
        assert set(shared(labels, fold=fold)["test"][0]) == set(indices)


def test_a_million_labels_take_no_time():
    random = np.random.default_rng(0)
    labels = random.choice(["ham", "spam", "eggs"], 1_000_000).tolist()
    groups = [f"user {number}" for number in random.integers(300_000, size=1_000_000)]
    for given in (None, groups):
        start = time.process_time()
        parts = shared(labels, given, notes=[])
        class_numbers(parts["train"][1], class_names(parts["train"][1]), "train")
        fingerprint(parts)
        assert time.process_time() - start < 3  # 0.6 on an idle machine; Python's loops took 7
        for share, (_, found) in zip((0.7, 0.1, 0.2), parts.values(), strict=True):
            assert abs(found.count("spam") / labels.count("spam") - share) < 0.001


def test_numbers_to_predict_are_split_by_what_they_are():
    numbers = np.random.default_rng(0).normal(size=31)
    strata = (np.argsort(np.argsort(numbers)) * 3 // 31).tolist()
    notes: list[str] = []
    parts = share_out({"train": (np.arange(31), numbers)}, strata=strata, notes=notes, **SHARES)
    assert isinstance(parts["val"][1], np.ndarray)
    assert len(notes) == 1
    before = fingerprint(parts)
    parts["val"][1][0] += 1
    assert fingerprint(parts) != before


def test_what_is_said_of_the_splits():
    notes: list[str] = []
    labels = ["a"] * 50 + ["b"] * 30 + ["c", "c"]
    shared(labels, given={"val": ["a", "b", "b"]}, notes=notes)
    sizes, classes, *lacking = notes
    assert sizes == "examples: 65 training, 3 validation (a split of its own), 17 test (drawn from training)"
    assert classes.startswith("classes: 3, the most frequent first: a (51 examples), b (32 examples), c (2")
    assert lacking == ["no example of c in validation"]


def test_classes_that_are_alike_are_not_listed():
    for labels, words in {"a" * 40 + "b" * 50 + "c" * 60: "40 to 60", "ab" * 20: "20"}.items():
        notes: list[str] = []
        shared(list(labels), notes=notes)
        assert notes[1] == f"classes: {len(set(labels))}, with {words} examples each"


@pytest.mark.parametrize(
    ("labels", "groups", "settings", "words"),
    [
        (["a"] * 9, None, {}, ["only one class, a"]),
        (["a", "b", "b"], None, {}, ["nothing is left for the validation split", "b (2), a (1)"]),
        (["a", "b"] * 9, ["x", "y"] * 9, {}, ["nothing is left", "data.group makes only 2 groups"]),
        (["a", "b"] * 2, ["x", "y", "x", "z"], {"fold": 4}, ["test split", "only 3 groups"]),
    ],
)
def test_what_cannot_be_split_gets_one_line(labels, groups, settings, words):
    with pytest.raises(UserError) as error:
        shared(labels, groups, **settings)
    assert len(str(error.value)) <= 400
    assert all(word in str(error.value) for word in words), error.value


def test_shares_that_leave_nothing_get_one_line():
    for settings in [(0.9, 0.2, None, 5), (0.0, 0.2, None, 5), (0.5, 0.2, 1, 2), (0.1, 0.2, 5, 5)]:
        with pytest.raises(UserError, match=r"data\.(val_share|fold)"):
            check_shares(*settings)
    with pytest.raises(UserError, match="there are only 2 examples"):
        share_out({"train": ([0, 1], np.array([0.1, 2]))}, strata=[0, 1], **SHARES)


def test_a_class_of_a_given_split_that_training_lacks_gets_one_line():
    labels = [f"new {i}" for i in range(900)] + ["a"]
    with pytest.raises(UserError, match=r"'new 0'.* and 895 more in the validation split.*classes: a, b"):
        class_numbers(labels, ["a", "b"], "val")


def test_classes_that_are_numbers_are_in_their_order():
    assert class_names(["10", "9", "2", "10"]) == ["2", "9", "10"]
    assert class_names(["10", "9", "b"]) == ["10", "9", "b"]
    assert class_numbers(["9", "2"], ["2", "9", "10"], "train").tolist() == [1, 0]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("usual", [64, 256])
def test_few_examples_get_smaller_batches(world_size, usual):
    last = 0
    for examples in [*range(1, 200), 250, 400, 999, 1024, 5000, 10**6]:
        notes: list[str] = []
        size = chosen_batch_size(None, examples, world_size, notes, usual=usual)
        assert last <= size <= usual
        assert size == 4 or size * 16 * world_size <= examples
        assert len(notes) == (size < usual)
        assert size == chosen_batch_size(None, examples, world_size, notes, usual=usual)
        assert len(notes) == (size < usual)
        last = size
    assert chosen_batch_size(50, 10, world_size, [], usual=usual) == 50
    with pytest.raises(UserError, match=r"data.batch_size must be at least 1 \(got 0\)"):
        check_batch_size(0)


def test_samplers_take_a_million_examples():
    lengths = np.random.default_rng(0).integers(1, 256, size=1_000_000)
    start = time.process_time()
    order = list(SimilarLengths(lengths, 256))
    drawn = list(balanced_sampler((lengths == 7).astype(int)))
    assert time.process_time() - start < 4
    assert sorted(order) == list(range(len(lengths)))
    assert abs(np.mean(lengths[drawn] == 7) - 0.5) < 0.01

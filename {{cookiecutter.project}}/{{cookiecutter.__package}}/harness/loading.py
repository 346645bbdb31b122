"""Split examples and load them in batches: what is the same whatever they are."""

import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import count

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_info
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from torch.utils.data import DataLoader, Sampler, WeightedRandomSampler

from .datasets import read
from .errors import UserError
from .streaming import Stream, StreamLoader


class SplitDataModule(LightningDataModule, ABC):
    """Split examples and load them in batches; a subclass says how to `read`, `describe` and serve them.

    Args:
        path: Your data: a file, a folder, or a name on the Hugging Face hub; null: data that come with it.
        target: Column of the targets; null: the one called label, target, class or category.
        val_share: Share of the examples to validate on, unless the data have a validation split.
        test_share: Share of the examples to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which examples are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Examples in a batch, on each device.
        num_workers: Processes that load batches; null: for `path` as the cores allow, at most 8; else none.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training examples so that all classes are equally frequent.
        streaming: Whether to read training tables row by row, in every epoch, instead of whole at the start.
        buffer: Rows among which streaming draws the next; as many, and those of val, tell the classes.
    """

    csv_options: dict = {}  # of pandas
    groups: list | None = None  # of the examples that `read` returns to be split: each group into one split

    def __init__(
        self,
        path: str | None = None,
        target: str | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        num_folds: int = 5,
        batch_size: int = 64,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool | None = None,
        drop_last: bool | None = None,
        timeout: float = 0.0,
        shuffle: bool = True,
        balanced: bool = False,
        streaming: bool = False,
        buffer: int = 10_000,
    ):
        super().__init__()
        if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
            raise UserError(f"val_share {val_share} and test_share {test_share}: give three parts above 0")
        if num_folds < 2 or (fold is not None and not 0 <= fold < num_folds):
            raise UserError(f"fold {fold} of num_folds {num_folds}: count folds from 0; have at least two")
        if streaming and (path is None or balanced or fold is not None or buffer < 1):
            raise UserError("streaming: give --data.path and a buffer above 0, no fold, and nothing balanced")
        self.save_hyperparameters(logger=False)

    @abstractmethod
    def read(self) -> dict[str, tuple]:
        """Return inputs and targets: all of them as "train", or with "val" or "test" beside it."""

    def tables(self, endings: Sequence[str] = ()) -> dict:
        """Return the table of each split in `path`; where it is streamed, the training rows to look at."""
        first = self.hparams.streaming and self.hparams.buffer
        return read(self.hparams.path, endings, first, **self.csv_options)

    def describe(self, inputs, targets: list) -> dict:
        """Return what the training examples say about how to treat others, as plain values."""
        return {}

    @abstractmethod
    def dataset(self, inputs, targets: list | None = None):
        """Return the `Dataset` of a split; without targets, that of new inputs."""

    collate: Callable | None = None

    def class_names(self, targets: list) -> list[str]:
        """Return the classes, in order; none for a regression."""
        return [str(target) for target in sorted(set(targets))]

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """Inputs and targets of the three splits."""
        settings, parts = self.hparams, self.read()
        inputs, targets = parts["train"]
        if settings.fold is not None and "test" in parts:
            raise UserError(f"fold {settings.fold}: {settings.path} has a test split of its own")
        if settings.streaming and len(parts) < 3:
            raise UserError(f"streaming: {settings.path} needs files called val and test beside train")
        val, test = (0 if name in parts else settings[f"{name}_share"] for name in ("val", "test"))
        strata = None if self.groups else targets if self.class_names(targets) else tenths(targets)
        _, groups = np.unique(self.groups or range(len(targets)), return_inverse=True)
        chosen = split(
            groups.max() + 1, strata, val, test, settings.split_seed, settings.fold, settings.num_folds
        )
        for name, members in chosen.items():
            if name not in parts or name == "train":
                indices = np.flatnonzero(np.isin(groups, members))
                part = inputs.select(indices) if hasattr(inputs, "select") else inputs[indices]
                parts[name] = part, [targets[i] for i in indices]
        return parts

    @cached_property
    def facts(self) -> dict:
        """What is found in the training split; it travels in the checkpoint."""
        inputs, targets = self.parts["train"]
        known = {"classes": self.class_names(targets), "fingerprint": self.fingerprint()}
        return known | self.describe(inputs, targets)

    def fingerprint(self) -> int:
        return zlib.crc32(repr([targets for _, targets in self.parts.values()]).encode())

    def state_dict(self) -> dict:
        return self.facts

    def load_state_dict(self, state_dict: dict) -> None:
        if vars(self).get("facts", state_dict) != state_dict:
            raise UserError("the data or their split are not what they were: start a new run")
        self.facts = state_dict

    @property
    def classes(self) -> list[str]:
        return self.facts["classes"]

    def setup(self, stage: str) -> None:
        if self.fingerprint() != self.facts["fingerprint"]:
            rank_zero_info("warning: the data are not those of the training; what it has seen may be tested")
        self.train_set, self.val_set, self.test_set = (
            self.dataset(self.parts[name][0], self.numbers(name, self.parts[name][1]))
            for name in ("train", "val", "test")
        )

    def numbers(self, name: str, targets: list) -> list:
        """Return the targets of a split as class indices, or in a regression as they are."""
        if not self.classes:
            return targets
        numbers = {label: number for number, label in enumerate(self.classes)}
        for target in targets:
            if str(target) not in numbers:
                known = ", ".join(self.classes[:20])
                raise UserError(
                    f"{self.hparams.path}: {target} in the {name} split is no class of training: {known}"
                )
        return [numbers[str(target)] for target in targets]

    def train_dataloader(self) -> DataLoader:
        if self.hparams.streaming:
            kind = partial(StreamLoader, trainer=self.trainer) if self.trainer else DataLoader
            return self.loader(Stream(self), kind, batch_size=None, collate_fn=None, persistent_workers=False)
        settings, size = self.hparams, len(self.train_set)
        drop_last = size >= settings.batch_size if settings.drop_last is None else settings.drop_last
        if drop_last and size < settings.batch_size:
            raise UserError(f"drop_last leaves none of {size} examples in batches of {settings.batch_size}")
        sampler = self._balanced() if settings.balanced else self.sampler() if settings.shuffle else None
        shuffle = settings.shuffle and sampler is None
        return self.loader(self.train_set, sampler=sampler, shuffle=shuffle, drop_last=drop_last)

    def sampler(self) -> Sampler | None:
        """Return what orders the training examples; None: any order is as likely as any other."""
        return None

    def _balanced(self) -> Sampler:
        if not self.classes:
            raise UserError("balanced: a regression has no classes to draw alike; leave it out")
        labels = self.numbers("train", self.parts["train"][1])
        weights = (1 / np.bincount(labels))[labels]
        return WeightedRandomSampler(weights.tolist(), len(labels))

    def val_dataloader(self) -> DataLoader:
        return self._each_once(self.val_set)

    def test_dataloader(self) -> DataLoader:
        return self._each_once(self.test_set)

    def _each_once(self, dataset) -> DataLoader:
        """Deal the examples out to the processes, none twice, in equally many batches.

        Lightning repeats some instead, which changes the metrics. A process with a batch more would wait for
        the others for ever, so where that would happen the batches are a little larger.
        """
        world = self.trainer.world_size if self.trainer else 1
        size, (least, more) = self.hparams.batch_size, divmod(len(dataset), world)
        if not least or world == 1:
            return self.loader(dataset)
        sampler = UnrepeatedDistributedSampler(dataset, world, self.trainer.global_rank, shuffle=False)
        size = next(size for size in count(size) if least % size or not more)
        return self.loader(dataset, sampler=sampler, batch_size=size)

    def loader(self, dataset, kind: Callable = DataLoader, **options) -> DataLoader:
        """Return a loader with the settings that all splits share."""
        settings = self.hparams
        devices = self.trainer.num_devices if self.trainer else 1
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        default = min(8, suggested_max_num_workers(devices)) if settings.path else 0
        default = min(default, dataset.mine().num_shards) if isinstance(dataset, Stream) else default
        workers = default if settings.num_workers is None else settings.num_workers
        persistent, pin = settings.persistent_workers, settings.pin_memory
        options = {
            "batch_size": settings.batch_size,
            "collate_fn": self.collate,
            "persistent_workers": workers > 0 if persistent is None else persistent,
            **options,
        }
        try:
            if settings.timeout and not workers:
                raise ValueError("timeout needs num_workers above 0")
            return kind(
                dataset,
                num_workers=workers,
                pin_memory=on_gpu if pin is None else pin,
                prefetch_factor=settings.prefetch_factor,
                timeout=settings.timeout,
                **options,
            )
        except ValueError as error:
            raise UserError(f"the settings of data do not fit together: {error}") from error


def split(
    count: int, strata: list | None, val: float, test: float, seed: int, fold: int | None, num_folds: int
) -> dict[str, np.ndarray]:
    """Share out `count` examples, each to one split, in equal shares of each of `strata`."""
    few = [f"{label} ({n})" for label, n in Counter(strata or ()).items() if n < 1 + bool(val) + bool(test)]
    if few or len(seen := set(strata or (0, 1))) < 2:
        reason = f"too few examples of {', '.join(map(str, few))}" if few else f"one class only: {seen.pop()}"
        raise UserError(f"the data cannot be split: {reason}")
    labels = None if strata is None else np.array(strata)
    rest, tested, validated = np.arange(count), np.arange(0), np.arange(0)
    try:
        if fold is not None:
            folds = (KFold if labels is None else StratifiedKFold)(num_folds, shuffle=True, random_state=seed)
            rest, tested = list(folds.split(rest, labels))[fold]
        elif test:
            rest, tested = train_test_split(rest, test_size=test, stratify=labels, random_state=seed)
        if val:
            labels, share = None if labels is None else labels[rest], val * count / len(rest)
            rest, validated = train_test_split(rest, test_size=share, stratify=labels, random_state=seed)
    except ValueError as error:
        raise UserError(f"the data cannot be split: {error}") from error
    return {"train": rest, "val": validated, "test": tested}


def tenths(numbers: list[float]) -> list[int]:
    """Return for each number in which tenth of them it lies; of less than 100, in fewer and larger parts."""
    ranks = np.argsort(np.argsort(numbers))
    return (ranks * max(2, min(10, len(numbers) // 10)) // len(numbers)).tolist()


class SimilarLengths(Sampler):
    """A random order in which the examples of a batch are about equally long, so that little is padded."""

    def __init__(self, lengths: Sequence[int], batch_size: int):
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        order = (self.lengths * (1 + 0.1 * torch.rand(len(self)))).argsort()
        rest = len(self) % self.batch_size
        start = int(torch.randint(len(self) - rest + 1, ()))  # or the smaller last batch had the longest
        batches = torch.cat([order[:start], order[start + rest :]]).split(self.batch_size)
        shuffled = [batches[i] for i in torch.randperm(len(self) // self.batch_size)]
        return iter(torch.cat([*shuffled, order[start : start + rest]]).tolist())

"""Loaders whose batches are a function of seed, loader, epoch, pass and number, so a run can go on at any."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from .draws import END, Key, SeededIndices, checksum, set_seed, set_seed_everywhere


@dataclass
class Place:
    """Where the training stands, for its loaders.

    Attributes:
        seed: The seed of the run.
        epoch: The epoch whose batches are read.
        start: The batches of that epoch which were done before the run was stopped.
        states: For each loader, what its data set said of its place there; None if nothing.
    """

    seed: int
    epoch: int = 0
    start: int = 0
    states: list[dict | None] = field(default_factory=list)


class Reader:
    """Where a loader stands: which one it is, in which epoch and pass, and what it has to leave out."""

    def __init__(self, place: Place, trainer: Trainer):
        self.place = place
        self.trainer = trainer
        self.stage = trainer.state.stage.dataloader_prefix
        self.epoch = -1
        self.passes = 0
        self.skip = 0

    def begin(self) -> None:
        """Begin a pass over the data: the first of an epoch, or another one of a loader that is cycled.

        Only training goes on within an epoch, and only training loaders are cycled.
        """
        if self.stage != "train":
            self.epoch = self.trainer.current_epoch
            self.passes = 0
        elif self.epoch != self.place.epoch:
            self.epoch = self.place.epoch
            self.passes = 0
            self.skip = self.place.start

    def key(self, what: str, loader: "Exact") -> Key:
        """Return the key of draws: what for, seed, stage, number of the loader, epoch, pass."""
        return what, self.place.seed, self.stage, self.number(loader), self.epoch, self.passes

    def number(self, loader: "Exact") -> int:
        """Return which of the loaders of its stage it is, so that two over one data set draw differently."""
        for number, other in enumerate(self.loaders_of_stage()):
            if other is loader:
                return number
        return 0

    def loaders_of_stage(self) -> list[Any]:
        """Return the loaders of the stage, however they are nested."""
        trainer = self.trainer
        loaders = {
            "train": trainer.train_dataloader,
            "val": trainer.val_dataloaders,
            "test": trainer.test_dataloaders,
        }
        return CombinedLoader(loaders[self.stage]).flattened


class Exact:
    """What an exact loader does beside the work of its own class; `read` returns the batches of a pass."""

    reader: Reader
    batch: Any = None  # the last one that was read; None at the end of a pass
    first: int | None = None  # the checksum of the first one of all

    def read(self, start: int) -> Iterator[Any]:
        """Return the batches of a pass from number `start` on, which is 0 unless `can_start` says more."""
        raise NotImplementedError

    def can_start(self, length: int | None) -> bool:
        """Return whether `read` can start in the middle without reading the batches before."""
        return False

    def load_again(self) -> Any:
        """Return the first batch of this pass, loaded once more; None if that cannot be done."""
        return None

    def length(self) -> int | None:
        """Return the batches of a pass, None if they are not known."""
        try:
            return len(self)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return None

    def __iter__(self) -> Iterator[Any]:
        reader = self.reader
        reader.begin()
        length = self.length()
        skip = reader.skip
        start = skip if self.can_start(length) else 0
        if length and start >= length:
            # One of several loaders, shorter than the others, was read to its end before the run stopped.
            # It ends at once; if the others make it begin again, it does where it was.
            reader.passes += start // length
            reader.skip = start % length
            return
        key = (*reader.key("batch", self), reader.trainer.global_rank)
        set_seed(*reader.key("iterator", self))
        number = start
        for batch in self.read(start):
            number += 1
            if number > skip:
                self.batch = batch
                if self.first is None:
                    self.first = checksum(batch)
                set_seed_everywhere(reader.trainer, *key, number)
                yield batch
        self.batch = None
        reader.passes += 1
        reader.skip = max(0, skip - number)

    # Lightning asks for these two to see whether a loader can go on within an epoch. It can: its reader
    # knows from where, so Lightning need not save anything.
    def state_dict(self) -> dict:
        """Return nothing: there is nothing that Lightning has to save."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Load nothing."""


class ExactIterable(Exact):
    """An exact loader made of anything that can be iterated over; it goes on by reading to its place."""

    def __init__(self, iterable: Iterable[Any], reader: Reader):
        self.iterable = iterable
        self.reader = reader

    def __len__(self) -> int:
        return len(self.iterable)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.iterable, name)

    def read(self, start: int) -> Iterator[Any]:
        return iter(self.iterable)


class ExactLoader(Exact):
    """An exact loader that is a DataLoader as well, of a class of the user's or of PyTorch's own."""

    kind: type[DataLoader]  # the user's
    order: SeededIndices
    dataset: Any
    batch_sampler: Any
    sampler: Any
    collate_fn: Any
    num_workers: int
    pin_memory: bool

    def is_plain(self) -> bool:
        """Return whether the batches are those of PyTorch's own loader, not what a subclass makes of them."""
        return self.kind.__iter__ is DataLoader.__iter__

    def usual_iterator(self) -> Iterator[Any]:
        """Return what the loader's own class makes of its data set."""
        batches = self.kind.__iter__(self)  # type: ignore[arg-type]
        if self.is_plain():
            return batches
        return self.seeded(batches)

    def seeded(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Seed before each batch is made: the code of a subclass may draw, too."""
        key = self.reader.key("subclass", self)
        for number in count():
            set_seed(*key, number)
            batch = next(batches, END)
            if batch is END:
                return
            yield batch


class ExactMap(ExactLoader):
    """An exact DataLoader over examples that have indices, of which those before a batch are left out."""

    def can_start(self, length: int | None) -> bool:
        return length is not None and self.is_plain()

    def read(self, start: int) -> Iterator[Any]:
        self.order.start = start
        whole_batches = hasattr(self.dataset, "__getitems__") and self.batch_sampler is not None
        if whole_batches and self.is_plain() and not self.num_workers and not self.pin_memory:
            return self.read_directly()
        return self.usual_iterator()

    def read_directly(self) -> Iterator[Any]:
        """Load batches in the way of DataLoader without workers, but without the cost of its iterator."""
        for indices in self.batch_sampler:
            yield self.collate_fn(self.dataset.__getitems__(indices))

    def load_again(self) -> Any:
        if not self.is_plain():
            return None
        key, indices = self.order.first
        set_seed(*key)
        try:
            return self.collate_fn(self.examples(indices))
        except Exception:  # some data sets can be read by workers only
            return None

    def examples(self, indices: Any) -> Any:
        """Return the examples of a batch, not put together yet."""
        if self.batch_sampler is None:
            return self.dataset[indices]
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]

"""Make each batch a function of seed, loader, epoch, pass and number, so that a run can go on at any batch.

No random state is saved. What orders the examples, what loads a batch (augmentation) and what happens
between two batches draws from generators that are seeded anew, with a key that names the place: however
many workers load the data, and wherever the run was stopped, the same batch comes out.
"""

import random
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, get_worker_info

from . import private
from .quiet import Quiet

Key = tuple[int | str, ...]
END = object()  # what `next` returns when there is no more


def set_seed(*key: int | str) -> int:
    """Make what is drawn next a function of `key`; a hundred times faster than `torch.manual_seed`."""
    seed = zlib.crc32(repr(key).encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    return seed


def set_seed_everywhere(trainer: Trainer, *key: int | str) -> None:
    """Make what is drawn next, on the trainer's device as well, a function of `key`."""
    seed = set_seed(*key)
    device = trainer.strategy.root_device
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def checksum(batches: Any) -> int:
    """Return a checksum of the tensors in one or more batches, however they are nested."""
    found = 0

    def add(tensor: Tensor) -> None:
        nonlocal found
        if tensor.layout == torch.strided:
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found = zlib.crc32(content.numpy().tobytes(), found)

    apply_to_collection(batches, Tensor, add)
    return found


class ExactLoaders(Quiet):
    """Replace each loader that the Trainer has made by one of the same class whose batches are exact.

    Also deal validation and test examples out to the processes without repeating any.

    Attributes:
        epoch: The epoch whose training batches are read.
        start: The batches of that epoch which were done before the run was stopped.
        states: For each training loader, what its data set said of its place there; None if nothing.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self.states: list[dict | None] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        allow_open_files()
        # Called for each loader, after Lightning has divided its data among the processes.
        trainer.strategy.process_dataloader = partial(self.make_exact, trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = trainer.current_epoch
        self.start = 0
        self.states = []

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.world_size > 1:
            private.count_in_floats(trainer)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.world_size > 1:
            private.count_in_floats(trainer)

    def make_exact(self, trainer: Trainer, loader: Any) -> Any:
        """Return an exact loader in place of the given one; one that saves its own state stays as it is."""
        if trainer.predicting:
            return loader
        if hasattr(loader, "state_dict"):
            kind = type(loader).__name__
            rank_zero_info(f"{kind} saves its own state: a resumed run is as exact as that state")
            return loader
        reader = Reader(self, trainer)
        if isinstance(loader, DataLoader):
            return exact_loader(loader, reader)
        return ExactIterable(loader, reader)

    def training_loaders(self, trainer: Trainer) -> list["Exact"]:
        """Return the exact training loaders, in Lightning's order."""
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        return [loader for loader in loaders if isinstance(loader, Exact)]


class Reader:
    """Where a loader stands: which one it is, in which epoch and pass, and what it has to leave out."""

    def __init__(self, loaders: ExactLoaders, trainer: Trainer):
        self.loaders = loaders
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
        elif self.epoch != self.loaders.epoch:
            self.epoch = self.loaders.epoch
            self.passes = 0
            self.skip = self.loaders.start

    def key(self, what: str, loader: "Exact") -> Key:
        """Return the key of draws: what for, seed, stage, number of the loader, epoch, pass."""
        return what, self.loaders.seed, self.stage, self.number(loader), self.epoch, self.passes

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
    order: "SeededIndices"
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


class ExactStream(ExactLoader):
    """An exact DataLoader over an IterableDataset, which goes on by reading to its place.

    A data set with a `state_dict` says where it stands, and need not be read, if no worker has it.
    """

    states: dict[int, dict]  # by the number of batches that were read

    def has_state(self) -> bool:
        """Return whether the data set can say where it stands."""
        return not self.num_workers and hasattr(self.dataset, "load_state_dict")

    def saved_state(self) -> dict | None:
        """Return what the data set said of its place when the run was stopped."""
        states = self.reader.loaders.states
        number = self.reader.number(self)
        first_pass = self.reader.skip and not self.reader.passes
        return states[number] if first_pass and number < len(states) else None

    def can_start(self, length: int | None) -> bool:
        return self.saved_state() is not None

    def read(self, start: int) -> Iterator[Any]:
        self.order.start = start
        if start:
            self.dataset.load_state_dict(self.saved_state())
        self.states = {}
        batches = self.in_step(self.noting_states(start))
        length = self.length()
        if length is None:
            return batches
        return self.true_to_length(batches, start, length)

    def noting_states(self, start: int) -> Iterator[Any]:
        """Return the batches; keep what the data set says of its place after each of the last few.

        Lightning and `true_to_length` read one batch ahead, so the newest place is not that of the training.
        """
        for number, batch in enumerate(self.usual_iterator(), start + 1):
            if self.has_state():
                self.states[number] = self.dataset.state_dict()
                self.states.pop(number - 4, None)
            yield batch

    def in_step(self, batches: Iterator[Any]) -> Iterator[Any]:
        """End when the first of several processes has no batch left: the others would wait for it."""
        strategy = self.reader.trainer.strategy
        while True:
            batch = next(batches, END)
            if not strategy.reduce_boolean_decision(batch is not END):
                return
            yield batch

    def true_to_length(self, batches: Iterator[Any], start: int, length: int) -> Iterator[Any]:
        """Tell the Trainer if the data end before their length says: it validates at the end of an epoch."""
        number = start
        batch = next(batches, END)
        while batch is not END:
            following = next(batches, END)
            number += 1
            if following is END and number < length:
                self.shorten_epoch(number, length)
            yield batch
            batch = following

    def shorten_epoch(self, number: int, length: int) -> None:
        """Set the length of an epoch to that of the data, where they are all that is trained on."""
        trainer = self.reader.trainer
        if self.reader.stage != "train" or len(self.reader.loaders_of_stage()) > 1:
            return
        if trainer.fit_loop.max_batches <= number:
            return
        rank_zero_info(f"the training data have {number} batches, not {length} as their length says")
        trainer.fit_loop.max_batches = number
        if isinstance(trainer.val_check_interval, float):
            trainer.val_check_batch = max(1, int(number * trainer.val_check_interval))


def exact_loader(loader: DataLoader, reader: Reader) -> DataLoader:
    """Return a copy of a DataLoader that is exact and still of its class, so its own `__iter__` runs."""
    kind = type(loader)
    mixin = ExactStream if isinstance(loader.dataset, IterableDataset) else ExactMap
    exact_kind: Any = type(f"Exact{kind.__name__}", (mixin, kind), {"kind": kind})
    exact = exact_kind.__new__(exact_kind)
    settings = vars(exact)  # a DataLoader does not let these be set by their names
    settings.update(vars(loader))
    settings["reader"] = reader
    settings["worker_init_fn"] = partial(start_worker, loader.worker_init_fn)
    settings["collate_fn"] = partial(collate_and_share, loader.collate_fn)
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    indices = share_of_process(loader, reader.trainer) or getattr(loader, name)
    settings["order"] = SeededIndices(indices, exact, [loader, loader.sampler, loader.batch_sampler])
    settings[name] = exact.order
    return exact


def share_of_process(loader: DataLoader, trainer: Trainer) -> list[list[int]] | None:
    """Return the batches of indices that this process validates or tests on, None to leave them as they are.

    Lightning's sampler repeats examples to make the shares equal, which changes the metrics. Here each
    example is dealt out once, and all processes have equally many batches: one with a batch more would
    wait for the others for ever.
    """
    sampler = loader.sampler
    world = trainer.world_size
    if world == 1 or trainer.training or type(sampler) is not DistributedSampler or sampler.shuffle:
        return None
    examples = len(loader.dataset)  # type: ignore[arg-type]
    if examples < world or loader.batch_size is None:
        return None
    largest_share = -(-examples // world)  # rounded up
    batches = -(-largest_share // loader.batch_size)
    mine = np.arange(trainer.global_rank, examples, world)
    parts = np.array_split(mine, min(batches, examples // world))
    return [part.tolist() for part in parts]


class SeededIndices:
    """The indices of each batch, with the key of the draws that load it.

    In this process the generators are seeded before a batch is loaded; on the way to a worker the key
    travels along.
    """

    def __init__(self, indices: Iterable[Any], loader: Any, owners: list[Any]):
        self.indices = indices
        self.loader = loader
        self.owners = owners  # what may have a generator or an epoch
        self.start = 0
        self.first: tuple[Key, Any] = ((), None)  # of the pass: the key of its draws, and the indices

    def __len__(self) -> int:
        return len(self.indices)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.indices, name)

    def __iter__(self) -> Iterator[Any]:
        reader = self.loader.reader
        order = reader.key("order", self.loader)
        load = (*reader.key("load", self.loader), reader.trainer.global_rank)
        self.seed_owners(order)
        start = self.start
        self.start = 0
        iterator = iter(self.indices)
        for number in count():
            set_seed(*order, number)  # a sampler may draw at any time
            indices = next(iterator, END)
            if indices is END:
                return
            if number < start:
                continue
            if number == start:
                self.first = (*load, number), indices
            if self.loader.num_workers:
                yield SeededBatch((*load, number), indices)
            else:
                set_seed(*load, number)
                yield indices

    def seed_owners(self, key: Key) -> None:
        """Make the order a function of `key` where loader or samplers have a generator or an epoch."""
        reader = self.loader.reader
        for owner in self.owners:
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(zlib.crc32(repr(key).encode()))
            if hasattr(owner, "set_epoch"):  # Lightning's, if there are several processes
                owner.set_epoch(reader.epoch + 1_000_003 * reader.passes)


class SeededBatch:
    """Indices on their way to a worker: when they arrive they seed it, and are plain indices again."""

    def __init__(self, key: Key, indices: Any):
        self.key = key
        self.indices = indices

    def __reduce__(self) -> tuple[Callable, tuple]:
        return arrive, (self.key, self.indices)


def arrive(key: Key, indices: Any) -> Any:
    """Seed this worker, and return the indices of the batch that it loads next."""
    set_seed(*key)
    return indices


def allow_open_files() -> None:
    """Let this process have as many open files as its user may: each tensor from a worker takes one."""
    with suppress(ImportError, OSError, ValueError):  # of a system that has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collate_and_share(collate_fn: Callable, examples: Any) -> Any:
    """Make a batch; in a worker, put it into shared memory, where the main process reads it.

    PyTorch would do that later, in a thread: if there is too little shared memory, the batch is lost there,
    and the main process waits for it for ever.
    """
    batch = collate_fn(examples)
    if get_worker_info() is not None:
        apply_to_collection(batch, Tensor, share)
    return batch


def share(tensor: Tensor) -> None:
    """Put a tensor into shared memory."""
    if tensor.layout == torch.strided and tensor.device.type == "cpu":
        tensor.share_memory_()


def start_worker(worker_init_fn: Callable | None, number: int) -> None:
    """Leave signals, which may reach the whole process group, to the main process: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_soon)
    if worker_init_fn is not None:
        worker_init_fn(number)


def end_soon(signum: int, frame: Any) -> None:
    """End this worker in ten seconds, should the main process not do it before."""
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(10)

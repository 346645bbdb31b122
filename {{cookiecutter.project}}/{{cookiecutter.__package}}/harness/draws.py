"""Make what is drawn a function of a key that names the place: in this process, and in workers.

No random state is saved. What orders the examples, what loads a batch (augmentation) and what happens
between two batches draws from generators that are seeded anew: however many workers load the data, and
wherever the run was stopped, the same comes out.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.fabric.utilities.apply_func import apply_to_collection
from torch import Tensor

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

"""What a DataLoader is given: options for its workers, and samplers."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning import Trainer
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch import Tensor
from torch.utils.data import Sampler, WeightedRandomSampler

from .errors import UserError

FEWEST_BATCHES = 16  # of an epoch: with one or two, the usual number of epochs has too few steps to learn
SMALLEST_BATCH = 4


def worker_options(
    trainer: Trainer | None,
    *,
    in_memory: bool,
    num_workers: int | None,
    pin_memory: bool | None,
    prefetch_factor: int | None,
    persistent_workers: bool | None,
    timeout: float,
) -> dict:
    """Return the options of a DataLoader by these names, with a choice for each that is None.

    Data in memory need no workers; files get as many as the cores allow, at most 8. Memory is pinned
    if the trainer uses a GPU.

    Raises:
        UserError: If an option needs workers and there are none.
    """
    devices = 1
    on_gpu = False
    if trainer is not None:
        devices = trainer.num_devices
        on_gpu = trainer.strategy.root_device.type == "cuda"
    if num_workers is None:
        num_workers = 0
        if not in_memory:
            num_workers = min(8, suggested_max_num_workers(devices))
    if num_workers < 0:
        raise UserError(f"data.num_workers must be 0 or more (got {num_workers})")
    need_workers = {
        "prefetch_factor": prefetch_factor,
        "persistent_workers": persistent_workers,
        "timeout": timeout,
    }
    for name, value in need_workers.items():
        if value and num_workers == 0:
            raise UserError(f"data.{name} {value} needs data.num_workers above 0 (got 0)")
    if timeout < 0:
        raise UserError(f"data.timeout must be 0 seconds or more (got {timeout})")
    if prefetch_factor is not None and prefetch_factor < 1:
        raise UserError(f"data.prefetch_factor must be at least 1 (got {prefetch_factor})")
    if pin_memory is None:
        pin_memory = on_gpu
    if persistent_workers is None:
        persistent_workers = num_workers > 0
    return {
        "num_workers": num_workers,
        "pin_memory": pin_memory,
        "prefetch_factor": prefetch_factor,
        "persistent_workers": persistent_workers,
        "timeout": timeout,
    }


def drops_last(drop_last: bool | None, examples: int, batch_size: int, trainer: Trainer | None) -> bool:
    """Return whether training leaves out a smaller last batch; None: unless it is the only one.

    Raises:
        UserError: If no batch would be left. With several processes each has its share of the examples.
    """
    world_size = 1
    if trainer is not None:
        world_size = trainer.world_size
    mine = examples // world_size
    if drop_last is None:
        return mine >= batch_size
    if drop_last and mine < batch_size:
        raise UserError(
            f"data.drop_last true leaves no training batch: data.batch_size is {batch_size}, "
            f"and each process has {mine} examples"
        )
    return drop_last


def check_batch_size(batch_size: int | None) -> None:
    """Raise a UserError unless there can be a batch of this size; None: it is chosen later."""
    if batch_size is not None and batch_size < 1:
        raise UserError(f"data.batch_size must be at least 1 (got {batch_size})")


def chosen_batch_size(
    batch_size: int | None, examples: int, world_size: int, notes: list[str], usual: int = 64
) -> int:
    """Return the size of a training batch: the one that is set, or else the usual one if data are not few.

    Few examples get smaller batches, of 32, 16, 8 or 4, so that an epoch has about 16 batches or more.

    Args:
        batch_size: What is set; None: it is chosen.
        examples: Training examples, of which each process has its share.
        world_size: Number of processes.
        notes: Is told of smaller batches.
        usual: The size for data that are not few.
    """
    if batch_size is not None:
        return batch_size
    size = usual
    while size > SMALLEST_BATCH and size * FEWEST_BATCHES * world_size > examples:
        size //= 2
    note = f"{examples} training examples are few: batches of {size}, not {usual} (--data.batch_size)"
    if size < usual and note not in notes:
        notes.append(note)
    return size


def balanced_sampler(labels: Sequence[int] | np.ndarray) -> Sampler:
    """Return a sampler that draws all classes equally often, with replacement."""
    numbers = np.asarray(labels)
    weights = 1 / np.bincount(numbers)[numbers]
    return WeightedRandomSampler(weights.tolist(), len(numbers))


class SimilarLengths(Sampler):
    """A random order in which the examples of a batch are about equally long, so that little is padded."""

    def __init__(self, lengths: Sequence[float] | Tensor, batch_size: int):
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Draw the order anew: by length with some noise, cut into batches that are shuffled."""
        noise = 1 + 0.1 * torch.rand(len(self))
        order = (self.lengths * noise).argsort()
        # A smaller last batch comes from anywhere, or it would always have the longest examples.
        rest = len(self) % self.batch_size
        start = int(torch.randint(len(self) - rest + 1, ()))
        last = order[start : start + rest]
        batches = torch.cat([order[:start], order[start + rest :]]).split(self.batch_size)
        places = torch.randperm(len(self) // self.batch_size)
        shuffled = [batches[place] for place in places]
        return iter(torch.cat([*shuffled, last]).tolist())

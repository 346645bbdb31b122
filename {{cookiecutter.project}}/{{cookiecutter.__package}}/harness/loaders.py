"""Make the Trainer's loaders exact, and deal validation and test examples out to the processes."""

from functools import partial
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from . import private
from .draws import SeededIndices, checksum
from .exact import Exact, ExactIterable, ExactMap, Place, Reader
from .quiet import Quiet
from .streams import ExactStream
from .workers import allow_open_files, collate_and_share, start_worker


class ExactLoaders(Quiet):
    """Replace each loader that the Trainer has made by one of the same class whose batches are exact.

    Also deal validation and test examples out to the processes without repeating any.

    Attributes:
        place: Where the training stands; `Resume` sets it.
    """

    def __init__(self, seed: int):
        self.place = Place(seed)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        allow_open_files()
        # Called for each loader, after Lightning has divided its data among the processes.
        trainer.strategy.process_dataloader = partial(self.make_exact, trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.place.epoch = trainer.current_epoch
        self.place.start = 0
        self.place.states = []

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
        reader = Reader(self.place, trainer)
        if isinstance(loader, DataLoader):
            return exact_loader(loader, reader)
        return ExactIterable(loader, reader)

    def training_loaders(self, trainer: Trainer) -> list[Exact]:
        """Return the exact training loaders, in Lightning's order."""
        loaders = CombinedLoader(trainer.train_dataloader).flattened
        return [loader for loader in loaders if isinstance(loader, Exact)]

    def checksum(self, trainer: Trainer) -> int:
        """Return a checksum of the batches that the training loaders have read last."""
        return checksum([loader.batch for loader in self.training_loaders(trainer)])

    def are_repeatable(self, trainer: Trainer) -> bool:
        """Load the first batch again; say that a resumed run will not be exact if it is another one.

        False as well where a loader cannot load it again.
        """
        if trainer.val_check_interval is None:
            rank_zero_info("validation follows the clock, so a resumed run will not be exact")
        if averages_own_statistics(trainer):
            rank_zero_info(
                "each process averages its own statistics of batch normalisation, of which only those of the "
                "first are saved, so a resumed run will not be exact: see --trainer.sync_batchnorm true"
            )
        known = True
        for loader in self.training_loaders(trainer):
            again = loader.load_again()
            if again is None:
                known = False
            elif checksum(again) != loader.first:
                rank_zero_info(
                    "the data draw from a random generator of their own, so a resumed run will not be exact: "
                    "draw with torch, numpy.random or random"
                )
                return False
        return known

    def description(self, trainer: Trainer) -> str:
        """Return what makes the number of batches of the training loaders."""
        found = []
        for loader in CombinedLoader(trainer.train_dataloader).flattened:
            if isinstance(loader, DataLoader) and hasattr(loader.dataset, "__len__"):
                examples = len(loader.dataset) // trainer.world_size
                found.append(
                    f"{examples} examples in each process, batch_size {loader.batch_size}, "
                    f"drop_last {loader.drop_last}"
                )
        return "; ".join(found) or "the training loader is empty"


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


def averages_own_statistics(trainer: Trainer) -> bool:
    """Return whether a callback averages what differs between the processes."""
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    if trainer.world_size == 1 or not averages:
        return False
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # not SyncBatchNorm
    return any(isinstance(module, kinds) for module in trainer.lightning_module.modules())


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

"""Go on where a run stopped, bit for bit as if it had never stopped.

No random state is saved. The order of the data is a function of (seed, epoch); the draws that load a batch
(augmentation) and those of its step (dropout) are functions of (seed, epoch, batch, rank), however many
workers load them: `ExactLoader` sees to that. `Resume` saves between two batches: every ten minutes, sooner
where that takes less than half a percent of the time, at SIGTERM and at Ctrl-C.
"""

import os
import random
import signal
import sys
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import Metric

from .errors import UserError
from .run import WholeCheckpoints, refuse_full_disk, refuse_nan, resume_command, whole_file


def set_seed(*key: int | str) -> int:
    """Make what is drawn next a function of `key`, a hundred times faster than `torch.manual_seed`."""
    seed = zlib.crc32(repr(key).encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    return seed


class BatchOrder:
    """Yield an epoch's lists of indices, from batch `start` on, each with the key of its draws."""

    def __init__(self, batch_sampler, seed: int, rank: int):
        self.batch_sampler, self.seed, self.rank, self.epoch, self.start = batch_sampler, seed, rank, 0, 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self):
        set_seed("order", self.seed, self.epoch)
        for number, indices in enumerate(self.batch_sampler):
            if number >= self.start:
                yield ("load", self.seed, self.epoch, number, self.rank), indices


class SeededDataset(Dataset):
    """Load each batch with its own draws, whichever worker does it."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, batch: tuple[tuple, list[int]]):
        key, indices = batch
        set_seed(*key)
        together = getattr(self.dataset, "__getitems__", None)
        return together(indices) if together else [self.dataset[i] for i in indices]


class ExactLoader(DataLoader):
    """A DataLoader like `loader` that goes on at the trainer's epoch and batch, and seeds each step."""

    def __init__(self, loader: DataLoader, trainer: Trainer, seed: int):
        order = BatchOrder(loader.batch_sampler, seed, trainer.global_rank)
        vars(self).update(vars(loader), dataset=SeededDataset(loader.dataset), batch_sampler=order)
        self.trainer, self.worker_init_fn = trainer, partial(start_worker, loader.worker_init_fn)

    def __iter__(self):
        order, trainer = self.batch_sampler, self.trainer
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed if trainer.training else 0
        order.epoch, order.start = trainer.current_epoch, done % len(self)
        if hasattr(self.sampler, "set_epoch"):  # Lightning's, if there are several processes
            self.sampler.set_epoch(order.epoch)
        for number, batch in enumerate(super().__iter__(), done):
            seed_step(trainer, order.seed, order.epoch, number, order.rank)
            self.batch = batch
            yield batch

    state_dict = load_state_dict = lambda self, *_: None  # tells Lightning that it can go on within an epoch


def seed_step(trainer: Trainer, *key: int) -> None:
    """Make what a step draws, on whichever device, a function of `key`."""
    seed = set_seed("step", *key)
    if trainer.strategy.root_device.type != "cpu":
        torch.get_device_module(trainer.strategy.root_device).manual_seed(seed)


def start_worker(worker_init_fn, number: int) -> None:
    """Leave signals, which may reach the whole process group, to the main process: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: hasattr(signal, "alarm") and signal.alarm(10))  # not on Windows
    if worker_init_fn:
        worker_init_fn(number)


def checksum(batch) -> int:
    """Return a checksum of the tensors in a batch."""
    tensors = [leaf.cpu().flatten() for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]
    return zlib.crc32(b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors))


class Resume(Callback):
    """Save a run so that it can go on, and go on. The first callback, so that no other has begun a step."""

    def __init__(self, run: Path, seed: int, settings: str):
        self.run, self.seed, self.settings = run, seed, settings
        self.loader: Any = None
        self.resumed: dict = {}
        self.logged: dict = {}
        self.training, self.saving, self.signum, self.next_save = False, False, 0, 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.run = Path(trainer.strategy.broadcast(str(self.run)))  # the id was drawn by each process
        trainer.strategy.checkpoint_io = WholeCheckpoints()
        # Called for each loader, after Lightning has divided its data among the processes.
        trainer.strategy.process_dataloader = partial(self._make_exact, trainer)

    def _make_exact(self, trainer: Trainer, loader):
        usual = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        if usual and loader.batch_sampler is not None and not hasattr(loader, "state_dict"):
            loader = ExactLoader(loader, trainer, self.seed)  # of others, but a StreamLoader, Lightning warns
        if trainer.training and hasattr(loader, "trainer"):
            self.loader = loader
        return loader

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        if trainer.training and "resume" in checkpoint:  # not that of one of Lightning's finders
            self.resumed = checkpoint["resume"]
            trainer.should_stop = self.resumed["should_stop"]
            if (count := len(self.resumed["ranks"])) != trainer.world_size:
                raise UserError(f"the run has {count} processes, not {trainer.world_size}: set devices so")
            if trainer.is_global_zero:
                os.truncate(self.run / "metrics.csv", self.resumed["metrics_size"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.resumed:
            self._restore(trainer, pl_module, **self.resumed["ranks"][trainer.global_rank])
        if trainer.is_global_zero:
            refuse_full_disk(self.run, pl_module)
            with whole_file(self.run / "config.yaml") as file:  # nothing can refuse these settings any more
                file.write(self.settings.encode())
        self.training = True
        self.listen()

    def _restore(self, trainer: Trainer, model: LightningModule, batch: int, metrics: dict, logged: dict):
        # Equal twice and yet not what it was: other data. Different each time: draws that are not seeded.
        found = {checksum(next(iter(self.loader))) for _ in range(2)} if batch else {batch}
        if len(found) == 1 and found != {batch}:
            raise UserError(f"the data or their split are not what they were in {self.run}: start a new run")
        iter(trainer.fit_loop._data_fetcher)  # of a stream it has the first batch already
        trainer.callback_metrics.update(self.resumed["callback_metrics"])
        for name, metric in model.named_modules():
            for state, value in metrics.get(name, {}).items():
                setattr(metric, state, move_data_to_device(value, metric.device))
        self.logged = logged

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch, batch_idx: int):
        trainer.fit_loop._restarting = False  # or ReduceLROnPlateau would miss a step
        due = bool(self.signum) or time.monotonic() > self.next_save
        whole_step = batch_idx % trainer.accumulate_grad_batches == 0  # gradients are not saved
        if whole_step and trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        results = trainer.fit_loop.epoch_loop._results
        for name in self.logged.keys() & results.keys():  # what `self.log` had added up
            result, meta = results[name], results[name].meta
            add = meta.reduce_fx if meta.is_max_reduction or meta.is_min_reduction else torch.add
            for state, value in self.logged.pop(name).items():
                setattr(result, state, add(getattr(result, state), value.to(result.device)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training = False
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        leave = trainer.strategy.reduce_boolean_decision(bool(self.signum), all=False)
        start, self.saving = time.monotonic(), True
        trainer.save_checkpoint(self.run / "checkpoints" / "last.ckpt", weights_only=False)
        end, self.saving = time.monotonic(), False
        self.next_save = end + min(600, 200 * (end - start))
        if leave:
            rank_zero_info(f"\nstopped at step {trainer.global_step}; go on: {resume_command(self.run)}")
            # Lightning kills the main process if another one fails.
            sys.exit(128 + (self.signum or signal.SIGTERM) if trainer.is_global_zero else 0)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        refuse_nan(trainer, self.run)
        if not self.saving:
            return
        results = trainer.fit_loop.epoch_loop._results
        metrics = {name: m for name, m in pl_module.named_modules() if isinstance(m, Metric)}
        mine = {
            "batch": checksum(self.loader.batch) if self.training and self.loader is not None else 0,
            "metrics": {n: {"_update_count": m._update_count, **m.metric_state} for n, m in metrics.items()},
            "logged": {n: r.metric_state for n, r in results.items() if r.is_tensor and not r.has_reset},
        }
        ranks = [move_data_to_device(mine, "cpu")] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(ranks, ranks[0])
        checkpoint["resume"] = {"ranks": ranks, "should_stop": trainer.should_stop}
        checkpoint["resume"]["callback_metrics"] = dict(trainer.callback_metrics)
        if trainer.is_global_zero:
            with (self.run / "metrics.csv").open("ab") as file:
                os.fsync(file.fileno())
                checkpoint["resume"]["metrics_size"] = file.tell()
        if self.training:  # Lightning has counted the batch that is to come
            loops = checkpoint["loops"]["fit_loop"]
            loops["epoch_loop.batch_progress"]["is_last_batch"] = False
            if not trainer.fit_loop._should_accumulate():
                loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def listen(self, *_) -> None:
        """Hear signals instead of Lightning, which would not save, or not stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    on_sanity_check_start = on_test_start = listen

    def _on_signal(self, signum: int, frame) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second one ends the run at once
        self.signum = signum
        if not self.training:
            if rank_zero_only.rank == 0 and (self.run / "config.yaml").exists():
                os.write(2, f"\nstopped; go on: {resume_command(self.run)}\n".encode())  # print may not
            sys.exit(128 + signum)

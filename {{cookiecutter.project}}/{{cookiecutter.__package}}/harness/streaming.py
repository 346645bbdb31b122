"""Train on tables larger than memory or disk: rows are read from their files when they are needed."""

import os
from collections.abc import Iterator
from copy import copy
from functools import partial
from itertools import chain, islice, pairwise

from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from .datasets import streams
from .errors import UserError
from .resume import seed_step, set_seed, start_worker


class Stream(IterableDataset):
    """Batches of training rows, in another order each epoch, of which each process and worker reads its own.

    `data` is a `SplitDataModule` whose `part` returns inputs and targets of rows.
    """

    def __init__(self, data):
        self.data, self.rows = copy(data), streams(data.hparams.path, **data.csv_options)["train"]
        self.data.trainer = None  # it cannot go to a worker
        self.rank, self.world, self.seed, self.epoch = 0, 1, int(os.environ.get("PL_GLOBAL_SEED", 0)), 0

    def mine(self):
        """Return the rows of this process: of whole files, if they can be dealt out evenly, else of each."""
        from datasets.distributed import split_dataset_by_node

        rows, settings = self.rows, self.data.hparams
        if settings.shuffle:
            rows = rows.shuffle(seed=self.seed, buffer_size=settings.buffer)
        return split_dataset_by_node(rows, self.rank, self.world)

    def __iter__(self) -> Iterator:
        settings = self.data.hparams
        rows = self.mine().batch(settings.batch_size, drop_last_batch=bool(settings.drop_last))
        rows.set_epoch(self.epoch)
        worker = getattr(get_worker_info(), "id", 0)  # `datasets` deals out to the workers by itself
        for number, columns in enumerate(rows):
            set_seed("load", self.seed, self.epoch, worker, number, self.rank)
            yield self._batch(columns)

    def _batch(self, columns: dict):
        from datasets import Dataset

        rows = Dataset.from_dict(columns, self.rows.features)
        try:
            inputs, targets = self.data.part(rows)
            examples = self.data.dataset(inputs, self.data.numbers("train", targets))
        except UserError as error:
            known = "counted in a streamed batch; classes are those of val and the first --data.buffer rows"
            raise UserError(f"{error} ({known})") from error
        together = getattr(examples, "__getitems__", lambda indices: [examples[i] for i in indices])
        return (self.data.collate or default_collate)(together(list(range(len(rows)))))


class StreamLoader(DataLoader):
    """Load a `Stream` from the trainer's epoch and batch on, as far as every process has a batch left."""

    batch = None
    state_dict = load_state_dict = lambda self, *_: None  # tells Lightning that it can go on within an epoch

    def __init__(self, stream: Stream, trainer, **options):
        if trainer.max_steps == -1 and not isinstance(trainer.limit_train_batches, int):
            raise UserError(
                "streaming: an epoch's length is not known; give --trainer.max_steps, at which the learning "
                "rate has fallen to 0, or --trainer.limit_train_batches, the batches of an epoch"
            )
        super().__init__(stream, worker_init_fn=partial(start_worker, None), **options)
        self.trainer, stream.rank, stream.world = trainer, trainer.global_rank, trainer.world_size

    def __iter__(self):
        stream, trainer = self.dataset, self.trainer
        progress = trainer.fit_loop.epoch_loop.batch_progress
        done = 0 if progress.is_last_batch else progress.current.completed
        stream.epoch = trainer.current_epoch
        late = not isinstance(trainer.limit_train_batches, int)  # the length is unknown: one is fetched ahead
        batches = self._in_step(islice(super().__iter__(), done, None))
        for number, (before, batch) in enumerate(pairwise(chain([None], batches, [None])), done - late):
            seed_step(trainer, stream.seed, stream.epoch, number, stream.rank)
            self.batch = before if late else batch
            if batch is not None:
                yield batch

    def _in_step(self, batches: Iterator) -> Iterator:
        every_process = self.trainer.strategy.reduce_boolean_decision
        while every_process((batch := next(batches, None)) is not None):
            yield batch

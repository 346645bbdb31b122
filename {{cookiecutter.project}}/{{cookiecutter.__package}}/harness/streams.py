"""Exact loaders over an IterableDataset."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from .draws import END
from .exact import ExactLoader


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
        states = self.reader.place.states
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

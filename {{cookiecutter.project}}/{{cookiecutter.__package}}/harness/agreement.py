"""Let several processes decide together, without asking each other at each step."""

import time

from lightning import Trainer

SECONDS = 1.0  # between two questions


class Agreement:
    """Whether any of the processes wants something, which all learn at the same step.

    To ask takes about as long as a small step. So they ask about once a second: rank 0 tells after how many
    steps the next question comes, by the time that the last ones took.
    """

    def __init__(self) -> None:
        self.asked = time.monotonic()
        self.steps = 1  # from one question to the next
        self.left = 1  # until the next

    def is_wanted(self, trainer: Trainer, mine: bool) -> bool:
        """Return whether a process wants it; all call this at each step. False between two questions."""
        if trainer.world_size == 1:
            return mine
        self.left -= 1
        if self.left > 0:
            return False
        now = time.monotonic()
        seconds_of_a_step = (now - self.asked) / self.steps
        self.asked = now
        steps = int(SECONDS / max(seconds_of_a_step, 1e-6))
        steps = max(1, min(steps, 2 * self.steps))  # the first steps may be quicker than others
        self.steps = trainer.strategy.broadcast(steps)
        self.left = self.steps
        return trainer.strategy.reduce_boolean_decision(mine, all=False)

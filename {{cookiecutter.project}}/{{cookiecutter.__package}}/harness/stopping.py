"""When a training ends: its number of steps, early stopping, and why it ended."""

import math
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info

from .errors import UserError
from .quiet import Quiet

# Settings that decide when a training ends, and what to say of each once it has ended a run.
LENGTHS = (
    "trainer.max_epochs",
    "trainer.min_epochs",
    "trainer.max_steps",
    "trainer.min_steps",
    "trainer.max_time",
    "early_stopping.patience",
    "early_stopping.min_delta",
    "early_stopping.stopping_threshold",
    "early_stopping.divergence_threshold",
)


def total_steps(trainer: Trainer) -> int:
    """Return how many optimizer steps the whole training has, for a schedule of the learning rate.

    It is Lightning's `estimated_stepping_batches`, which does not know that a
    GradientAccumulationScheduler changes the number of batches of a step.

    Raises:
        UserError: If the number is not known.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps) or steps < 0:
        raise UserError(
            "the learning rate follows a schedule that needs the number of steps: give --trainer.max_steps, "
            "or --trainer.max_epochs with data whose length is known "
            f"(trainer.max_epochs is {trainer.max_epochs}, trainer.max_steps is {trainer.max_steps})"
        )
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler) and trainer.max_epochs > 0:
            steps = 0
            for epoch in range(trainer.max_epochs):
                batches_of_a_step = callback.get_accumulate_grad_batches(epoch)
                steps += math.ceil(trainer.num_training_batches / batches_of_a_step)
    if trainer.max_steps > 0:
        steps = min(steps, trainer.max_steps)
    return int(steps)


class Stopping(Quiet, EarlyStopping):
    """Lightning's EarlyStopping, which does not wait for a metric that the model does not log.

    It also forgets a stop that `min_epochs` has overruled, so the training ends when the metric says so
    afterwards; and a resumed run may have another patience.
    """

    patience: int
    wait_count: int
    stopping_reason: EarlyStoppingReason

    def __init__(self, monitor: str | None = None, strict: bool = False, **kwargs: Any):
        super().__init__(monitor=monitor, strict=strict, **kwargs)  # type: ignore[arg-type]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(trainer, "val_check_interval"):  # Lightning leaves it out if it is a time
            trainer.val_check_interval = None
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop and self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = False
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience
        if self.wait_count >= patience:  # it stopped this run, which now goes on
            self.wait_count = 0


def reason_of_end(trainer: Trainer) -> str:
    """Return why the training ended, and the setting that would make it longer."""
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and trainer.should_stop:
            if callback.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
                return (
                    f"early stopping at epoch {callback.stopped_epoch}, since {callback.monitor} was not "
                    f"better for {callback.wait_count} validations; to continue, give a larger "
                    f"--early_stopping.patience (it was {callback.patience})"
                )
            if callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
                return (
                    f"early stopping at epoch {callback.stopped_epoch}: {callback.stopping_reason_message} "
                    "To continue, change the --early_stopping setting"
                )
        if isinstance(callback, Timer) and (callback.time_remaining() or 1) <= 0:
            return "max_time was over; to continue, give a larger --trainer.max_time"
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"max_steps {trainer.max_steps} reached; to continue, give a larger --trainer.max_steps"
    if trainer.current_epoch >= (trainer.max_epochs or 0):
        return f"max_epochs {trainer.max_epochs} reached; to continue, give a larger --trainer.max_epochs"
    return "the model or a callback set trainer.should_stop"


def lasts_longer(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether the settings that decide when a training ends differ, so a finished run goes on.

    Both are flat: `{"trainer.max_epochs": 20, …}`.
    """
    return any(old.get(name) != new.get(name) for name in LENGTHS)


def learning_rates(trainer: Trainer) -> list[float]:
    """Return the learning rate of each group of parameters."""
    rates = []
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            rates.append(float(group["lr"]))
    return rates


def say_if_rates_rise(before: list[float], trainer: Trainer) -> None:
    """Say that a schedule of the learning rate which had ended begins again."""
    for old, new in zip(before, learning_rates(trainer), strict=False):
        if new > 1.01 * old:
            rank_zero_info(
                f"the learning rate rises again, from {old:.2g} to {new:.2g}: its schedule now spans the "
                "longer training; a new run with --model.init_from can have one of its own"
            )
            return

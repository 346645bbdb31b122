"""Loss, learning rates, gradient norm and speed of the training, and a line for each epoch."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from .private import logged_steps
from .quiet import Quiet


class Monitor(Quiet):
    """Log how the training goes, every `log_every_n_steps` and once an epoch.

    It logs to the loggers under the step that Lightning uses, not by `self.log`: so no name clashes with
    the model's, and what an optimizer did not do at a step is not logged there.

    Args:
        lines: Whether to print a line for each epoch, where there is no progress bar.
    """

    def __init__(self, lines: bool):
        self.lines = lines
        self.values: dict[str, float] = {}  # rates and gradient norms of the batch at hand
        self.epoch_start = time.perf_counter()
        self.start: float | None = None  # from when on samples are counted, and until when
        self.end = 0.0
        self.samples = 0
        self.last_epoch: int | None = None  # the one that is over and has no line yet
        self.printed: dict[str, Tensor] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print_line(trainer)
        self.epoch_start = time.perf_counter()
        self.samples = 0
        if self.start is not None:
            self.start = self.epoch_start

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self.is_due(trainer):
            self.values.update(rates(trainer, optimizer))
            self.values.update(gradient_norm(trainer, optimizer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.end = time.perf_counter()
        if self.start is None:
            self.start = self.end  # W&B was opened in the first batch, and code compiled: it says nothing
        else:
            self.samples += count_samples(batch)
        if self.is_due(trainer) and has_stepped(trainer, batch_idx):
            values = self.values | loss_of_step(trainer, outputs)
            known = trainer.logged_metrics  # the model's own go first
            mine = {name: value for name, value in values.items() if name not in known}
            log(trainer, mine, logged_steps(trainer))
            self.values = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        speed = {"time/epoch_seconds": time.perf_counter() - self.epoch_start}
        if self.samples and self.start is not None:
            samples = self.samples * trainer.world_size
            speed["time/samples_per_second"] = samples / (self.end - self.start)
        log(trainer, speed, logged_steps(trainer) - 1)  # as Lightning logs metrics of an epoch
        self.last_epoch = trainer.current_epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print_line(trainer)

    def is_due(self, trainer: Trainer) -> bool:
        """Return whether Lightning, too, logs at the step at hand."""
        every = trainer.log_every_n_steps
        return every > 0 and (logged_steps(trainer) + 1) % every == 0

    def print_line(self, trainer: Trainer) -> None:
        """Print the metrics of the epoch before: those of the training are not known any earlier."""
        if not self.lines or self.last_epoch is None:
            return
        metrics = dict(trainer.callback_metrics)
        words = [f"epoch {self.last_epoch}"]
        for name, value in sorted(metrics.items()):
            plain = plain_name(name)
            repeated = plain != name and plain in metrics
            measured_before = self.printed.get(name) is value
            if not repeated and not measured_before:
                words.append(f"{name} {value:.4f}")
        rank_zero_info("  ".join(words))
        self.printed = metrics
        self.last_epoch = None


def rates(trainer: Trainer, optimizer: Optimizer) -> dict[str, float]:
    """Return the learning rate of each group of parameters, numbered through all optimizers."""
    number = 0
    found = {}
    for other in trainer.optimizers:
        for group in other.param_groups:
            if other is optimizer:
                found[f"train/lr{number or ''}"] = float(group["lr"])
            number += 1
    return found


def gradient_norm(trainer: Trainer, optimizer: Optimizer) -> dict[str, float]:
    """Return the norm of an optimizer's gradients, before they are clipped; nothing if it has none."""
    if isinstance(trainer.strategy, FSDPStrategy):
        return {}  # each process has but a part of each gradient
    gradients = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                gradients.append(dense(parameter.grad))
    if not gradients or optimizer not in trainer.optimizers:
        return {}
    number = trainer.optimizers.index(optimizer)
    return {f"train/grad_norm{number or ''}": float(get_total_norm(gradients))}


def dense(gradient: Tensor) -> Tensor:
    """Return the values of a gradient that are stored."""
    if gradient.layout == torch.strided:
        return gradient
    return gradient.coalesce().values()


def loss_of_step(trainer: Trainer, outputs: Any) -> dict[str, float]:
    """Return the loss that `training_step` returned, if it did."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return {}
    # Lightning has divided it by the number of batches whose gradients it adds up.
    return {"train/loss_step": float(loss) * trainer.accumulate_grad_batches}


def has_stepped(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether an optimizer steps after this batch, and gradients are not only added up."""
    if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
        return True
    return trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches


def count_samples(batch: Any) -> int:
    """Return the length of the first tensor in a batch, 0 if there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts: Any = ()
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, list | tuple):
        parts = batch
    for part in parts:
        samples = count_samples(part)
        if samples:
            return samples
    return 0


def plain_name(name: str) -> str:
    """Return the name that the model gave to what Lightning calls `loss_step` or `loss_epoch`."""
    name, separator, loader = name.partition("/dataloader_idx_")
    return name.removesuffix("_step").removesuffix("_epoch") + separator + loader


def log(trainer: Trainer, values: dict[str, float], step: int) -> None:
    """Log to all loggers."""
    if not values:
        return
    for logger in trainer.loggers:
        logger.log_metrics(values, step)

"""Go on where a run stopped, bit for bit as if it had never stopped.

A run is saved between two batches: every ten minutes, sooner where that takes less than half a percent of
the time but at most every 30 seconds, and when a signal asks it to stop. `draws.py` makes what is drawn a
function of the place, so it does not matter when that is.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_info
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from . import private
from .agreement import Agreement
from .checkpoints import WholeCheckpoints, refuse_full_disk
from .draws import set_seed_everywhere
from .errors import UserError
from .folder import RunFolder, resume_command, shortened, whole_file
from .loaders import ExactLoaders
from .notes import notes_of, write_notes
from .quiet import Quiet
from .signals import Signals
from .stopping import learning_rates, reason_of_end, say_if_rates_rise
from .tracking import Tracking

LEAST_SECONDS = 30  # between two checkpoints
MOST_SECONDS = 600
SHARE_OF_TIME = 1 / 200  # that saving may take


class Resume(Quiet):
    """Begin a run, save it so that it can go on, and go on. The first callback: no other has begun a step.

    Args:
        folder: The run's folder, made before the first step.
        settings: All settings as YAML, for its config.yaml.
        lasts_longer: Whether the settings let a run go on that had ended.

    Attributes:
        next_save: When, on the clock of `time.monotonic`, the run is saved before the next step.
        began: Whether a step was done.
    """

    def __init__(
        self,
        folder: RunFolder,
        settings: str,
        loaders: ExactLoaders,
        signals: Signals,
        tracking: Tracking,
        lasts_longer: bool,
    ):
        self.folder = folder
        self.settings = settings
        self.loaders = loaders
        self.signals = signals
        self.tracking = tracking
        self.lasts_longer = lasts_longer
        self.next_save = 0.0
        self.agreement = Agreement()
        self.began = False
        self.ready = False
        self.saving = False
        self.repeatable = False  # whether a batch that is loaded again is known to be the same
        self.saved: dict[str, Any] = {}  # what a checkpoint says of the place to go on from
        self.sums: dict[str, dict] = {}  # what `self.log` had added up, until it is logged again
        self.rates: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.strategy.broadcast(str(self.folder.path)))  # each process drew an id
        self.folder.path = folder
        trainer.strategy.checkpoint_io = WholeCheckpoints(pl_module, training=stage == "fit")

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the place to go on from, before Lightning makes the loaders."""
        saved = checkpoint.get("resume")
        if saved is None or not trainer.training:
            return
        processes = len(saved["processes"])
        if processes != trainer.world_size:
            raise UserError(
                f"this run was started with {processes} process(es); resume it with "
                f"--trainer.devices {processes} (got {trainer.world_size})"
            )
        self.saved = saved
        trainer.should_stop = saved["should_stop"] and not self.lasts_longer
        if saved["within_epoch"]:
            self.loaders.place.epoch = checkpoint["epoch"]
            self.loaders.place.start = saved["batches"]
            self.loaders.place.states = saved["processes"][trainer.global_rank]["data_sets"]

    def cut_metrics(self, size: int) -> None:
        """Cut off the rows of metrics.csv that will be written again."""
        file = self.folder.path / "metrics.csv"
        left = file.stat().st_size if file.exists() else 0
        if left < size:
            print(f"warning: {file} has lost rows; it goes on from what is left", file=sys.stderr)
        elif left > size:
            os.truncate(file, size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        set_seed_everywhere(trainer, "training", self.loaders.place.seed)
        self.rates = learning_rates(trainer)
        every = trainer.reload_dataloaders_every_n_epochs
        if every and self.saved:
            private.set_reload_epochs(trainer, -every)  # Lightning may have made them for epoch 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        set_seed_everywhere(trainer, "epoch", self.loaders.place.seed, trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.ready:
            self.begin(trainer, pl_module)
        due = bool(self.signals.received) or time.monotonic() > self.next_save
        whole_step = batch_idx % trainer.accumulate_grad_batches == 0
        if not self.began and has_lazy_layers(pl_module):
            whole_step = False  # the first step makes them; there is nothing to save before
        if whole_step and self.agreement.is_wanted(trainer, due):
            self.save(trainer, batch_idx)
        place = self.loaders.place.seed, trainer.current_epoch, batch_idx, trainer.global_rank
        set_seed_everywhere(trainer, "step", *place)

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what comes before the first step: go on from the place that was saved, open what records."""
        self.ready = True
        every = trainer.reload_dataloaders_every_n_epochs
        if every:
            private.set_reload_epochs(trainer, trainer.current_epoch // every * every)
        if self.saved.get("within_epoch"):
            self.go_on(trainer, pl_module)
        else:
            self.repeatable = self.loaders.are_repeatable(trainer)
        if trainer.is_global_zero:
            self.folder.claim()
            if self.saved:
                self.cut_metrics(self.saved["size_of_metrics"])
            refuse_full_disk(self.folder.path, pl_module)
            with whole_file(self.folder.path / "config.yaml") as file:
                file.write(self.settings.encode())
            write_notes(trainer, self.folder.path)
            if hasattr(trainer.datamodule, "save_tokenizer"):
                trainer.datamodule.save_tokenizer(self.folder.path)
            self.folder.begin()
        self.tracking.open(notes_of(trainer))

    def go_on(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring back what Lightning does not: metrics of the running epoch, gradients, hooks, counters."""
        mine = self.saved["processes"][trainer.global_rank]
        self.repeatable = mine["repeatable"]
        self.compare_batch(mine["batch"], self.loaders.checksum(trainer))
        private.not_restarting(trainer)
        set_seed_everywhere(trainer, "epoch", self.loaders.place.seed, trainer.current_epoch)
        private.call_hook(trainer, "on_train_epoch_start", skip=self)
        private.set_logged_steps(trainer, self.saved["logged_steps"])
        trainer.callback_metrics.update(self.saved["callback_metrics"])
        for name, metric in pl_module.named_modules():
            if name in mine["metrics"]:
                restore_metric(metric, mine["metrics"][name])
        for name, parameter in pl_module.named_parameters():
            if name in mine["gradients"]:
                parameter.grad = mine["gradients"][name].to(parameter.device)
        self.sums = mine["sums"]

    def compare_batch(self, expected: int, found: int) -> None:
        """Raise a UserError if the first batch is not the one that the run was stopped at.

        Where batches are not known to be repeatable, it is only said.
        """
        if found == expected:
            return
        problem = "the first batch differs from the one at the checkpoint"
        if not self.repeatable:
            rank_zero_info(f"warning: {problem}, so the run does not go on exactly")
            return
        raise UserError(
            f"{problem}: the data, their split, or the code that reads them changed; put them back, or start "
            f"a new run from its weights: --model.init_from {shortened(str(self.folder.path))}"
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.began = True
        if self.sums:
            self.add_sums(trainer)
        if self.lasts_longer:
            say_if_rates_rise(self.rates, trainer)
            self.lasts_longer = False

    def add_sums(self, trainer: Trainer) -> None:
        """Add what `self.log` had added up before the run was stopped to what it logs of the epoch now."""
        for name, result in private.epoch_sums(trainer).items():
            for state, value in self.sums.pop(name, {}).items():
                add = torch.add
                if result.meta.is_max_reduction or result.meta.is_min_reduction:
                    add = result.meta.reduce_fx
                setattr(result, state, add(getattr(result, state), value.to(result.device)))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.num_training_batches == 0:
            raise UserError(f"there is no batch to train on: {self.loaders.description(trainer)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ready = False
        if trainer.is_global_zero:
            self.folder.note(training=reason_of_end(trainer), **self.folder.time_until_now())
        self.save(trainer, None)

    def save(self, trainer: Trainer, batch_idx: int | None) -> None:
        """Save the run before a batch, or after the last; leave if a signal asked for it."""
        leave = trainer.strategy.reduce_boolean_decision(bool(self.signals.received), all=False)
        start = time.monotonic()
        self.saving = True
        self.batch_idx = batch_idx
        trainer.save_checkpoint(self.folder.path / "checkpoints" / "last.ckpt", weights_only=False)
        self.saving = False
        end = time.monotonic()
        pause = (end - start) / SHARE_OF_TIME
        self.next_save = end + min(MOST_SECONDS, max(LEAST_SECONDS, pause))
        if leave:
            go_on = resume_command(self.folder.path)
            rank_zero_info(f"\nstopped at step {trainer.global_step}; continue: {go_on}")
            if not trainer.is_global_zero:
                sys.exit(0)  # Lightning kills the main process if another one fails
            self.folder.note(stopped=trainer.global_step)
            sys.exit(128 + (self.signals.received or signal.SIGTERM))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self.saving:
            return
        within_epoch = self.batch_idx is not None
        mine = self.state_of_process(trainer, pl_module, within_epoch)
        processes = [mine]
        if trainer.world_size > 1:
            processes = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(processes, mine)
        checkpoint["resume"] = {
            "within_epoch": within_epoch,
            "batches": self.batch_idx or 0,
            "logged_steps": private.logged_steps(trainer),
            "should_stop": trainer.should_stop,
            "callback_metrics": dict(trainer.callback_metrics),
            "size_of_metrics": self.size_of_metrics() if trainer.is_global_zero else 0,
            "processes": processes,
        }
        if within_epoch:  # Lightning has fetched the batch that is to come
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def state_of_process(self, trainer: Trainer, pl_module: LightningModule, within_epoch: bool) -> dict:
        """Return what this process has that Lightning does not save, on the CPU."""
        metrics = {}
        for name, metric in pl_module.named_modules():
            if isinstance(metric, Metric):
                metrics[name] = {"update_count": metric.update_count, **metric.metric_state}
        sums = {}
        for name, result in private.epoch_sums(trainer).items():
            if not private.was_reset(result):
                sums[name] = result.metric_state
        gradients = {}
        if not pl_module.automatic_optimization:  # it may add them up over batches in its own way
            for name, parameter in pl_module.named_parameters():
                if parameter.grad is not None:
                    gradients[name] = parameter.grad
        state: dict[str, Any] = {
            "batch": self.loaders.checksum(trainer) if within_epoch else 0,
            "repeatable": self.repeatable,
            "data_sets": [],
            "metrics": metrics,
            "sums": sums,
            "gradients": gradients,
        }
        if within_epoch:
            for loader in self.loaders.training_loaders(trainer):
                state["data_sets"].append(getattr(loader, "states", {}).get(self.batch_idx))
        return move_data_to_device(state, "cpu")

    def size_of_metrics(self) -> int:
        """Return the size of metrics.csv, all of which is on the disk then."""
        file = self.folder.path / "metrics.csv"
        if not file.exists():
            return 0
        with file.open("ab") as metrics:
            os.fsync(metrics.fileno())
            return metrics.tell()


def has_lazy_layers(model: LightningModule) -> bool:
    """Return whether the first batch decides on the shape of some weights."""
    return any(is_lazy(parameter) for parameter in model.parameters())


def restore_metric(metric: Any, state: dict[str, Any]) -> None:
    """Give a metric of torchmetrics the state that it had."""
    state = dict(state)
    private.set_update_count(metric, state.pop("update_count"))
    for name, value in state.items():
        setattr(metric, name, move_data_to_device(value, metric.device))

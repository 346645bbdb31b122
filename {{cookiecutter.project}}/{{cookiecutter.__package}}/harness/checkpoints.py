"""Checkpoints: whole or absent, of plain values, and of the model that was validated."""

import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.nn.parameter import is_lazy

from .errors import UserError
from .folder import existing_run, resume_command, whole_file
from .names import match_names

# What a checkpoint has beside the model, so that a run can go on.
TRAINING_STATE = (
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
    "current_model_state",  # of EMAWeightAveraging: the weights that are not averaged
    "averaging_state",
    "resume",
)

PLAIN_VALUES = (
    "hyper-parameters and the state of callbacks must be numbers, texts, tensors, and lists or dicts of them"
)


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint whole or not at all, and keep the last but one; load plain values only.

    Args:
        model: Whose weights are saved and loaded.
        training: Whether the state of the training is loaded as well, not the model alone.
    """

    def __init__(self, model: LightningModule, training: bool = False):
        super().__init__()
        self.model = model
        self.training = training
        self.proved = False  # that what is saved can be loaded

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "last.ckpt" and path.exists():
            path.replace(path.with_name("previous.ckpt"))
        try:
            with whole_file(path) as file:
                torch.save(checkpoint, file)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            if "pickle" not in str(error):
                raise
            raise UserError(f"the run cannot be saved: {error}; {PLAIN_VALUES}") from error
        if not self.proved:
            read_checkpoint(path)
            self.proved = True

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict:
        """Read a checkpoint; its weights get the names that they have in the model now."""
        checkpoint = read_checkpoint(Path(path))
        checkpoint["state_dict"] = match_names(checkpoint["state_dict"], self.model.state_dict())
        if not self.training:
            leave_out_training(checkpoint)
        return checkpoint


class BestCheckpoint(ModelCheckpoint):
    """Keep the checkpoint of the best validation; where nothing is monitored, the newest is last.ckpt.

    Args:
        save_weights_only: Whether best.ckpt leaves out the state of the training, which last.ckpt has.
    """

    def __init__(self, save_weights_only: bool = True, **kwargs: Any):
        # Lightning itself would leave out what callbacks save, so the averaged weights of EMA as well.
        super().__init__(save_weights_only=False, **kwargs)
        self.leaves_out_state = save_weights_only
        self.saving = False
        self.validated = False
        self.told = False
        self.copied = ""

    @property
    def state_key(self) -> str:
        return "BestCheckpoint"  # whatever it monitors

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Look for the best checkpoints where the run is now: its folder may have been moved."""
        moved = dict(state_dict, dirpath=self.dirpath)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            if moved[name]:
                moved[name] = self.here(moved[name])
        moved["best_k_models"] = {}
        for path, score in state_dict["best_k_models"].items():
            moved["best_k_models"][self.here(path)] = score
        super().load_state_dict(moved)

    def here(self, path: str) -> str:
        """Return the path of a checkpoint in this run's folder."""
        return str(Path(str(self.dirpath), Path(path).name))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        with self.save_best(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            with self.save_best(trainer):
                super().on_train_epoch_end(trainer, pl_module)
        elif self.validated or not trainer.enable_validation:
            self.say_what_is_logged(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.validated = True
        if self.monitor in trainer.callback_metrics:
            with self.save_best(trainer):
                super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the result of StochasticWeightAveraging, which takes the averaged weights over at the end."""
        super().on_train_end(trainer, pl_module)
        if not self.best_model_path:
            self.say_what_is_logged(trainer)
        for callback in trainer.callbacks:
            if isinstance(callback, StochasticWeightAveraging):
                rank_zero_info("best.ckpt holds the averaged weights of StochasticWeightAveraging")
                with self.save_best(trainer):
                    trainer.save_checkpoint(best_checkpoint(trainer), weights_only=False)

    def say_what_is_logged(self, trainer: Trainer) -> None:
        """Say once that there is no best checkpoint, and what could be compared instead."""
        if self.told or self.monitor is None or self.save_top_k == 0:
            return
        self.told = True
        names = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        when = "" if self.validated else ", and nothing was validated"
        rank_zero_info(
            f"checkpoint.monitor is {self.monitor}, which the model has not logged{when}: "
            "the newest checkpoint is kept and nothing stops early; "
            f"logged: {names}; choose with --checkpoint.monitor"
        )

    @contextmanager
    def save_best(self, trainer: Trainer) -> Iterator[None]:
        """Save without the state of the training; the best of several kept checkpoints becomes best.ckpt."""
        self.saving = True
        yield
        self.saving = False
        if self.best_model_path in ("", self.copied) or not trainer.is_global_zero:
            return
        self.copied = self.best_model_path
        best = best_checkpoint(trainer)
        if self.best_model_path != str(best):
            with whole_file(best) as file:
                file.write(Path(self.best_model_path).read_bytes())

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out the state of the training; other callbacks have put in what is theirs before."""
        refuse_nan(trainer)
        if self.saving and self.leaves_out_state:
            leave_out_training(checkpoint)


def leave_out_training(checkpoint: dict[str, Any]) -> None:
    """Remove from a checkpoint what only going on with the training needs."""
    for name in TRAINING_STATE:
        checkpoint.pop(name, None)


def best_checkpoint(trainer: Trainer) -> Path:
    """Return where the best checkpoint of the run is, or will be."""
    return Path(trainer.default_root_dir, "checkpoints", "best.ckpt")


def refuse_nan(trainer: Trainer) -> None:
    """Raise a UserError if trained weights are not finite, before they are written over better ones."""
    for parameter in trainer.lightning_module.parameters():
        if is_lazy(parameter) or not parameter.requires_grad:
            continue
        if not parameter.isfinite().all():
            find = f"{resume_command(Path(trainer.default_root_dir))} --trainer.detect_anomaly true"
            raise UserError(
                f"the weights are not finite at step {trainer.global_step}; find the operation with {find}"
            )


def refuse_full_disk(folder: Path, model: LightningModule) -> None:
    """Raise a UserError if two checkpoints, with both moments of Adam, would not fit on the disk."""
    size = 0
    for parameter in model.parameters():
        if not is_lazy(parameter):
            size += parameter.nbytes
    needed = 6 * size >> 20
    free = shutil.disk_usage(folder).free >> 20
    if free < needed:
        raise UserError(f"{free} MB are free in {folder}, but two checkpoints need {needed} MB")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, on the CPU.

    Raises:
        UserError: If it is damaged, or holds more than plain values, which may run a program when loaded.
    """
    if not is_whole(path):
        raise UserError(f"{path} is not a checkpoint, or it is damaged")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        kind = found[1] if found else "objects"
        raise UserError(
            f"{path} holds more than plain values ({kind}), so it is not loaded: {PLAIN_VALUES}"
        ) from error


def is_whole(checkpoint: Path) -> bool:
    """Return whether each byte is as it was written; `torch.load` does not check that.

    What unpacks to more than the file itself, which torch never writes, is not even read.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            unpacked = 0
            for entry in archive.infolist():
                unpacked += max(entry.file_size, entry.compress_size)
            return unpacked <= checkpoint.stat().st_size and archive.testzip() is None
    except Exception:  # damage shows in many ways
        return False


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest whole checkpoint to continue from, None if none has been written yet."""
    last = run / "checkpoints" / "last.ckpt"
    previous = run / "checkpoints" / "previous.ckpt"
    if last.exists() and is_whole(last):
        return last
    if not last.exists() and not previous.exists():
        return None
    if not previous.exists() or not is_whole(previous):
        raise UserError(
            f"{last} and {previous} are damaged or missing; "
            f"start a new run with the same settings: --config {run / 'config.yaml'}"
        )
    if last.exists() and rank_zero_only.rank == 0:
        print(f"{last} is damaged and set aside; {previous} is used", file=sys.stderr)
        last.replace(last.with_suffix(".damaged"))
    return previous


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that `path` is, or that of the run that it is: the best, else the newest.

    Raises:
        UserError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"there is no checkpoint {path}; give runs/<id> or a .ckpt file")
    folder = existing_run(path) / "checkpoints"
    for name in ("best.ckpt", "last.ckpt", "previous.ckpt"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"there is no checkpoint in {folder}; the run was stopped before its first step")

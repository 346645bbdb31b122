"""A run is one folder, `runs/<id>`: its settings, checkpoints, metrics, W&B files and predictions."""

import os
import pickle
import secrets
import sys
import time
import zipfile
from pathlib import Path
from typing import TypeVar

from lightning import LightningDataModule, LightningModule, Trainer

from .errors import UserError

Loadable = TypeVar("Loadable", LightningModule, LightningDataModule)


def new_run(root: Path) -> Path:
    """Choose a folder, and so an id, that no other run has, however many start in the same second.

    A W&B sweep, or whoever else sets WANDB_RUN_ID, has chosen the id already.
    """
    unique = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    return root.resolve() / os.environ.get("WANDB_RUN_ID", unique)


def existing_run(folder: str) -> Path:
    """Return the folder of a run, or raise a UserError if it is none."""
    if not Path(folder, "config.yaml").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml; give runs/<id>")
    return Path(folder).resolve()


def find_checkpoint(path: str, name: str = "best.ckpt") -> Path:
    """Return the checkpoint that `path` is, or the one called `name` of the run that it is."""
    checkpoint = existing_run(path) / "checkpoints" / name if Path(path).is_dir() else Path(path)
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}; give runs/<id> or a .ckpt file")
    if not zipfile.is_zipfile(checkpoint):
        raise UserError(f"{checkpoint} is not a checkpoint, or it is damaged")
    return checkpoint


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to, or else its own folder."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def load(cls: type[Loadable], checkpoint: Path) -> Loadable:
    """Build a `cls` with the hyper-parameters, and if it is a model the weights, in a checkpoint."""
    try:
        return cls.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{checkpoint} holds more than plain values, so it is not loaded") from error
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).splitlines()[:2])
        raise UserError(f"{checkpoint} does not fit this project's {cls.__name__}: {reason}") from error


def inference_trainer() -> Trainer:
    """Return a trainer on one device that writes nothing."""
    off = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return Trainer(devices=1, enable_progress_bar=sys.stdout.isatty(), **off)

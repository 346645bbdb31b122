"""A run is one folder, `runs/<id>`: its settings, checkpoints, metrics, W&B files and predictions."""

import pickle
import secrets
import sys
import time
import zipfile
from pathlib import Path

from lightning import LightningDataModule, LightningModule, Trainer

from .errors import UserError


def new_run(root: Path) -> Path:
    """Choose a folder, and so an id, that no other run has, however many start in the same second."""
    return root.resolve() / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


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


def load(cls: type, checkpoint: Path) -> LightningModule | LightningDataModule:
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
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    return Trainer(devices=1, enable_progress_bar=sys.stdout.isatty(), **off)

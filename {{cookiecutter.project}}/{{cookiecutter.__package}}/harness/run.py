"""A run is one folder, `runs/<id>`: its settings, checkpoints, metrics, W&B files and predictions."""

import os
import pickle
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch
from filelock import FileLock, Timeout
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from .errors import UserError

Loadable = TypeVar("Loadable", LightningModule, LightningDataModule)


def new_run(root: Path) -> Path:
    """Choose a folder, and so an id, that no other run has, however many start in the same second.

    A W&B sweep, or whoever else sets WANDB_RUN_ID, has chosen the id already.
    """
    unique = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    folder = root.resolve() / (os.environ.get("WANDB_RUN_ID") or unique)
    if (folder / "config.yaml").exists():
        raise UserError(f"WANDB_RUN_ID names a run that is there: unset it, or {resume_command(folder)}")
    return folder


def existing_run(folder: str) -> Path:
    """Return the folder of a run, or raise a UserError if it is none."""
    if not Path(folder, "config.yaml").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml; give runs/<id>")
    return Path(folder).resolve()


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Make the run's folder and keep other processes out of it."""
    lock = FileLock(run / ".lock", timeout=10)  # workers of a killed process hold it for some seconds
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"another process is training {run}: wait for it, or end it") from error
    except OSError as error:
        raise UserError(f"cannot write to {run}: {error.strerror}; see --trainer.default_root_dir") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written, which takes its place once it is whole and on the disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(path.parent).free >> 20
        raise UserError(f"cannot write {path}, {free} MB are free: {error}") from error
    finally:
        part.unlink(missing_ok=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint whole or not at all, and keep the last but one; load plain values only."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options=None) -> None:
        path = Path(path)
        if path.name == "last.ckpt" and path.exists():
            path.replace(path.with_name("previous.ckpt"))
        with whole_file(path) as file:
            torch.save(checkpoint, file)


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest whole checkpoint to go on from, None if none has been written yet."""
    found = [path for name in ("last", "previous") if (path := run / "checkpoints" / f"{name}.ckpt").exists()]
    newest = next(filter(is_whole, found), None)
    if found and not newest:
        damaged = " and ".join(map(str, found))
        raise UserError(f"{damaged}: damaged; start a new run with --config {run / 'config.yaml'}")
    if found and newest != found[0] and rank_zero_only.rank == 0:
        print(f"{found[0]} is damaged, and set aside; {newest} is used", file=sys.stderr)
        found[0].replace(found[0].with_suffix(".damaged"))
    return newest


def is_whole(checkpoint: Path) -> bool:
    """Return whether each byte is as it was written; `torch.load` does not check that.

    What unpacks to more than the file itself, which torch never writes, is not even read.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            unpacked = sum(max(entry.file_size, entry.compress_size) for entry in archive.infolist())
            return unpacked <= checkpoint.stat().st_size and archive.testzip() is None
    except Exception:  # damage comes out in many ways
        return False


def command(*words: str | Path) -> str:
    """Return what to type, paths as short as the working directory allows, and quoted if they must be."""
    short = [str(word).replace(f"{Path.cwd()}{os.sep}", "") for word in words]
    return subprocess.list2cmdline(short) if os.name == "nt" else shlex.join(short)


def resume_command(run: Path) -> str:
    """Return what to type to go on with a run."""
    return command("python", sys.argv[0], "--resume", run)


def refuse_nan(trainer: Trainer, run: Path) -> None:
    """Raise a UserError if the weights are not numbers, before they are written over better ones."""
    if not all(parameter.isfinite().all() for parameter in trainer.lightning_module.parameters()):
        find = f"find the operation with {resume_command(run)} --trainer.detect_anomaly true"
        raise UserError(f"the weights are not finite at step {trainer.global_step}; {find}")


def refuse_full_disk(run: Path, model: LightningModule) -> None:
    """Raise a UserError if two checkpoints, with both moments of Adam, would not fit on the disk."""
    needed = 6 * sum(parameter.nbytes for parameter in model.parameters()) >> 20
    if (free := shutil.disk_usage(run).free >> 20) < needed:
        raise UserError(f"{free} MB are free in {run}, two checkpoints need {needed} MB")


def find_checkpoint(path: str) -> Path:
    """Return the checkpoint that `path` is, or the best one of the run that it is."""
    checkpoint = existing_run(path) / "checkpoints" / "best.ckpt" if Path(path).is_dir() else Path(path)
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}; give runs/<id> or a .ckpt file")
    if not is_whole(checkpoint):
        raise UserError(f"{checkpoint} is not a checkpoint, or it is damaged")
    return checkpoint


def output_file(given: Path | None, checkpoint: Path, name: str) -> Path:
    """Return where to write: what is given, or `name` in the folder of the checkpoint's run."""
    folder = checkpoint.resolve().parent
    output = given or (folder.parent if folder.name == "checkpoints" else folder) / name
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"--output {output}: give the name of a file, in a folder that exists")
    return output


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
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    return Trainer(devices=1, enable_progress_bar=sys.stdout.isatty(), **off)

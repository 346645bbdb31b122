"""The folder of a run, `runs/<id>`: its id, its lock, how it ended, and files that are whole or absent."""

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import yaml
from filelock import FileLock, Timeout

from .errors import UserError
from .records import read_settings, read_state, seconds_trained


def new_run(root: Path) -> Path:
    """Choose a folder, and so an id, that no other run has, however many start in the same second.

    A W&B sweep, slurm.sh, or whoever else sets WANDB_RUN_ID, has chosen the id already.
    """
    unique = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    folder = root.resolve() / (os.environ.get("WANDB_RUN_ID") or unique)
    if (folder / "config.yaml").exists():
        raise UserError(
            f"WANDB_RUN_ID {folder.name} is a run that exists; unset it, or continue that run: "
            f"{resume_command(folder)}"
        )
    return folder


def runs_folder(project: Path) -> Path:
    """Return where the runs of a project lie: in runs/, or where its config.yaml says."""
    config = project / "config.yaml"
    settings = read_settings(config) if config.exists() else {}
    return Path(settings.get("trainer.default_root_dir") or project / "runs")


def existing_run(path: str | Path) -> Path:
    """Return the folder of a run.

    Raises:
        UserError: If it is none.
    """
    folder = Path(path)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{path} is not the folder of a run: it has no config.yaml; give runs/<id>")
    return folder.resolve()


class RunFolder:
    """A run's folder on disk. It is made at the first step, so a start that fails before leaves nothing."""

    def __init__(self, path: Path):
        self.path = path
        self.opened = time.time()
        self.lock: FileLock | None = None

    def claim(self) -> None:
        """Make the folder and keep other processes out of it.

        Raises:
            UserError: If another process has it, or it cannot be written.
        """
        if self.lock is not None:
            return
        lock = FileLock(self.path / ".lock", timeout=10)  # workers of a killed process hold it for seconds
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process is training {self.path}; wait until it ends, or end it"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror}; give another --trainer.default_root_dir"
            ) from error
        self.lock = lock

    def release(self) -> None:
        """Let other processes have the folder."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def discard(self) -> None:
        """Remove the folder of a run that has not done a step, unless it is that of another process."""
        if self.lock is not None:
            self.release()
            shutil.rmtree(self.path, ignore_errors=True)

    def note(self, **state: object) -> None:
        """Record in state.yaml how far the run has come: why its training ended, whether it is finished."""
        part = self.path / ".state.yaml.part"
        text = yaml.safe_dump({**self.state(), **state}, allow_unicode=True)
        part.write_text(text, encoding="utf-8")
        part.replace(self.path / "state.yaml")

    def state(self) -> dict:
        """Return what was recorded."""
        return read_state(self.path)

    def begin(self) -> None:
        """Record that the run trains from now on, and how long it has trained before."""
        state = self.state()
        now = time.time()
        self.note(
            created=state.get("created", now),
            seconds=seconds_trained(self.path, state) or 0.0,
            since=now,
            finished=False,
            training=None,
            stopped=None,
            failed=None,
            pruned=None,
        )

    def has_begun(self) -> bool:
        """Return whether this process, or one that it has started, has begun to train the run."""
        since = self.state().get("since")
        return since is not None and since >= self.opened

    def time_until_now(self) -> dict[str, float]:
        """Return what to record of the time that the run has trained."""
        if not self.has_begun():
            return {}
        state = self.state()
        now = time.time()
        return {"seconds": round(state["seconds"] + now - state["since"], 1), "since": now}

    def end(self, **state: object) -> None:
        """Record how the run ended, and how long it has trained in all."""
        self.note(**{**self.time_until_now(), "since": None, **state})


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written; it takes its place once it is whole and on the disk.

    Raises:
        UserError: If it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free >> 20
        raise UserError(f"cannot write {path}, {free} MB are free: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def command(*words: str | Path) -> str:
    """Return what to type, paths as short as the working directory allows, and quoted if they must be."""
    short = [shortened(str(word)) for word in words]
    if os.name == "nt":
        return subprocess.list2cmdline(short)
    return shlex.join(short)


def shortened(path: str) -> str:
    """Return a path relative to the working directory if it lies below it."""
    return path.replace(f"{Path.cwd()}{os.sep}", "")


def resume_command(run: Path) -> str:
    """Return what to type to continue a run."""
    return command("python", sys.argv[0], "--resume", run)


def print_box(rows: list[tuple[str, str]]) -> None:
    """Print names and values between two lines."""
    print("-" * 79)
    for name, value in rows:
        print(f"{name:<14} {shortened(value)}")
    print("-" * 79)

"""What can be deleted of runs: starts that failed, and checkpoints of finished runs beside the best."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .folder import shortened
from .runs import Run

OURS = {"checkpoints", ".lock"}  # what a start makes before config.yaml


@dataclass
class Deletable:
    """A file or a folder, the run that it belongs to, and why it is not needed."""

    path: Path
    run: Path
    reason: str

    @property
    def size(self) -> int:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def find_deletable(folder: Path, runs: list[Run], all_runs: bool) -> list[Deletable]:
    """Return what can be deleted, without anything that a run needs to go on, or that is not of a run.

    Args:
        all_runs: Whether `runs` are all that there are: then starts that made no run are found as well.
    """
    found = []
    for run in runs:
        checkpoints = run.path / "checkpoints"
        if run.state == "running":
            continue
        if not run.metrics and not run.has_ended:
            found.append(Deletable(run.path, run.path, f"{run.state}, and nothing was logged"))
        elif run.has_ended and (checkpoints / "best.ckpt").exists():
            for file in sorted(checkpoints.iterdir()):
                if file.is_file() and file.name != "best.ckpt":
                    found.append(Deletable(file, run.path, "the run is finished and has best.ckpt"))
    if all_runs and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir() and is_left_over(path):
                found.append(Deletable(path, path, "the start ended before its first step"))
    return found


def is_left_over(path: Path) -> bool:
    """Return whether a folder holds no more than a start makes before its first step."""
    names = {entry.name for entry in path.iterdir()}
    checkpoints = path / "checkpoints"
    return "checkpoints" in names and names <= OURS and not any(checkpoints.iterdir())


def delete(found: list[Deletable]) -> int:
    """Delete files and folders of runs that no process trains now; return how many bytes became free."""
    free = 0
    for one in found:
        lock = FileLock(one.run / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            print(f"kept, because it is running now: {shortened(str(one.path))}")
            continue
        free += one.size
        if one.path.is_dir():
            lock.release()  # Windows does not delete a file that is open
            shutil.rmtree(one.path)
        else:
            one.path.unlink()
            lock.release()
    return free


def print_deletable(found: list[Deletable]) -> None:
    """Print what can be deleted, and how large it is."""
    for one in found:
        print(f"{megabytes(one.size):>10}  {shortened(str(one.path))}: {one.reason}")
    total = sum(one.size for one in found)
    print(f"{megabytes(total):>10}  in all, {len(found)} files and folders")


def megabytes(size: int) -> str:
    """Return a number of bytes in words."""
    return f"{size / 1e6:,.1f} MB"

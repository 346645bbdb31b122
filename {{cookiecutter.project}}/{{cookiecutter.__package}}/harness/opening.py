"""Open files: look at a sample of them before training, or read all of them to find what cannot be read."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .errors import UserError

SAMPLE = 2000  # files whose headers are read before training, of however many
QUICK_FILES = 1000  # so many files, of so many bytes together, are read in about a second
QUICK_BYTES = 30_000_000
ADVICE = "repair or remove it, or pass over such files with --data.skip_unreadable true"


def opened(item: str | Path | dict) -> tuple[str, Path | BytesIO]:
    """Return the name of a file, and the file or, if it is stored in a table, its content.

    Raises:
        UserError: If a table has only the name of a file, unless the file was downloaded with it.
    """
    if not isinstance(item, dict):
        return str(item), Path(item)
    name = str(item["path"])
    if item["bytes"]:
        return name, BytesIO(item["bytes"])
    import datasets

    if not Path(name).resolve().is_relative_to(datasets.config.HF_CACHE_HOME):
        raise UserError(f"the table refers to {name} but does not contain it; only embedded files are read")
    return name, Path(name)


def sample_of(files: Sequence, most: int = SAMPLE) -> list:
    """Return at most so many of the files, spread evenly over all of them."""
    count = min(most, len(files))
    places = np.linspace(0, len(files) - 1, count).round().astype(int)
    return [files[place] for place in places.tolist()]


def look_at(files: Sequence, look: Callable, skip: bool) -> list:
    """Return what `look` returns for each of the files, without those that cannot be read.

    Threads wait for the files of a slow disk at the same time.

    Raises:
        UserError: If a file cannot be read, and `skip` is False or there is no other.
    """

    def attempt(file: Any) -> tuple[Any, str | None]:
        try:
            return look(file), None
        except UserError as error:
            return None, str(error)

    found = []
    problems = []
    with ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(attempt, files), "Looking at files", len(files), False, delay=2, disable=None)
        for result, problem in results:
            if problem is None:
                found.append(result)
            else:
                problems.append(problem)
    if problems and not (skip and found):
        raise UserError(unreadable_of(problems, len(files)))
    return found


def readable_files(
    files: Sequence, look: Callable, *, check: bool | None, skip: bool, notes: list[str]
) -> np.ndarray | None:
    """Return the indices of the files that can be read, None if that is all of them or is not known.

    Args:
        files: The files.
        look: Reads one of them, and raises a UserError if that fails.
        check: Whether to read all of them; None: where that takes about a second.
        skip: Whether to leave out those that cannot be read.
        notes: How many those are is appended to it.

    Raises:
        UserError: If a file cannot be read, and `skip` is False or there is no other.
    """
    quick = is_quick(files)
    if check is None:
        check = quick
    if not check:
        return None
    workers = 0
    if not quick:
        workers = os.cpu_count() or 1
        rank_zero_info(f"reading all {len(files)} files to find those that cannot be read (--data.check)")
    loader = DataLoader(Attempts(files, look), batch_size=16, num_workers=workers, collate_fn=list)
    kept = []
    problems = []
    index = 0
    with tqdm(desc="Reading all files", total=len(files), delay=2, leave=False, disable=None) as bar:
        for batch in loader:
            for problem in batch:
                if problem is None:
                    kept.append(index)
                else:
                    problems.append(problem)
                index += 1
            bar.update(len(batch))
    if not problems:
        return None
    if not (skip and kept):
        raise UserError(unreadable_of(problems, len(files)))
    notes.append(f"{len(problems)} of {len(files)} files cannot be read and are left out: {listed(problems)}")
    return np.array(kept)


class Attempts(Dataset):
    """What is wrong with each file; None if it can be read."""

    def __init__(self, files: Sequence, look: Callable):
        self.files = files
        self.look = look

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> str | None:
        try:
            self.look(self.files[index])
        except UserError as error:
            return str(error)
        return None


def is_quick(files: Sequence) -> bool:
    """Return whether all of the files can be read in about a second."""
    if len(files) > QUICK_FILES:
        return False
    size = 0
    for file in files:
        size += size_of(file)
    return size <= QUICK_BYTES


def size_of(item: str | Path | dict) -> int:
    """Return the bytes of a file, 0 if there is none."""
    if isinstance(item, dict):
        return len(item["bytes"] or b"")
    try:
        return Path(item).stat().st_size
    except OSError:
        return 0


def unreadable_of(problems: list[str], count: int) -> str:
    """Return one line on files that cannot be read, and on what can be done."""
    if len(problems) == 1:
        return f"{listed(problems)}; {ADVICE}"
    return (
        f"{len(problems)} of {count} files cannot be read: {listed(problems)}; "
        "repair or remove them, or pass over such files with --data.skip_unreadable true"
    )


def listed(problems: list[str]) -> str:
    """Return as many of the problems as can be read in a line, and how many more there are."""
    line = problems[0][:250]
    shown = 1
    for problem in problems[1:]:
        if len(line) + len(problem) > 230:
            break
        line += f"; {problem}"
        shown += 1
    if shown < len(problems):
        line += f"; and {len(problems) - shown} more"
    return line

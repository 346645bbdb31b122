"""One line for what a user can put right; a traceback for a bug, and for the user's own code."""

import errno
import pickle
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

HARNESS = Path(__file__).resolve().parent
PACKAGE = HARNESS.parent

# How jsonargparse says that it cannot make an object of a class that a setting names.
WRONG_CLASS = re.compile(r"Problem with given class_path (.*?:\s+.*)")
# What PyTorch says when a machine has too little of something, and what helps.
SHORTAGES = {
    "out of shared memory|unable to allocate shared memory|Bus error": (
        "the workers that load data ran out of shared memory (/dev/shm): "
        "give --data.num_workers 0, smaller batches, or a larger /dev/shm"
    ),
    "Too many open files|unable to open shared memory|received 0 items of ancdata|^EOFError$": (
        "too many files are open: raise the limit (ulimit -n 4096), or give fewer --data.num_workers"
    ),
    "out of memory": (
        "out of memory: halve --data.batch_size and double --trainer.accumulate_grad_batches, "
        "or give --trainer.precision bf16-mixed"
    ),
}


class UserError(Exception):
    """Say what was given, what is allowed and what to do."""


def first_few(names: Iterable, most: int = 5) -> str:
    """Return the first names of a list and how many more there are: "a, b, c and 12 more"."""
    names = [str(name) for name in names]
    shown = ", ".join(names[:most])
    if len(names) > most:
        shown += f" and {len(names) - most} more"
    return shown


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with status 1 and one line on standard error if the user can put the mistake right."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        sys.exit(f"error: {' '.join(message.split())}")


def explanation(error: Exception) -> str | None:
    """Return what to tell the user about an error, None for a bug or an error of the user's own code."""
    text = str(error) or type(error).__name__  # a worker that cannot send its batch makes an empty EOFError
    if isinstance(error, UserError):
        return text.rpartition("UserError: ")[2]  # without the traceback of a worker that loads data
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full: free some space, then continue with --resume ({error})"
    if isinstance(error, RuntimeError | OSError | EOFError):
        for pattern, advice in SHORTAGES.items():
            if re.search(pattern, text):
                reason = text.strip().splitlines()[-1]  # below the traceback of a worker
                return f"{advice} ({reason[:200]})"
    if not called_by_harness(error):
        return None
    # Not at the top: runs.py and search.py start without Lightning.
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    if isinstance(error, MisconfigurationException | ModuleNotFoundError):
        return text
    if isinstance(error, ValueError | TypeError) and raised_in_lightning(error):
        return text
    wrong_class = WRONG_CLASS.search(text)
    if isinstance(error, ValueError) and wrong_class:
        return wrong_class[1]
    if isinstance(error, pickle.UnpicklingError):
        return f"the checkpoint holds more than plain values, so it is not loaded: {text.splitlines()[0]}"
    if isinstance(error, RuntimeError) and "loading state_dict" in text:
        reason = " ".join(text.splitlines()[:2])
        return f"the checkpoint does not fit this project's model, whose code has changed since: {reason}"
    return None


def called_by_harness(error: Exception) -> bool:
    """Return whether the last of our two sides in the traceback is the harness, not the user's code.

    A setting that Lightning refuses is the harness's call; a wrong `self.log` is called by the user's
    code, whose place the traceback shows.
    """
    by_harness = True
    for frame, _ in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(HARNESS):
            by_harness = True
        elif file.is_relative_to(PACKAGE):
            by_harness = False
    return by_harness


def raised_in_lightning(error: Exception) -> bool:
    """Return whether the error was raised by a line of Lightning itself."""
    frames = list(traceback.walk_tb(error.__traceback__))
    module = frames[-1][0].f_globals.get("__name__", "")
    return module.startswith("lightning.")

"""The machinery around data, network and model: it knows nothing of the task."""
# ruff: noqa: I001

import gc
import logging
import sys
import warnings
from pathlib import Path
from types import TracebackType


def without_traceback_of_ctrl_c(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an exception that nobody handled, but not Ctrl-C, which often comes during the imports."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = without_traceback_of_ctrl_c

# These only read what runs have left, and start other scripts: without PyTorch they begin at once.
LIGHT_SCRIPTS = ("runs.py", "search.py")

# Imports make a million objects and no garbage: looking for it would take a second. wandb comes before
# lightning, because it goes through all modules there are, and lightning before the rest, because typing
# keeps the first order of Union[int, float]: after others, a setting that may be both would read 1 as 1.0.
if Path(sys.argv[0]).name not in LIGHT_SCRIPTS:
    gc.disable()
    import wandb.apis.public  # noqa: F401
    import lightning  # noqa: F401

    gc.freeze()
    gc.enable()

# What Lightning says and no user can act on.
WARNINGS = (
    ".*LeafSpec",  # lightning 2.6 on torch 2.13
    ".*does not have many workers",  # data in memory needs none
    "Checkpoint directory .* exists and is not empty",  # it is the run's own
    "Using `DistributedSampler` with the dataloaders",  # loaders.py deals each example out once
)
LINES = (
    "TPU",
    "Loading `train_dataloader`",
    "Restoring states",
    "Restored all states",
    "Loaded model weights",
    "Found current_model_state",
)
for message in WARNINGS:
    warnings.filterwarnings("ignore", message=message)


def can_be_acted_on(record: logging.LogRecord) -> bool:
    """Return whether a user can do something about a line that Lightning prints."""
    text = record.getMessage()
    return not text.startswith(LINES) and "litlogger" not in text


logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(can_be_acted_on)

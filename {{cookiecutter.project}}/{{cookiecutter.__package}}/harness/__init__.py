"""The machinery around data, network and model: it knows nothing of the task."""
# ruff: noqa: E402, F401, I001

import gc
import logging
import re
import warnings

# Imports make a million objects and no garbage: looking for it would take a second. wandb comes before
# lightning, because it goes through all modules there are, and lightning before the rest, because typing
# keeps the first order of Union[int, float]: after others, a setting that may be both would read 1 as 1.0.
gc.disable()
import wandb.apis.public
import lightning

gc.freeze()
gc.enable()

# What Lightning says and no user can act on.
warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*does not have many workers")  # data in memory needs none
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run's own
known = re.compile("TPU|Loading `train_dataloader`|Restoring states|Loaded model weights|.*litlogger")
rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
rank_zero.addFilter(lambda record: not known.match(record.getMessage()))

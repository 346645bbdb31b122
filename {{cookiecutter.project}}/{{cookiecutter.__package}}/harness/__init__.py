"""The machinery around data, network and model: it knows nothing of the task."""

import logging
import warnings

# What Lightning says on these versions and no user can act on.
warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*does not have many workers")  # data in memory needs none
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run's own
rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
rank_zero.addFilter(lambda record: "litlogger" not in record.getMessage())

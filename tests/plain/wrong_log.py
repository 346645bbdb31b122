"""A mistake of the user's own: a metric is logged where Lightning does not allow it."""

from lightning.pytorch.demos.boring_classes import BoringDataModule as DataModule
from lightning.pytorch.demos.boring_classes import BoringModel

__all__ = ["DataModule", "Model"]


class Model(BoringModel):
    def on_fit_start(self):
        self.log("started", 1.0)

"""Lightning's own demo classes, as they are."""

from lightning.pytorch.demos.boring_classes import BoringDataModule as DataModule
from lightning.pytorch.demos.boring_classes import BoringModel as Model

__all__ = ["DataModule", "Model"]

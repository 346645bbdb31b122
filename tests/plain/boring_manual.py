"""Lightning's own demo of manual optimization."""

from lightning.pytorch.demos.boring_classes import BoringDataModule as DataModule
from lightning.pytorch.demos.boring_classes import ManualOptimBoringModel as Model

__all__ = ["DataModule", "Model"]

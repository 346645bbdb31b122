"""Lightning's own demo model, which brings its loaders itself."""

from lightning.pytorch.demos.boring_classes import BoringModel as Model

DataModule = None

__all__ = ["DataModule", "Model"]

"""Hyper-parameters that a checkpoint cannot hold as plain values."""

import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule as DataModule
from lightning.pytorch.demos.boring_classes import BoringModel

__all__ = ["DataModule", "Model"]


class Model(BoringModel):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"activation": torch.nn.ReLU()})

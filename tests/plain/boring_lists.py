"""Lightning's own demo of a list of loaders in every stage, of which one has no length."""

import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.demos.boring_classes import IterableBoringDataModule as DataModule

__all__ = ["DataModule", "Model"]


class Model(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        losses = [self.step(part) for part in batch if part is not None]
        return sum(losses)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("valid_loss", self.step(batch))

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return self.step(batch)

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch)

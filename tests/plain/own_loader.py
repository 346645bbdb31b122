"""A DataLoader subclass with arguments and an `__iter__` of its own, which mixes each batch (mixup)."""

import torch
from lightning import LightningDataModule
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, TensorDataset


class MixingLoader(DataLoader):
    def __init__(self, dataset, strength: float, **options):
        super().__init__(dataset, **options)
        self.strength = strength

    def __iter__(self):
        for (x,) in super().__iter__():
            share = torch.rand(()) * self.strength
            yield {"x": share * x + (1 - share) * x.flip(0), "mixed": True}


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        assert batch["mixed"]
        return self.step(batch["x"])

    def validation_step(self, batch, batch_idx):
        assert batch["mixed"]
        self.log("val/loss", self.step(batch["x"]))


class DataModule(LightningDataModule):
    def __init__(self, num_workers: int = 0):
        super().__init__()
        self.num_workers = num_workers
        self.data = TensorDataset(torch.randn(20, 32, generator=torch.Generator().manual_seed(0)))

    def train_dataloader(self):
        return MixingLoader(self.data, 0.5, batch_size=4, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self):
        return MixingLoader(self.data, 0.0, batch_size=4)

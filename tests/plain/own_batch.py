"""A batch of a class of its own, of which nobody but the model knows what is in it."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Batch:
    def __init__(self, rows):
        self.x = torch.stack([x for x, _ in rows])
        self.y = torch.stack([y for _, y in rows])


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)

    def loss(self, batch):
        return nn.functional.cross_entropy(self.net(batch.x), batch.y)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=len(batch.y))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch), batch_size=len(batch.y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DataModule(LightningDataModule):
    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(24, 4, generator=generator)
        self.data = TensorDataset(x, (x[:, 0] > 0).long())

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=4, shuffle=True, collate_fn=Batch)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=4, collate_fn=Batch)

    test_dataloader = val_dataloader

"""Sparse gradients, a layer that gets its shape with the first batch, a fixed parameter, infinite values."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4, sparse=True)
        self.net = nn.LazyLinear(10)
        self.fixed = nn.Parameter(torch.full((10,), -torch.inf), requires_grad=False)
        self.register_buffer("mask", torch.full((10,), -torch.inf))

    def forward(self, words):
        scores = self.net(self.embedding(words).flatten(1))  # (B, 10)
        return torch.maximum(scores, torch.maximum(self.mask, self.fixed))

    def training_step(self, batch, batch_idx):
        (words,) = batch
        return nn.functional.cross_entropy(self(words), words[:, 0])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DataModule(LightningDataModule):
    def setup(self, stage):
        words = torch.randint(10, (24, 3), generator=torch.Generator().manual_seed(0))
        self.words = TensorDataset(words)

    def train_dataloader(self):
        return DataLoader(self.words, batch_size=4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.words, batch_size=4)

"""Manual optimization that adds up the gradients of three batches by itself, over the end of an epoch."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    def __init__(self, every: int = 3):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.net = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.net(batch[0]).square().mean() / self.hparams.every
        self.manual_backward(loss)
        if (batch_idx + 1) % self.hparams.every == 0:
            optimizer.step()
            optimizer.zero_grad()
        self.log("train/loss", loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DataModule(LightningDataModule):
    def train_dataloader(self):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x), batch_size=4, shuffle=True)

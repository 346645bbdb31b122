"""Ordinary code that knows of processes only that each reads examples of its own, and one has more."""

import os
import signal

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info


class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        worker = get_worker_info()
        for number in range(worker.id, self.count, worker.num_workers):
            yield torch.tensor([number / self.count]), torch.rand(1)


class DataModule(LightningDataModule):
    def setup(self, stage):
        numbers = torch.arange(39.0)[:, None]
        self.numbers = TensorDataset(numbers / 39, numbers.square() / 39)

    def train_dataloader(self):
        count = [31, 22][self.trainer.global_rank]  # of all that there is, this process reads so much
        return DataLoader(Stream(count), batch_size=4, num_workers=1)

    def val_dataloader(self):
        return DataLoader(self.numbers, batch_size=19)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        if self.global_step == int(os.environ.get("STOP", -1)):
            signal.raise_signal(signal.SIGTERM)
        x, y = batch
        return F.mse_loss(self.layer(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", F.mse_loss(self.layer(x), y), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

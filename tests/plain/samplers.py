"""Loaders with a sampler or a batch sampler that has no length, or that are given whole batches."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset


class Draws:
    """Draw indices for as long as it likes: it has no length."""

    def __iter__(self):
        yield from torch.randint(30, (22,)).tolist()


class Buckets:
    """Draw batches of different sizes: it has no length either."""

    def __iter__(self):
        for size in (4, 2, 6, 4, 3):
            yield torch.randint(30, (size,)).tolist()


class Items(Dataset):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, index):
        index = torch.as_tensor(index, dtype=torch.float32).reshape(-1, 1)  # of one item or of a whole batch
        return index + torch.rand(len(index), 2)


class DataModule(LightningDataModule):
    def __init__(self, kind: str = "sampler"):
        super().__init__()
        self.kind = kind

    def train_dataloader(self):
        if self.kind == "sampler":
            return DataLoader(Items(), batch_size=4, sampler=Draws())
        if self.kind == "batch_sampler":
            return DataLoader(Items(), batch_sampler=Buckets())
        if self.kind == "whole_batches":
            return DataLoader(Items(), batch_size=None, sampler=BatchSampler(Draws(), 4, drop_last=False))
        return DataLoader(Items(), batch_size=None, shuffle=True)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        self.log("mean", batch.mean(), batch_size=len(batch))
        return self.net(batch / 30).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

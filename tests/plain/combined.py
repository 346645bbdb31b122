"""Two loaders of different lengths over one data set, whose items are drawn anew each time."""

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Noise(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index):
        return index + torch.rand(3)


class DataModule(LightningDataModule):
    def __init__(self, mode: str | None = None, num_workers: int = 0):
        super().__init__()
        self.mode = mode
        self.num_workers = num_workers
        self.data = Noise()

    def train_dataloader(self):
        workers = self.num_workers
        labelled = DataLoader(self.data, batch_size=4, shuffle=True, num_workers=workers)
        unlabelled = DataLoader(self.data, batch_size=10, shuffle=True, num_workers=workers)
        loaders = {"labelled": labelled, "unlabelled": unlabelled}
        return loaders if self.mode is None else CombinedLoader(loaders, self.mode)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        loss = torch.zeros(())
        for name, part in batch.items():
            mean = torch.zeros(())  # a shorter loader may have no batch left
            if part is not None:
                loss = loss + self.net(part / 20).square().mean()
                mean = part.mean()
            self.log(f"mean/{name}", mean, batch_size=4)
        self.log("train_loss", loss, batch_size=4)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

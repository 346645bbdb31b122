"""Lightning's own DemoModel, which has no validation and no test."""

from lightning import LightningDataModule
from lightning.pytorch.demos.boring_classes import DemoModel as Model
from lightning.pytorch.demos.boring_classes import RandomDataset
from torch.utils.data import DataLoader

__all__ = ["DataModule", "Model"]


class DataModule(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(RandomDataset(32, 40), batch_size=8, shuffle=True)

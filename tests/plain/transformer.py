"""Lightning's own language model, on random words; `vocab_size` is found in the data."""

import torch
from lightning import LightningDataModule
from lightning.pytorch.demos.transformer import LightningTransformer
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningTransformer):
    def prepare_data(self):
        """Download nothing."""


class DataModule(LightningDataModule):
    def setup(self, stage):
        words = torch.randint(20, (24, 9), generator=torch.Generator().manual_seed(0))
        self.train_set = TensorDataset(words[:, :-1], words[:, 1:].contiguous())

    @property
    def vocab_size(self) -> int:
        return 20

    def train_dataloader(self):
        return DataLoader(self.train_set, batch_size=4, shuffle=True)

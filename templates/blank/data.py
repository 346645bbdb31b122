"""A few random numbers to learn from. Paste your LightningDataModule here, as `DataModule`."""

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Points(Dataset):
    """Random x from -1 to 1, and y = sin(3x) with some noise."""

    def __init__(self, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.x = 2 * torch.rand(count, 1, generator=generator) - 1
        noise = torch.randn(count, 1, generator=generator)
        self.y = torch.sin(3 * self.x) + 0.1 * noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class DataModule(LightningDataModule):
    """Points for training, validation and test, in batches of `batch_size`."""

    def __init__(self, batch_size: int = 32, num_workers: int = 0):
        super().__init__()
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str) -> None:
        self.train_set = Points(1000, seed=0)
        self.val_set = Points(200, seed=1)
        self.test_set = Points(200, seed=2)

    def train_dataloader(self) -> DataLoader:
        workers = self.hparams.num_workers
        return DataLoader(
            self.train_set, batch_size=self.hparams.batch_size, shuffle=True, num_workers=workers
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.hparams.batch_size)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

"""scikit-learn's 1797 handwritten digits of 8×8 pixels, without their labels."""

import torch
from lightning import LightningDataModule
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class DataModule(LightningDataModule):
    """Digits, float32 (1, 8, 8) between -1 and 1.

    Args:
        batch_size: Images in a batch, on each device.
    """

    def __init__(self, batch_size: int = 64):
        super().__init__()
        self.save_hyperparameters(logger=False)
        pixels = torch.tensor(load_digits().images, dtype=torch.float32)
        self.images = TensorDataset(pixels[:, None] / 8 - 1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.images, batch_size=self.hparams.batch_size, shuffle=True, drop_last=True)

"""A step that skips some batches, attributes made as an epoch starts, loaders made anew in each epoch."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def on_train_epoch_start(self):
        self.noise = 0.1 / (1 + self.current_epoch)

    def training_step(self, batch, batch_idx):
        if batch_idx % 3 == 1:
            return None
        (x,) = batch
        return self.net(x + self.noise * torch.randn_like(x)).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class DataModule(LightningDataModule):
    """Train on more examples in each epoch if `grow`, where the trainer makes the loaders anew."""

    def __init__(self, grow: bool = False):
        super().__init__()
        self.grow = grow

    def setup(self, stage):
        self.x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self):
        count = 16
        if self.grow:
            count += 4 * self.trainer.current_epoch
        return DataLoader(TensorDataset(self.x[:count]), batch_size=4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.x), batch_size=8)

"""A regression that validates but has no `test_step`, though there is a test loader."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    def __init__(self, lr: float = 0.01):
        super().__init__()
        self.net = nn.Linear(5, 1)
        self.lr = lr
        self.example_input_array = torch.zeros(1, 5)

    def forward(self, x):
        return self.net(x).squeeze(-1)  # (B,)

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[1]))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class DataModule(LightningDataModule):
    def setup(self, stage):
        x = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(x, x.sum(dim=1))

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=8)

    test_dataloader = predict_dataloader = val_dataloader

"""An autoencoder as in Lightning's introduction: it logs `train_loss`, and its test returns a loss."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    def __init__(self, size: int = 3):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, size))
        self.decoder = nn.Sequential(nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, 16))
        self.example_input_array = torch.rand(2, 16)

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        z = self.encoder(x.view(x.size(0), -1))
        loss = F.mse_loss(self.decoder(z), x)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch, batch_idx):
        x, _ = batch
        return F.mse_loss(self.decoder(self.encoder(x)), x)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class DataModule(LightningDataModule):
    def setup(self, stage):
        images = torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
        self.images = TensorDataset(images, torch.zeros(40, dtype=torch.long))

    def train_dataloader(self):
        return DataLoader(self.images, batch_size=8, shuffle=True)

    def test_dataloader(self):
        return DataLoader(self.images, batch_size=8)

"""A segmentation: a mask for each image, a test step that returns images, a validation that logs nothing."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Model(LightningModule):
    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, num_classes, 1))

    @property
    def example_input_array(self):
        return torch.rand(2, 1, 8, 8)

    def forward(self, x):
        return self.net(x)  # (B, num_classes, H, W)

    def training_step(self, batch, batch_idx):
        image, mask = batch
        return F.cross_entropy(self(image), mask)

    def validation_step(self, batch, batch_idx):
        image, mask = batch
        return {"val_loss": F.cross_entropy(self(image), mask)}

    def test_step(self, batch, batch_idx):
        image, mask = batch
        self.log("test_dice", (self(image).argmax(dim=1) == mask).float().mean())
        return {"image": image, "mask": mask}

    def predict_step(self, batch, batch_idx):
        return self(batch[0]).argmax(dim=1)  # (B, H, W)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class DataModule(LightningDataModule):
    def __init__(self, batch_size: int = 4):
        super().__init__()
        self.save_hyperparameters()
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(16, 1, 8, 8, generator=generator)
        self.data = TensorDataset(images, (images[:, 0] * 3).long())

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.data, batch_size=self.hparams.batch_size)

    test_dataloader = predict_dataloader = val_dataloader

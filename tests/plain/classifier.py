"""What most projects are: a classifier with dropout, augmentation, a scheduler, `train_acc` and `val_acc`."""

import random

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy


class Points(Dataset):
    """Draw noise from each of the generators that an augmentation may use."""

    def __init__(self, count: int, seed: int, augment: bool = False):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(3, (count,), generator=generator)
        self.points = torch.randn(count, 4, generator=generator) + 2 * F.one_hot(self.labels, 4)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index):
        point = self.points[index]
        if self.augment:
            point = point + torch.rand(4) * np.random.rand() * random.random()
        return point, self.labels[index]


class DataModule(LightningDataModule):
    def __init__(self, batch_size: int = 8, num_workers: int = 0):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage):
        self.train_set = Points(40, seed=0, augment=True)
        self.val_set = Points(16, seed=1)

    def train_dataloader(self):
        workers = self.hparams.num_workers
        return DataLoader(
            self.train_set, batch_size=self.hparams.batch_size, shuffle=True, num_workers=workers
        )

    def val_dataloader(self):
        return DataLoader(self.val_set, batch_size=self.hparams.batch_size)

    test_dataloader = predict_dataloader = val_dataloader


class Model(LightningModule):
    def __init__(self, lr: float = 0.1, width: int = 8, plateau: bool = False):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(width, 3)
        self.train_acc = MulticlassAccuracy(3)
        self.val_acc = MulticlassAccuracy(3)

    def forward(self, x):
        return self.head(self.layers(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.train_acc(logits, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        self.log("largest_loss", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("draw", torch.rand(()) + np.random.rand() + random.random())
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.val_acc(logits, y)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
        self.log("val_acc", self.val_acc, prog_bar=True)

    def test_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("test_loss", loss)
        return {"loss": loss}

    def predict_step(self, batch, batch_idx):
        return self(batch[0]).softmax(dim=1)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        if not self.hparams.plateau:
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)]
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1)
        plateau = {"scheduler": scheduler, "monitor": "val_loss", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": plateau}

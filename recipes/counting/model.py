"""Counting: a regression from images, with the mean absolute error and R²."""

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.regression import R2Score

from .network import Network


class Model(LightningModule):
    """Count the objects of an image.

    Args:
        channels: Colour channels of an image.
        lr: Learning rate of AdamW.
        width: Features of the network.
    """

    def __init__(self, channels: int = 1, lr: float = 3e-3, width: int = 32):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = Network(channels, width)
        metrics = MetricCollection({"mae": MeanAbsoluteError(), "r2": R2Score()})
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    @property
    def example_input_array(self) -> Tensor:
        height, width = (2 * torch.randint(12, 32, (2,))).tolist()
        return torch.randint(256, (2, self.hparams.channels, height, width), dtype=torch.uint8)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # (B,)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, numbers = batch
        loss = F.smooth_l1_loss(self(images), numbers)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, numbers = batch
        counts = self(images)
        self.val_metrics(counts, numbers)
        self.log("val/loss", F.smooth_l1_loss(counts, numbers))
        self.log_dict(self.val_metrics, prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, numbers = batch
        self.test_metrics(self(images), numbers)
        self.log_dict(self.test_metrics)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

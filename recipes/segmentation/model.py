"""Segmentation: cross-entropy of each pixel, mean intersection over union, and a picture of some masks."""

from pathlib import Path

import matplotlib
import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from .network import Network

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class Model(LightningModule):
    """Train a U-Net.

    Args:
        classes: What a pixel may belong to.
        channels: Colour channels of an image.
        lr: Learning rate of AdamW.
        width: Features of the network's first level.
    """

    def __init__(self, classes: list[str], channels: int = 1, lr: float = 2e-3, width: int = 16):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = Network(channels, len(classes), width)
        self.val_iou = MulticlassJaccardIndex(len(classes))
        self.test_iou = MulticlassJaccardIndex(len(classes))

    @property
    def example_input_array(self) -> Tensor:
        return torch.rand(2, self.hparams.channels, 64, 64)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)  # (B, num_classes, H, W)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, masks = batch
        loss = F.cross_entropy(self(images), masks)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, masks = batch
        scores = self(images)
        self.val_iou(scores, masks)
        self.log("val/loss", F.cross_entropy(scores, masks))
        self.log("val/iou", self.val_iou, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, masks = batch
        scores = self(images)
        self.test_iou(scores, masks)
        self.log("test/iou", self.test_iou)
        if batch_idx == 0 and self.trainer.is_global_zero:
            draw(images, masks, scores.argmax(dim=1), Path(self.trainer.default_root_dir, "masks.png"))

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).argmax(dim=1)  # (B, H, W)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def draw(images: Tensor, masks: Tensor, predicted: Tensor, file: Path) -> None:
    """Draw up to six images, their masks, and the masks that were predicted, below each other."""
    count = min(6, len(images))
    figure, axes = plt.subplots(3, count, figsize=(2 * count, 6), squeeze=False)
    for row, (name, pictures) in enumerate(
        {"image": images[:, 0], "mask": masks, "predicted": predicted}.items()
    ):
        for column in range(count):
            axes[row, column].imshow(pictures[column].cpu(), interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(name)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)

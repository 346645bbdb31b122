"""Several labels for each image: a sigmoid and a binary cross-entropy for each, F1 over all of them.

The network is that of the image task, whose network.py stays as it is: it gives a score for each label.
"""

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MultilabelF1Score

from .network import Network


class Model(LightningModule):
    """Say for each label whether it is right.

    Args:
        labels: What an example may be.
        channels: Colour channels of an image.
        lr: Learning rate of AdamW.
        threshold: Probability from which on a label is given.
    """

    def __init__(self, labels: list[str], channels: int = 1, lr: float = 2e-3, threshold: float = 0.5):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = Network(channels, num_classes=len(labels), size=[32, 32])
        self.val_f1 = MultilabelF1Score(len(labels), threshold)
        self.test_f1 = MultilabelF1Score(len(labels), threshold)

    @property
    def example_input_array(self) -> Tensor:
        return torch.rand(2, self.hparams.channels, 32, 32)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(255 * images)  # (B, labels); the network takes values from 0 to 255

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, there = batch
        loss = F.binary_cross_entropy_with_logits(self(images), there)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, there = batch
        scores = self(images)
        self.val_f1(scores, there)
        self.log("val/loss", F.binary_cross_entropy_with_logits(scores, there))
        self.log("val/f1", self.val_f1, prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, there = batch
        self.test_f1(self(images), there)
        self.log("test/f1", self.test_f1)

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return the probability of each label: predictions.csv gets a column for each."""
        probabilities = self(batch).sigmoid()
        return {label: probabilities[:, place] for place, label in enumerate(self.hparams.labels)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)

"""A small network on rows of numbers; the point of this recipe is data.py."""

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import BinaryAccuracy


class Model(LightningModule):
    """Tell two classes apart.

    Args:
        columns: Numbers in a row.
        width: Features of the hidden layer.
        lr: Learning rate of AdamW.
    """

    def __init__(self, columns: int = 8, width: int = 32, lr: float = 3e-3):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = nn.Sequential(nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, 1))
        self.val_acc = BinaryAccuracy()
        self.test_acc = BinaryAccuracy()

    @property
    def example_input_array(self) -> Tensor:
        return torch.randn(2, self.hparams.columns)

    def forward(self, rows: Tensor) -> Tensor:
        return self.network(rows)[:, 0]  # (B,), above 0 for class 1

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        rows, labels = batch
        loss = F.binary_cross_entropy_with_logits(self(rows), labels.float())
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        rows, labels = batch
        scores = self(rows)
        self.val_acc(scores, labels)
        self.log("val/loss", F.binary_cross_entropy_with_logits(scores, labels.float()))
        self.log("val/acc", self.val_acc, prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        rows, labels = batch
        self.test_acc(self(rows), labels)
        self.log("test/acc", self.test_acc)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)

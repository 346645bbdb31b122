"""Loss and optimizer around the network. Paste your LightningModule here, as `Model`."""

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from .network import Network


class Model(LightningModule):
    """Train `Network` to predict y from x with AdamW, at the learning rate `lr`."""

    def __init__(self, lr: float = 0.01, width: int = 32):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = Network(width)
        self.example_input_array = torch.zeros(2, 1)  # export.py calls forward with it

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, y = batch  # (B, 1), (B, 1)
        loss = F.mse_loss(self(x), y)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, _ = batch
        return self(x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)

"""Forecasting: absolute error, beside that of repeating the value of a week ago."""

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from .network import Network


class Model(LightningModule):
    """Predict the next hours.

    Args:
        past: Hours that are seen, as in the data.
        future: Hours that are predicted, as in the data.
        season: The simple forecast repeats what was this many hours ago.
        lr: Learning rate of AdamW.
        width: Features of the network's hidden layers.
        depth: Its blocks.
    """

    def __init__(
        self,
        past: int = 168,
        future: int = 24,
        season: int = 168,
        lr: float = 1e-3,
        width: int = 256,
        depth: int = 3,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = Network(past, future, width, depth)

    @property
    def example_input_array(self) -> Tensor:
        return torch.randn(2, self.hparams.past)

    def forward(self, past: Tensor) -> Tensor:
        return self.network(past)  # (B, future)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        past, future = batch
        loss = F.l1_loss(self(past), future)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        past, future = batch
        self.log("val/loss", F.l1_loss(self(past), future), prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        past, future = batch
        start = past.shape[1] - self.hparams.season
        repeated = past[:, start : start + future.shape[1]]
        self.log_dict(
            {
                "test/mae": F.l1_loss(self(past), future),
                "test/mae_of_last_week": F.l1_loss(repeated, future),
            }
        )

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return a column for each hour."""
        future = self(batch)
        return {f"hour {hour}": future[:, hour - 1] for hour in range(1, future.shape[1] + 1)}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

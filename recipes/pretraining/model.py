"""SimCLR (Chen et al. 2020, arXiv:2002.05709): learn features of images without labels.

The network is that of the image task, whose network.py stays as it is: a project that classifies images
starts from the backbone that this one has trained, with `--model.init_from`.
"""

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from .network import Network


class Model(LightningModule):
    """Make the features of two views of an image alike, and those of different images unlike.

    Args:
        channels: Colour channels of an image.
        lr: Learning rate of AdamW.
        temperature: How much the most similar other images count.
        network: Further settings of `Network`, which must be those of the project that goes on with it.
    """

    def __init__(
        self,
        channels: int = 1,
        lr: float = 2e-3,
        temperature: float = 0.2,
        **network,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = Network(channels, num_classes=64, size=[8, 8], **network)
        # The features that are compared are not those that are kept, but a projection of them.
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(64, 64))

    def forward(self, images: Tensor) -> Tensor:
        """Return projections of length 1, (B, 64), of images (B, C, H, W)."""
        return F.normalize(self.projection(self.network(images)), dim=1)

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss, and how often the other view of an image is the most similar of all."""
        first, second = batch
        views = torch.cat([self(first), self(second)])  # (2 B, 64)
        similarity = views @ views.T / self.hparams.temperature
        similarity.fill_diagonal_(float("-inf"))  # a view is not compared with itself
        count = len(first)
        partner = torch.arange(2 * count, device=self.device).roll(count)
        hits = (similarity.argmax(dim=1) == partner).float().mean()
        return F.cross_entropy(similarity, partner), hits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss, _ = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss, hits = self.loss(batch)
        self.log_dict({"val/loss": loss, "val/hits": hits}, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=0.01)

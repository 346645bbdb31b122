"""Mean teacher (Tarvainen & Valpola 2017, arXiv:1703.01780): the running average of a network teaches it.

The network is that of the image task, whose network.py stays as it is.
"""

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics.classification import MulticlassAccuracy

from .network import Network


class Model(LightningModule):
    """Classify images, of which few have labels.

    Args:
        num_classes: Classes.
        channels: Colour channels of an image.
        lr: Learning rate of AdamW.
        decay: Share of the teacher that stays at each step.
        consistency: How much it counts that the student says what the teacher says, after `rampup` epochs.
        rampup: Epochs over which that weight grows: a teacher that knows nothing is not followed.
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 1,
        lr: float = 2e-3,
        decay: float = 0.98,
        consistency: float = 10.0,
        rampup: int = 5,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.student = Network(channels, num_classes, size=[8, 8], width=16)
        self.teacher = AveragedModel(self.student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.teacher.requires_grad_(False)
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    @property
    def example_input_array(self) -> Tensor:
        return torch.randint(256, (2, self.hparams.channels, 8, 8), dtype=torch.uint8)

    def forward(self, images: Tensor) -> Tensor:
        return self.teacher(images)  # (B, num_classes)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        images, labels = batch["labelled"]
        (others,) = batch["unlabelled"]
        loss = F.cross_entropy(self.student(noisy(images)), labels)
        with torch.no_grad():
            taught = self.teacher(noisy(others)).softmax(dim=1)
        difference = F.mse_loss(self.student(noisy(others)).softmax(dim=1), taught)
        weight = self.hparams.consistency * min(1.0, (self.current_epoch + 1) / self.hparams.rampup)
        self.log_dict({"train/loss": loss, "train/difference": difference}, on_step=False, on_epoch=True)
        return loss + weight * difference

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the teacher towards the student, after each step of the optimizer."""
        self.teacher.update_parameters(self.student)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        scores = self(images)
        self.val_acc(scores, labels)
        self.log("val/loss", F.cross_entropy(scores, labels))
        self.log("val/acc", self.val_acc, prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.test_acc(self(images), labels)
        self.log("test/acc", self.test_acc)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).argmax(dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=0.01)


def noisy(images: Tensor) -> Tensor:
    """Return uint8 images moved by up to one pixel, with noise: what teacher and student see differs."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    moved = images.roll((down, right), dims=(2, 3)).float()
    return (moved + 15 * torch.randn_like(moved)).clamp(0, 255).byte()

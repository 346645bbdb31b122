"""The LightningModule: loss, metrics and optimizer around the network. Replace what you need."""

import math
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import R2Score

from .harness.errors import UserError
from .harness.stopping import total_steps
from .network import Network


class Model(LightningModule):
    """Train `Network` to classify, or where there are no classes to predict a number.

    Args:
        classes: Class names, in the order of the scores; empty for a regression.
        lr: Peak learning rate of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).
        weight_decay: Decoupled weight decay of AdamW.
        warmup: Share of all steps during which the learning rate rises; a cosine to zero follows.
        backbone_lr: Share of `lr` with which `network.backbone` learns.
        label_smoothing: Share of each label spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).
        fused: Whether AdamW updates all weights at once; not where Lightning clips in mixed precision.
        backbone: A pretrained model in place of `Network`: a name on the Hugging Face hub, or a folder.
        backbone_config: What is to be known of it; train.py fetches it.
        network: The settings of `Network`.
    """

    def __init__(
        self,
        classes: list[str],
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        backbone_lr: float = 1.0,
        label_smoothing: float = 0.1,
        fused: bool = True,
        backbone: str | None = None,
        backbone_config: dict | None = None,
        **network,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)  # plain values, so that a checkpoint always loads
        num_classes = len(classes) or 1
        self.network: Any
        if backbone_config is None:
            self.network = Network(num_classes=num_classes, **network)
        else:
            from .pretrained import Pretrained

            self.network = Pretrained(backbone_config, num_classes, settings=network)
        metrics = MetricCollection({"loss": MeanMetric(nan_strategy="disable")})
        if classes:
            metrics["acc"] = MulticlassAccuracy(len(classes), average="micro", validate_args=False)
        else:
            metrics["r2"] = R2Score()
        self.train_metrics = metrics.clone(prefix="train/")
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    @property
    def example_input_array(self) -> tuple | None:
        """The arguments of `forward` for a batch of noise: Lightning's summary and export.py use them."""
        if not hasattr(self.network, "example_input"):
            return None
        return (self.network.example_input(batch=2),)

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        return self.network(x)

    def _step(self, batch: tuple[Tensor, Tensor], metrics: MetricCollection) -> tuple[Tensor, Tensor]:
        """Return the loss and the scores (B, num_classes) of a batch, and count it in the metrics.

        A network may give (B, num_classes, members) in training, of an ensemble whose members learn alone.
        """
        x, y = batch  # inputs of the network, (B,)
        scores = self(x)  # (B, num_classes)
        if scores.ndim == 3:
            y = y.unsqueeze(1).expand(-1, scores.shape[2])  # (B, members)
        if self.hparams.classes:
            smoothing = self.hparams.label_smoothing
            losses = F.cross_entropy(scores, y, label_smoothing=smoothing, reduction="none")
            metrics["acc"].update(scores.detach(), y)
        else:
            losses = F.mse_loss(scores[:, 0], y, reduction="none")
            metrics["r2"].update(scores[:, 0].detach().flatten(), y.flatten())
        metrics["loss"].update(losses.detach())
        return losses.mean(), scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, _ = self._step(batch, self.train_metrics)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, self.val_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return what the pictures of the test show of each example."""
        _, scores = self._step(batch, self.test_metrics)
        return {"scores": scores, "target": batch[1]}

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return class probabilities (B, num_classes), or numbers (B, 1), for a batch without targets."""
        scores = self(batch)
        if self.hparams.classes:
            return scores.softmax(dim=1)
        return scores

    # Metrics are logged once an epoch: logging at each step would cost more than a small network's step.
    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_metrics, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_metrics)

    def configure_optimizers(self):
        """Return AdamW, and a schedule that warms up and then falls to zero at the last step."""
        clips_scaled_gradients = self.trainer.gradient_clip_val and "mixed" in self.trainer.precision
        optimizer = torch.optim.AdamW(
            self._parameter_groups(),
            lr=self.hparams.lr,
            weight_decay=self.hparams.weight_decay,
            fused=self.hparams.fused and not clips_scaled_gradients,
        )
        total = total_steps(self.trainer)
        warmup = max(1, round(self.hparams.warmup * total))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            done = (step - warmup) / max(1, total - warmup)
            return 0.5 * (1 + math.cos(math.pi * done))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self) -> list[dict]:
        """Return all parameters, those of the backbone in a group with a learning rate of its own."""
        if self.hparams.backbone_lr == 1:
            return [{"params": list(self.parameters())}]
        if not hasattr(self.network, "backbone"):
            raise UserError(
                f"model.backbone_lr must be 1 (got {self.hparams.backbone_lr}): "
                "the network has no attribute `backbone`"
            )
        backbone = list(self.network.backbone.parameters())
        known = set(backbone)
        rest = [parameter for parameter in self.parameters() if parameter not in known]
        return [
            {"params": rest},
            {"params": backbone, "lr": self.hparams.backbone_lr * self.hparams.lr},
        ]

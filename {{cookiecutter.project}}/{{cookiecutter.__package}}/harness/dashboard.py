"""What a run shows beside what its model logs: speed, gradients and, after the test, where the model errs."""

import time

import torch
import wandb
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.data import extract_batch_size
from PIL.Image import Image
from torch.nn.utils import get_total_norm
from torchmetrics.functional.classification import multiclass_confusion_matrix


class Dashboard(Callback):
    """Log speed and gradient norm and, in W&B, confusions and the most confident mistakes of the test, if
    `test_step` returns `probabilities` (B, num_classes) and `target` (B,)."""

    def on_train_epoch_start(self, *_) -> None:
        self.start, self.samples, self.grad_norm = time.perf_counter(), 0, None

    on_train_start = on_train_epoch_start  # a resumed epoch does not start again

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer) -> None:
        if trainer._logger_connector.should_update_logs:
            self.grad_norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, _) -> None:
        if (norm := self.grad_norm) is not None:
            _log(trainer, {"train/loss_step": outputs["loss"].item(), "train/grad_norm": norm.item()})
            self.grad_norm = None
        self.samples += extract_batch_size(batch) * trainer.world_size
        self.end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        speed = {"time/samples_per_second": self.samples / (self.end - self.start)}
        _log(trainer, speed | {"time/epoch_seconds": time.perf_counter() - self.start})

    def on_test_start(self, *_) -> None:
        self.outputs = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        if outputs:
            self.outputs.append((outputs["probabilities"], outputs["target"]))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        columns = [pl_module.all_gather(torch.cat(parts)) for parts in zip(*self.outputs, strict=True)]
        if trainer.world_size > 1:  # DistributedSampler has dealt out the examples, the first perhaps twice
            count = len(trainer.test_dataloaders.dataset)
            columns = [column.transpose(0, 1).flatten(0, 1)[:count] for column in columns]
        if columns and isinstance(trainer.logger, WandbLogger) and trainer.is_global_zero:
            _show_test(trainer, *(column.cpu() for column in columns))


def _log(trainer: Trainer, values: dict) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step - 1)  # as Lightning counts


def _show_test(trainer: Trainer, probabilities: torch.Tensor, target: torch.Tensor) -> None:
    data, classes = trainer.datamodule, trainer.datamodule.classes
    confidence, prediction = probabilities.float().max(dim=1)
    worst = torch.where(prediction != target, confidence, -confidence).argsort(descending=True)[:50]
    media = [wandb.Image(x) if isinstance(x, Image) else x for x in map(data.test_example, worst.tolist())]
    names = [[classes[i] for i in column[worst]] for column in (target, prediction)]
    examples = zip(media, *names, confidence[worst].tolist(), strict=True)
    matrix = multiclass_confusion_matrix(prediction, target, len(classes))
    shares = matrix.diag() / torch.stack([matrix.sum(dim=0), matrix.sum(dim=1)]).clamp(min=1)
    scores = zip(classes, *shares.tolist(), matrix.sum(dim=1).tolist(), strict=True)
    labels = target.tolist(), prediction.tolist()
    charts = {
        "test/confusion_matrix": wandb.plot.confusion_matrix(None, *labels, classes),
        "test/classes": wandb.Table(["class", "precision", "recall", "examples"], list(scores)),
        "test/examples": wandb.Table(["example", "target", "prediction", "confidence"], list(examples)),
    }
    trainer.logger.log_metrics(charts, trainer.global_step)

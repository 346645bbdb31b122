"""What a run shows beside what its model logs: speed, gradients and, after the test, where the model errs."""

import time

import torch
import wandb
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.data import extract_batch_size
from PIL.Image import Image
from torchmetrics.functional.classification import multiclass_confusion_matrix


class Dashboard(Callback):
    """Log speed and gradient norm and, in W&B, confusions and the most confident mistakes of the test.

    Those need a `test_step` that returns `probabilities` (B, num_classes) and `target` (B,), and a data
    module with `classes` and `test_example(index)`.
    """

    def on_train_epoch_start(self, *_) -> None:
        self.start, self.samples = time.perf_counter(), 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer) -> None:
        if trainer._logger_connector.should_update_logs:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            pl_module.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, _) -> None:
        if trainer._logger_connector.should_update_logs:
            pl_module.log("train/loss_step", outputs["loss"])
        self.samples += extract_batch_size(batch) * trainer.world_size
        self.end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        speed = {"time/samples_per_second": self.samples / (self.end - self.start)}
        pl_module.log_dict(speed | {"time/epoch_seconds": time.perf_counter() - self.start}, sync_dist=True)

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


def _show_test(trainer: Trainer, probabilities: torch.Tensor, target: torch.Tensor) -> None:
    data, classes = trainer.datamodule, trainer.datamodule.classes
    confidence, prediction = probabilities.float().max(dim=1)
    mistakes_first = torch.where(prediction != target, confidence, -confidence).argsort(descending=True)
    examples = []
    for i in mistakes_first[:50].tolist():
        example = data.test_example(i)
        media = wandb.Image(example) if isinstance(example, Image) else example
        examples.append([media, classes[target[i]], classes[prediction[i]], confidence[i].item()])
    matrix = multiclass_confusion_matrix(prediction, target, len(classes))
    share = matrix.diag() / torch.stack([matrix.sum(dim=0), matrix.sum(dim=1)]).clamp(min=1)
    scores = zip(classes, *share.tolist(), matrix.sum(dim=1).tolist(), strict=True)
    confusions = {"y_true": target.tolist(), "preds": prediction.tolist(), "class_names": classes}
    charts = {
        "test/confusion_matrix": wandb.plot.confusion_matrix(**confusions),
        "test/classes": wandb.Table(["class", "precision", "recall", "examples"], list(map(list, scores))),
        "test/examples": wandb.Table(["example", "target", "prediction", "confidence"], examples),
    }
    trainer.logger.log_metrics(charts, trainer.global_step)

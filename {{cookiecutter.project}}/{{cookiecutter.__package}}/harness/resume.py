"""The checkpoint from which `--resume` goes on."""

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Save each epoch's end, whether or not the monitored metric has improved."""

    def __init__(self, run: Path):
        self.path = run / "checkpoints" / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)

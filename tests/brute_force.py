"""Resume a run from the checkpoint before each of its steps, and compare with the run never stopped.

Run in the folder of a generated project: `python brute_force.py CASE...`. Prints a line of JSON for each: the
number of points, and those that ended differently. All in one process, for importing Lightning takes longer.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from chaos import equal
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

sys.path.insert(0, str(Path.cwd()))
import train

PACKAGE = train.DataModule.__module__.removesuffix(".data")
data, model, resume, dashboard, cli = (
    importlib.import_module(f"{PACKAGE}.{name}")
    for name in ("data", "model", "harness.resume", "harness.dashboard", "harness.cli")
)
SMALL = {
    "model.width": 4,
    "data.batch_size": 16,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 3,
    "trainer.limit_train_batches": 4,
    "trainer.limit_val_batches": 2,
    "trainer.limit_test_batches": 1,
    "trainer.log_every_n_steps": 2,
    "trainer.enable_model_summary": False,
}
CASES = {
    "default": {},
    "augmentation": {"model.dropout": 0.5},
    "workers": {"model.dropout": 0.5, "data.num_workers": 2},
    "plateau": {"trainer.accumulate_grad_batches": 2, "trainer.limit_train_batches": 5},
    "plateau_rare_validation": {"trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 5},
    "validation_within": {"trainer.val_check_interval": 2},
    "validation_always": {"trainer.val_check_interval": 1},
    "max_steps": {"trainer.max_epochs": -1, "trainer.max_steps": 10},
    "early_stop": {"early_stopping.patience": 2, "early_stopping.min_delta": 9, "trainer.max_epochs": 9},
    "one_batch_epochs": {
        "trainer.limit_train_batches": 1,
        "trainer.max_epochs": 5,
        "trainer.log_every_n_steps": 1,
    },
    "average": {"trainer.callbacks": "lightning.pytorch.callbacks.EMAWeightAveraging"},
    "logged": {},
    "finetuning": {"config": "experiments/finetune.yaml"},  # freezes for two epochs
    "ordinary_loader": {},
}


class NoisyDataset(data.ImageDataset):
    """Draw from each of the random number generators that an augmentation may use."""

    def __getitems__(self, indices):
        images, labels = super().__getitems__(indices)
        noise = torch.rand(()) * 20 + np.random.rand() * 20 + random.random() * 20
        return (images * torch.rand(images.shape) + noise).to(torch.uint8), labels


def plateau(self):
    optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss", "strict": False},
    }


class LoggingModel(model.Model):
    """Log as most LightningModules do, and with metrics that share their state."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        count = len(self.hparams.classes)
        self.shared = MetricCollection(
            [MulticlassAccuracy(count), MulticlassF1Score(count)], prefix="shared/"
        )

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("draws", torch.rand(()) + np.random.rand() + random.random(), on_step=True)
        self.shared.update(self(batch[0]), batch[1])
        return loss

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.log_dict(self.shared)


@contextlib.contextmanager
def changed(case: str):
    """Change what a user would change in data.py and model.py for a case."""
    changes = []
    if case in ("augmentation", "workers"):
        changes = [(data, "ImageDataset", NoisyDataset)]
    if case.startswith("plateau"):
        changes = [(model.Model, "configure_optimizers", plateau)]
    if case == "logged":
        changes = [(train, "Model", LoggingModel)]
    if case == "ordinary_loader":  # the negative control
        changes = [(resume.Resume, "_make_exact", lambda self, trainer, loader: loader)]
    before = [getattr(owner, name) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    yield
    for (owner, name, _), value in zip(changes, before, strict=True):
        setattr(owner, name, value)


def run(*arguments: str) -> None:
    sys.argv = ["train.py", *arguments]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            train.main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{end.code}: {output.getvalue()}") from end


def result(folder: Path) -> dict:
    """Return all that must come out equal."""
    found = {"metrics.csv": (folder / "metrics.csv").read_bytes()}
    for name in ("last", "best"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for state in checkpoint.get("callbacks", {}).values():
            state.pop("current_score", None)  # ModelCheckpoint saves it, but does not load it
        keys = {"state_dict", "optimizer_states", "lr_schedulers", "callbacks", "epoch", "global_step"}
        assert name == "best" or keys <= checkpoint.keys()
        found |= {(name, key): checkpoint[key] for key in keys & checkpoint.keys()}
    return found


def brute_force(case: str, root: Path) -> dict:
    """Train once with a copy of the run's folder at each step, then go on from each copy."""
    flags = [f"--{key}={value}" for key, value in {**SMALL, **CASES[case]}.items()]
    flags.append(f"--trainer.default_root_dir={root / case}")
    copies, save = [], resume.Resume._save

    def save_and_copy(self, trainer):
        save(self, trainer)
        if self.training:
            self.next_save = 0.0  # again before the next step
            copies.append(root / f"{case}-{len(copies)}")
            shutil.copytree(self.run, copies[-1])

    resume.Resume._save = save_and_copy
    run(*flags)
    resume.Resume._save = save
    (folder,) = (root / case).iterdir()
    expected = result(folder)
    different = []
    for number, copy in enumerate(copies):
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        run("--resume", str(folder))
        found = result(folder)
        if parts := [str(key) for key in expected if not equal(expected[key], found[key])]:
            different.append([number, parts])
    weights = expected["last", "state_dict"]
    digest = hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()
    return {"points": len(copies), "different": different, "weights": digest}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    root = Path("brute").resolve()
    # Pictures would take a third of the time.
    dashboard.show_test = cli.draw_learning_curves = lambda *_: None
    for case in sys.argv[1:] or CASES:
        with changed(case):
            print(json.dumps({"case": case, **brute_force(case, root)}), flush=True)

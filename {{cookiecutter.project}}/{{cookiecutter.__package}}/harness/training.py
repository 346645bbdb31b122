"""What train.py does: a run, from its settings to the box that says what comes next."""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from tqdm.contrib.logging import logging_redirect_tqdm

from .backbones import load_weights
from .checkpoints import newest_checkpoint
from .curves import draw_learning_curves
from .errors import UserError
from .folder import RunFolder, command, existing_run, new_run, print_box, resume_command
from .loaders import ExactLoaders
from .monitor import Monitor
from .notes import DataNotes
from .pictures import TestPictures
from .records import flat
from .resume import Resume
from .settings import Settings, refuse_changes, takes
from .signals import Signals
from .stopping import lasts_longer
from .tracking import Tracking
from .watchdog import Watchdog
from .weights import start_from

Rows = list[tuple[str, str]]


class Training(Settings):
    """A run of train.py: new, or continued with `--resume`.

    Attributes:
        folder: The run's folder.
        resume_from: The checkpoint to continue from, None for a new run.
    """

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule] | None,
        project: Path,
    ):
        self.project = project
        args = sys.argv[1:]
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--resume", nargs="?")
        run = early.parse_known_args(args)[0].resume
        folder = existing_run(run) if run else project
        super().__init__(model_class, datamodule_class, folder / "config.yaml", args)

    def before_instantiate_classes(self) -> None:
        if not self.config.resume:
            self.describe_backbone()
        super().before_instantiate_classes()
        self.lasts_longer = False
        self.resume_from: Path | None = None
        if self.resume:
            self.folder = RunFolder(existing_run(self.resume))
            self.continue_run()
        else:
            self.folder = RunFolder(
                new_run(Path(self.config.trainer.default_root_dir or self.project / "runs"))
            )
        if self.resume_from is not None:
            self.use_tokenizer_of(self.folder.path)
        self.refuse_nothing_to_train()
        path = self.folder.path
        self.config["trainer.default_root_dir"] = str(path)
        if isinstance(self.config.trainer.logger, Namespace):
            self.config["trainer.logger.init_args.save_dir"] = str(path)
        self.name_checkpoints()

    def describe_backbone(self) -> None:
        """Fetch for a new run what is to be known of a pretrained model; it becomes one of the settings.

        Raises:
            UserError: If the data module cannot make data for one.
        """
        name = self.config.model.get("backbone")
        if not takes(self.model_class, "backbone_config"):
            return  # a setting of the user's own
        found = None
        if name is not None:
            if not hasattr(self.datamodule_class, "describe_backbone"):
                raise UserError(
                    f"model.backbone must be null (got {name}): there is no pretrained model for such data "
                    "(the data module has no describe_backbone)"
                )
            found = self.datamodule_class.describe_backbone(name)
        for part in ("model", "data"):
            if f"{part}.backbone_config" in self.config:
                self.config[f"{part}.backbone_config"] = found

    def continue_run(self) -> None:
        """Refuse settings that make another training of the run; leave if there is nothing to do."""
        path = self.folder.path
        before = self.parser.parse_args(["--config", str(path / "config.yaml")])
        before.pop("config")
        before.pop("resume")
        old = flat(self.plain(before))
        new = flat(self.settings)
        refuse_changes(path, old, new)
        self.lasts_longer = lasts_longer(old, new)
        state = self.folder.state()
        if state.get("finished") and not self.lasts_longer:
            print(f"{self.resume} is finished: {state['training']}")
            sys.exit()
        self.resume_from = newest_checkpoint(path)
        if state.get("finished") and self.resume_from is None:
            raise UserError(
                f"{self.resume} has no last.ckpt to continue from (was it deleted?); "
                f"start a new run from its weights: --model.init_from {self.resume}"
            )

    def refuse_nothing_to_train(self) -> None:
        """Raise a UserError if the settings leave no step."""
        for name in ("max_epochs", "max_steps", "limit_train_batches"):
            if self.config.trainer[name] == 0:
                raise UserError(
                    f"trainer.{name} must be above 0 (got 0), or nothing is trained; "
                    "to test a trained run: python evaluate.py runs/<id>"
                )

    def name_checkpoints(self) -> None:
        """Put checkpoints into the run's folder: the best is best.ckpt, however many are kept."""
        checkpoint = self.config.checkpoint
        checkpoint.save_last = None  # last.ckpt is there always
        if checkpoint.dirpath is None:
            checkpoint.dirpath = str(self.folder.path / "checkpoints")
        if checkpoint.filename is None and checkpoint.save_top_k == 1:
            checkpoint.filename = "best"
            checkpoint.enable_version_counter = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.resume_from is None and self.config.model.get("backbone_config"):
            load_weights(self.config.model.backbone, self.model)
        if self.init_from and self.resume_from is None:
            start_from(self.init_from, self.model)
        show_bar = sys.stdout.isatty() and self.config.trainer.enable_progress_bar is not False
        self.pictures = TestPictures()
        self.trainer_defaults["callbacks"] = [Monitor(lines=not show_bar), self.pictures]
        self.choose_progress_bar(show_bar)
        if SLURMEnvironment.detect() and not self.config_init.trainer.plugins:
            kwargs["plugins"] = [SLURMEnvironment(auto_requeue=False)]  # slurm.sh requeues
        trainer = super().instantiate_trainer(logger=False, enable_progress_bar=show_bar, **kwargs)
        for callback in trainer.callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.folder.path / "checkpoints")
        seed = int(self.config.seed_everything or 0)
        self.signals = Signals(self.folder.path)
        self.tracking = Tracking(self.folder.path, self.settings, self.config_init.trainer.logger)
        loaders = ExactLoaders(seed)
        self.resuming = Resume(
            self.folder, self.text, loaders, self.signals, self.tracking, self.lasts_longer
        )
        watchdog = Watchdog(self.config.stuck_after)
        first = [self.resuming, loaders, self.signals, self.tracking, watchdog, DataNotes()]
        trainer.callbacks[:0] = first
        return trainer

    def choose_progress_bar(self, show_bar: bool) -> None:
        """Use the progress bar among the callbacks if there is one, and none without a terminal."""
        chosen = self.config_init.trainer.callbacks or []
        callbacks = chosen if isinstance(chosen, list) else [chosen]
        bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
        if show_bar and not bars:
            self.trainer_defaults["callbacks"].insert(0, TQDMProgressBar(refresh_rate=10))
        if bars and not show_bar:
            rank_zero_info(
                f"{type(bars[0]).__name__} needs a terminal: each epoch is printed in a line instead"
            )
            others = [callback for callback in callbacks if callback not in bars]
            self.config_init.trainer.callbacks = others

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep other processes out of the run's folder, and record how the run ends."""
        self.signals.listen()
        main = self.trainer.is_global_zero
        if main and self.resume:
            self.folder.claim()
            if self.resume_from is None:
                (self.folder.path / "metrics.csv").unlink(missing_ok=True)
        try:
            with self.lines_above_bar():
                yield
        except BaseException as error:
            self.tracking.close(error)
            if main:
                self.end_early(error)
            raise
        else:
            self.tracking.close(None)
            if main:
                self.folder.end(finished=True)
                draw_learning_curves(self.folder.path)
        finally:
            self.folder.release()
            self.signals.restore()

    def lines_above_bar(self) -> AbstractContextManager:
        """Print what Lightning and callbacks say above the progress bar, if there is one, not in it."""
        if self.trainer.progress_bar_callback is None:
            return nullcontext()
        return logging_redirect_tqdm([logging.getLogger("lightning.pytorch")])

    def end_early(self, error: BaseException) -> None:
        """Leave nothing of a new run that failed before its first step was done."""
        if self.resume or self.resuming.began or isinstance(error, SystemExit):
            with suppress(OSError):  # of a full disk, which the error says
                self.note_end(error)
                draw_learning_curves(self.folder.path)
            return
        self.folder.discard()
        self.tracking.discard()

    def note_end(self, error: BaseException) -> None:
        """Record that the run ended early, and why if it was an error."""
        if not self.folder.has_begun():
            return  # it was stopped, or refused, before its first step
        if isinstance(error, Exception):
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.folder.end(failed=reason[:400])
        else:
            self.folder.end()

    def can_test(self) -> bool:
        """Return whether there is something to test with."""
        return self.has("test_step") and self.has("test_dataloader")

    def best_checkpoint(self) -> Path | None:
        """Return the checkpoint of the best validation; None where the newest weights are all there is."""
        best = self.folder.path / "checkpoints" / "best.ckpt"
        return best if best.exists() else None

    @rank_zero_only
    def print_box(self) -> None:
        """Print the metrics, where everything lies, and the commands that work with this model."""
        rows: Rows = []
        for name, value in sorted(self.trainer.callback_metrics.items()):
            rows.append((name, f"{float(value):.4f}"))
        count = sum(parameter.numel() for parameter in self.model.parameters())
        rows.append(("parameters", f"{count:,}"))
        rows += self.tracking.places()
        rows += self.files()
        rows += self.commands()
        print_box(rows)

    def files(self) -> Rows:
        """Return the checkpoint and the pictures that there are."""
        rows: Rows = []
        folder = self.folder.path
        pictures = sorted(file.name for file in folder.glob("*.png"))
        if pictures:
            rows.append(("pictures", f"{folder}: {', '.join(pictures)}"))
        checkpoint = self.best_checkpoint() or folder / "checkpoints" / "last.ckpt"
        rows.append(("checkpoint", str(checkpoint)))
        return rows

    def commands(self) -> Rows:
        """Return the commands that go on from here, as far as the model has the hooks for them."""
        folder = self.folder.path
        rows = [("resume", resume_command(folder))]
        if self.can_test() or (self.has("validation_step") and self.has("val_dataloader")):
            rows.append(("evaluate", command("python", self.project / "evaluate.py", folder)))
        predict = command("python", self.project / "predict.py", folder)
        if hasattr(self.datamodule, "predict_inputs"):
            rows.append(("predict", f"{predict} INPUT..."))
        elif self.has("predict_dataloader"):
            rows.append(("predict", predict))
        if self.model.example_input_array is not None:
            rows.append(("export", command("python", self.project / "export.py", folder)))
        network = getattr(self.model, "network", None)
        layer = self.project / "experiments" / "finetune.yaml"
        if hasattr(network, "backbone") and hasattr(network, "head") and layer.exists():
            train = self.project / "train.py"
            rows.append(
                ("fine-tune", command("python", train, "--config", layer, "--model.init_from", folder))
            )
        return rows

"""The command line of train.py: typed settings, layered files, one run."""

import ctypes
import multiprocessing
import os
import sys
import threading
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from inspect import signature
from pathlib import Path

import torch
import wandb
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn.utils import convert_conv2d_weight_memory_format
from torchmetrics import Metric

from .dashboard import Dashboard, draw_learning_curves
from .errors import UserError, check_settings_file, explain
from .finetune import start_from
from .resume import Resume
from .run import claimed, command, existing_run, new_run, newest_checkpoint, resume_command
from .tracking import INIT, open_loggers, places

FINDERS = callbacks.BatchSizeFinder, callbacks.LearningRateFinder


class TrainCLI(LightningCLI):
    """Parse the settings and build trainer, model, data and run from them.

    Later settings win: config.yaml of the folder `project`, or with `--resume` that of the run, then
    `--config` files, then flags. `links` says what the model takes from the data, as
    `{"data.attribute": "model.argument"}`.
    """

    def __init__(self, model_class: type, datamodule_class: type, project: Path, links: dict[str, str]):
        self.project, self.links = project, links
        super().__init__(
            model_class,
            datamodule_class,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,  # they are the model's
            load_from_checkpoint_support=False,  # it would store classes in the checkpoint
            parser_kwargs={"allow_abbrev": False, "exit_on_error": False},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--resume", metavar="RUN", help="Go on with the run in this folder.")
        parser.add_argument("--stuck_after", type=float, default=600.0, help="Longest wait for a batch [s].")
        weights = "Start from the weights of a run, .ckpt or .safetensors that fit."
        parser.add_argument("--model.init_from", type=str | None, default=None, metavar="RUN", help=weights)
        parser.add_argument("--compile", type=bool, default=False, help="Train with torch.compile.")
        parser.add_argument("--channels_last", type=bool | None, help="Faster convolutions; null: on CPUs.")
        parser.add_argument("--tf32", type=bool, default=False, help="Multiply float32 matrices as TF32.")
        fixed = set(signature(wandb.init).parameters) - INIT
        parser.add_function_arguments(wandb.init, "tracking", skip=fixed)
        parser.add_argument("--tracking.log_model", type=bool, default=False, help="Upload best.ckpt.")
        parser.add_argument("--tracking.watch", type=bool, default=False, help="Log histograms of gradients.")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(callbacks.EarlyStopping, "early_stopping")
        parser.link_arguments("checkpoint.monitor", "early_stopping.monitor")
        parser.link_arguments("checkpoint.mode", "early_stopping.mode")
        parser.set_defaults({"early_stopping.strict": False})  # the checkpoint's message is clearer
        parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")
        for source, target in self.links.items():
            parser.link_arguments(source, target, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: None) -> None:
        early = ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--resume", nargs="?")
        early.add_argument("--config", "-c", nargs="?", action="append", type=Path, default=[])
        given = early.parse_known_args()[0]
        base = (existing_run(given.resume) if given.resume else self.project) / "config.yaml"
        files = [base, *filter(None, given.config)]
        for file in files:
            check_settings_file(file)
        try:
            self.config = parser.parse_args(["--config", str(base), *sys.argv[1:]])
        except ArgumentError as error:
            known = list(parser.get_defaults().keys())
            raise UserError(explain(str(error), known, sys.argv[1:], files)) from error

    def before_instantiate_classes(self) -> None:
        self.config.pop("config")
        resume = self.config.pop("resume")
        self.settings = self.parser.dump(self.config, skip_unset=False)
        self.init_from = self.config.model.pop("init_from")  # not needed to load a checkpoint
        if self.config.checkpoint.save_last or self.config.checkpoint.save_top_k not in (0, 1):
            raise UserError("a run keeps best.ckpt and last.ckpt; give save_top_k 1 or 0, no save_last")
        root = Path(self.config.trainer.default_root_dir or self.project / "runs")
        self.folder = existing_run(resume) if resume else new_run(root)
        self.finished = self.folder / "checkpoints" / "finished.yaml"
        if self.finished.exists() and self.finished.read_text(encoding="utf-8") == self.settings:
            print(f"{resume} is finished; to train on, give a larger --trainer.max_epochs")
            sys.exit()
        self.resume_from = newest_checkpoint(self.folder) if resume else None
        self.config["trainer.default_root_dir"] = str(self.folder)
        if isinstance(self.config.trainer.logger, Namespace):
            self.config["trainer.logger.init_args.save_dir"] = str(self.folder)
        self.config["checkpoint.dirpath"] = str(self.folder / "checkpoints")
        self.config["checkpoint.filename"] = "best"
        self.config["checkpoint.enable_version_counter"] = False

    def instantiate_classes(self) -> None:
        torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        super().instantiate_classes()
        if on_cpu := self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        if on_cpu if self.config.channels_last is None else self.config.channels_last:
            convert_conv2d_weight_memory_format(self.model, torch.channels_last)
        if self.config.compile:
            self.model.compile()  # in place, so that weights keep their names in checkpoints

    def instantiate_trainer(self, **kwargs) -> Trainer:
        if self.init_from and not self.resume_from:
            start_from(self.init_from, self.model)
        self.best: BestCheckpoint = self.config_init.checkpoint
        show_bar = sys.stdout.isatty() and self.config.trainer.enable_progress_bar is not False
        progress = [callbacks.TQDMProgressBar(refresh_rate=10)] if show_bar else []
        watchdog = Watchdog(self.config.stuck_after)
        self.trainer_defaults["callbacks"] = [*progress, Dashboard(lines=not show_bar), watchdog]
        try:
            trainer = super().instantiate_trainer(logger=False, enable_progress_bar=show_bar, **kwargs)
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            where = {name: self.config.trainer[name] for name in ("accelerator", "devices", "strategy")}
            raise UserError(f"the trainer refuses its settings ({where}): {error}") from error
        self.resume = Resume(self.folder, self.config.seed_everything or 0, self.settings)
        trainer.callbacks.insert(0, self.resume)
        if any(isinstance(callback, FINDERS) for callback in trainer.callbacks):
            trainer.callbacks.insert(0, callbacks.LambdaCallback(on_train_start=self.keep_found))
        return trainer

    def keep_found(self, trainer: Trainer, model: LightningModule) -> None:
        """Train from the start with what Lightning's finders have found, and record it in the settings."""
        settings = yaml.safe_load(self.settings)
        names = {type(callback).__name__ for callback in trainer.callbacks if isinstance(callback, FINDERS)}
        trainer.callbacks = [other for other in trainer.callbacks if not isinstance(other, FINDERS)]
        given = settings["trainer"]["callbacks"]
        settings["trainer"]["callbacks"] = [
            other
            for other in (given if isinstance(given, list) else [given])
            if other["class_path"].rpartition(".")[2] not in names
        ]
        for group, module in (("model", model), ("data", self.datamodule)):
            for name in {"lr", "learning_rate", "batch_size"} & settings[group].keys():
                settings[group][name] = module.hparams[name]
                rank_zero_info(f"from here on: --{group}.{name} {settings[group][name]}")
        config = self.parser.parse_string(yaml.safe_dump(settings))
        config.pop("resume")
        self.settings = self.resume.settings = self.parser.dump(config, skip_unset=False)
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)
        trainer.fit_loop.restarting = False  # a finder has loaded its own checkpoint
        trainer.strategy.setup_optimizers(trainer)
        for module in model.modules():
            if isinstance(module, Metric):
                module.reset()

    @contextmanager
    def tracked_run(self) -> Iterator[None]:
        """Keep other processes out of the run's folder, and log to it and to W&B or what was chosen."""
        main = self.trainer.is_global_zero
        self.resume.listen()  # Lightning puts this back whenever it ends its own
        with claimed(self.folder) if main else nullcontext():
            if main and not self.resume_from:
                (self.folder / "metrics.csv").unlink(missing_ok=True)
            chosen = self.config_init.trainer.logger
            with open_loggers(self.folder, yaml.safe_load(self.settings), chosen, self.model) as loggers:
                self.trainer.loggers = loggers
                try:
                    yield
                finally:
                    if main and (self.folder / "metrics.csv").exists():
                        with suppress(OSError):  # of a full disk, which something else will say
                            draw_learning_curves(self.folder)
            if main:
                self.finished.write_text(self.settings, encoding="utf-8")

    @rank_zero_only
    def print_closing_box(self) -> None:
        """Print the test metrics, and the commands for what comes next."""
        rows = {name: f"{value:.4f}" for name, value in self.trainer.callback_metrics.items()}
        rows["parameters"] = f"{sum(parameter.numel() for parameter in self.model.parameters()):,}"
        rows |= places(self.trainer.loggers) | {"pictures": f"{self.folder}{os.sep}*.png"}
        if self.best.best_model_path:
            rows[f"best {self.best.monitor}"] = f"{self.best.best_model_score:.4f}"
            rows["checkpoint"] = self.best.best_model_path
            rows["resume"] = resume_command(self.folder)
            rows["evaluate"] = command("python", self.project / "evaluate.py", self.folder)
            rows["predict"] = f"{command('python', self.project / 'predict.py', self.folder)} INPUT..."
            rows["export"] = command("python", self.project / "export.py", self.folder)
            layer = "--config", self.project / "experiments" / "finetune.yaml", "--model.init_from"
            rows["fine-tune"] = command("python", self.project / "train.py", *layer, self.folder)
        lines = [f"{name:<14} {value}".replace(f"{Path.cwd()}{os.sep}", "") for name, value in rows.items()]
        print("-" * 79, *lines, "-" * 79, sep="\n")


def keep_freed_memory() -> None:
    """Keep glibc from giving back each step's memory: the next is up to a quarter faster, the peak higher."""
    with suppress(AttributeError, TypeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give back the end of the heap
        mallopt(-4, 0)  # M_MMAP_MAX: keep large blocks on the heap as well


class Watchdog(Callback):
    """When for `seconds` no batch is finished, print in one piece where each rank stands, and end the run."""

    over = threading.Event()

    def __init__(self, seconds: float):
        self.seconds = seconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.feed()
        self.over = threading.Event()
        threading.Thread(target=self._watch, args=(trainer, self.over), daemon=True).start()

    def feed(self, *_) -> None:
        self.fed = time.monotonic()

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = feed

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.over.set()

    on_exception = teardown

    def _watch(self, trainer: Trainer, over: threading.Event) -> None:
        while time.monotonic() < self.fed + self.seconds:
            if over.wait(1):
                return
            if self not in trainer.callbacks:  # set aside while one of Lightning's finders tries
                self.feed()
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        stack = "".join(traceback.format_stack(frame, limit=12))
        reason = f"no batch for {self.seconds} s (--stuck_after); above is where it stands"
        print(f"{stack}error: rank {trainer.global_rank}: {reason}", file=sys.stderr, flush=True)
        if trainer.world_size > 1:
            time.sleep(5)  # for the others to say where they stand: one of them may keep this one waiting
        ranks = getattr(trainer.strategy.launcher, "procs", [])
        for process in [*multiprocessing.active_children(), *ranks]:
            process.kill()
        os._exit(1)


class BestCheckpoint(callbacks.ModelCheckpoint):
    """Keep the best checkpoint, and refuse a validation metric that is not logged before the first step."""

    def load_state_dict(self, state_dict: dict) -> None:
        """Look for the best checkpoint where the run is now: its folder may have been moved."""
        best = str(Path(str(self.dirpath), "best.ckpt"))
        if scores := list(state_dict["best_k_models"].values()):
            moved = {"best_k_models": {best: scores[0]}, "best_model_path": best, "kth_best_model_path": best}
            state_dict = {**state_dict, **moved}
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics and not str(self.monitor).startswith("train"):
            logged = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(f"checkpoint.monitor: {self.monitor} is never logged; choose from {logged}")

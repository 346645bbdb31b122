"""From config.yaml, `--config` files and flags to trainer, model and data; what `--resume` may change."""

import argparse
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import wandb
import yaml
from jsonargparse import ArgumentError
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

from .backbones import TOKENIZER
from .checkpoints import BestCheckpoint
from .errors import UserError, called_by_harness
from .explain import check_settings_file, explain
from .folder import shortened
from .help import HELP, help_text
from .private import help_texts
from .speed import compile_parts, keep_freed_memory, store_channels_last
from .stopping import LENGTHS, Stopping
from .tracking import INIT

# What --resume may change: how long and where a run trains, and what is shown of it.
CHANGEABLE = {
    *LENGTHS,
    "channels_last",
    "compile",
    "data.multiprocessing_context",
    "data.num_workers",
    "data.persistent_workers",
    "data.pin_memory",
    "data.prefetch_factor",
    "data.timeout",
    "keep_freed_memory",
    "stuck_after",
    "trainer.accelerator",
    "trainer.benchmark",
    "trainer.detect_anomaly",
    "trainer.deterministic",
    "trainer.devices",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.limit_predict_batches",
    "trainer.limit_test_batches",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.num_nodes",
    "trainer.num_sanity_val_steps",
    "trainer.profiler",
    "trainer.strategy",
}
# Arguments that are given to the model, and to the data module as far as it has them: data are made for the
# pretrained model that learns from them. Without a `backbone_config`, a `backbone` is the user's own.
BACKBONE = ("backbone", "backbone_config")
CHANGEABLE_GROUPS = ("early_stopping.", "tracking.", "trainer.logger.", "trainer.strategy.")


def represent_enum(dumper: yaml.SafeDumper, member: Enum) -> yaml.Node:
    """Write a member of an enum as its value; some callbacks of Lightning have one as a default."""
    return dumper.represent_data(member.value)


yaml.SafeDumper.add_multi_representer(Enum, represent_enum)


class Settings(LightningCLI):
    """Read the settings and build trainer, model and data from them.

    Later settings win: first the file `base`, which is config.yaml of the project or of a run, then
    `--config` files, then flags. An argument of the model that has the name of a property of the data
    module is filled with it.

    Args:
        model_class: Any LightningModule.
        datamodule_class: Any LightningDataModule; None if the model has loaders of its own.
        base: The YAML file that comes first.
        args: The flags.
        extra: Adds arguments of a script to the parser; their values are in `config`.
        checkpoint: What was found in the training data, for a data module with a `load_state_dict`.

    Attributes:
        settings: All settings as plain values.
        text: The same as YAML.
        words: What comes before the settings on the command line.
    """

    words = ""

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule] | None,
        base: Path,
        args: list[str],
        extra: Callable[[LightningArgumentParser], None] | None = None,
        checkpoint: dict[str, Any] | None = None,
    ):
        self.base = base
        self.args = args
        self.extra = extra
        self.checkpoint = checkpoint
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
        parser.add_argument("--resume", metavar="RUN", help="Continue the run in this folder.")
        parser.add_argument(
            "--stuck_after",
            type=float,
            default=600.0,
            help="Stop the run if no batch finishes within this many seconds.",
        )
        parser.add_argument(
            "--model.init_from",
            type=str | None,
            default=None,
            metavar="RUN",
            help="Start from the weights of a run, .ckpt or .safetensors, as far as they fit.",
        )
        parser.add_argument("--compile", type=bool, default=False, help="Train with torch.compile.")
        parser.add_argument(
            "--channels_last",
            type=bool | None,
            default=None,
            help="Store convolutions pixel by pixel, which is faster; null: on CPUs.",
        )
        parser.add_argument("--tf32", type=bool, default=False, help="Multiply float32 matrices as TF32.")
        parser.add_argument(
            "--keep_freed_memory",
            type=bool,
            default=True,
            help="Reuse memory between steps instead of returning it to the system; on CPUs.",
        )
        other_arguments = set(signature(wandb.init).parameters) - INIT
        parser.add_function_arguments(wandb.init, "tracking", skip=other_arguments)
        parser.add_argument("--tracking.log_model", type=bool, default=False, help="Upload best.ckpt.")
        parser.add_argument(
            "--tracking.watch", type=bool, default=False, help="Log histograms of the gradients."
        )
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Stopping, "early_stopping")
        parser.link_arguments("checkpoint.monitor", "early_stopping.monitor")
        parser.link_arguments("checkpoint.mode", "early_stopping.mode")
        parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")
        if takes(self.model_class, "backbone_config") and takes(self.datamodule_class, "backbone_config"):
            for name in BACKBONE:
                if takes(self.datamodule_class, name):
                    parser.link_arguments(f"model.{name}", f"data.{name}")
        for name in linked_names(self.model_class, self.datamodule_class):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        common = help_texts(parser)
        if self.extra is not None:
            self.extra(parser)
        self.script_settings = {name: "" for name in help_texts(parser) if name not in common}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--config", "-c", nargs="?", action="append", type=Path, default=[])
        given = early.parse_known_args(self.args)[0].config
        files = [self.base, *(file for file in given if file is not None)]
        for file in files:
            check_settings_file(file)
        if "--help_all" in self.args:
            parser.print_help()
            sys.exit()
        flags = [flag for flag in self.args if flag not in HELP]
        try:
            self.config = parser.parse_args(["--config", str(self.base), *flags])
        except ArgumentError as error:
            known = list(parser.get_defaults().keys())
            raise UserError(explain(str(error), known, self.args, files)) from error
        if len(flags) < len(self.args):
            with suppress(BrokenPipeError):  # by `| head`
                print(help_text(parser, self.config, self.words, self.script_settings), flush=True)
            sys.exit()

    def before_instantiate_classes(self) -> None:
        self.config.pop("config")
        self.resume = self.config.pop("resume")
        self.settings = self.plain(self.config)
        self.text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
        self.init_from = self.config.model.pop("init_from")  # not needed to load a checkpoint
        if self.checkpoint is not None and self.datamodule_class is not None:
            self.parser.add_instantiator(self.with_facts, self.datamodule_class, subclasses=False)

    def plain(self, config: Any) -> dict[str, Any]:
        """Return settings as values that YAML can hold, from which they can be read again."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\s*Unable to serialize")  # without_objects leaves it out
            settings = yaml.safe_load(self.parser.dump(config, skip_unset=False))
        return without_objects(settings)

    def with_facts(self, class_type: type[LightningDataModule], *args: Any, **kwargs: Any) -> Any:
        """Build the data module with what was found in the training data, so it need not be read."""
        data = class_type(*args, **kwargs)
        state = (self.checkpoint or {}).get(class_type.__qualname__)
        if state:
            data.load_state_dict(state)
        return data

    def instantiate_classes(self) -> None:
        torch.set_float32_matmul_precision("high" if self.config.tf32 else "highest")
        super().instantiate_classes()
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        if on_cpu and self.config.keep_freed_memory:
            keep_freed_memory()
        channels_last = self.config.channels_last
        if channels_last or (channels_last is None and on_cpu):
            store_channels_last(self.model)
        if self.config.compile:
            compile_parts(self.model)

    def use_tokenizer_of(self, run: Path) -> None:
        """Let the data module take what it needs of a pretrained model from the folder of a run."""
        if self.config.get("data.backbone_config") and takes(self.datamodule_class, "backbone"):
            self.config["data.backbone"] = str(run / TOKENIZER)

    def owner(self, hook: str) -> LightningModule | LightningDataModule:
        """Return whose hook Lightning calls: loaders come from the data module if there is one."""
        if hook.endswith("_dataloader") and self.datamodule is not None:
            return self.datamodule
        return self.model

    def has(self, hook: str) -> bool:
        """Return whether the user's code defines one of Lightning's hooks."""
        return is_overridden(hook, self.owner(hook))

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            if not called_by_harness(error):
                raise
            where = {name: self.config.trainer[name] for name in ("accelerator", "devices", "strategy")}
            raise UserError(f"the trainer refuses its settings ({where}): {error}") from error


def takes(cls: type | None, name: str) -> bool:
    """Return whether the constructor of a class has an argument of this name."""
    return cls is not None and name in signature(cls).parameters


def linked_names(model_class: type, datamodule_class: type | None) -> list[str]:
    """Return the arguments of the model that are properties of the data module."""
    parser = LightningArgumentParser()
    arguments = parser.add_lightning_class_args(model_class, "model")
    return [name for name in properties(datamodule_class) if f"model.{name}" in arguments]


def properties(datamodule_class: type | None) -> list[str]:
    """Return the properties that a data module class has beside Lightning's own."""
    found = []
    for name in dir(datamodule_class or object):
        value = getattr(datamodule_class, name, None)
        is_property = isinstance(value, property) or type(value).__name__ == "cached_property"
        if is_property and not hasattr(LightningDataModule, name):
            found.append(name)
    return found


def refuse_changes(run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise a UserError if settings, flat as `{"model.lr": 0.1, …}`, make another training of a run."""
    path = shortened(str(run))
    for name in sorted(old.keys() | new.keys()):
        changeable = name in CHANGEABLE or name.startswith(CHANGEABLE_GROUPS)
        before = old.get(name)
        after = new.get(name)
        if before != after and not changeable:
            raise UserError(
                f"--{name} is {before} in {path} and --resume cannot change it (got {after}); "
                f"start a new run from its weights: --model.init_from {path}"
            )


def without_objects(settings: Any) -> Any:
    """Leave out defaults of classes that are objects, such as a device, for which YAML has no word.

    A class that is read without them takes the same defaults again.
    """
    if isinstance(settings, list):
        return [without_objects(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    found = {}
    for name, value in settings.items():
        if not str(value).startswith("Unable to serialize"):  # as jsonargparse says it
            found[name] = without_objects(value)
    return found

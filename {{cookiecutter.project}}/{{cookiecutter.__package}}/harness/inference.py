"""What evaluate.py, predict.py and export.py do: a trained model, with any setting on top of its run's."""

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from .checkpoints import WholeCheckpoints, find_checkpoint, read_checkpoint
from .errors import UserError
from .help import HELP
from .loaders import ExactLoaders
from .notes import DataNotes
from .settings import Settings

# What differs from the run's settings, unless a flag says otherwise.
DEFAULTS = [
    "--compile=false",
    "--trainer.accelerator=auto",
    "--trainer.devices=1",
    "--trainer.enable_model_summary=false",
    "--trainer.logger=false",
    "--trainer.num_nodes=1",
    "--trainer.strategy=auto",
]


class TrainedRun(Settings):
    """A trained model with data and a trainer, built from the command line of a script.

    The command line is RUN [INPUT...] [--any.setting value ...]. The settings are those in the run's
    config.yaml, then `defaults`, then the flags. A .ckpt of no run has its hyper-parameters instead.

    Args:
        project: The folder of config.yaml and the scripts.
        extra: Adds the flags of one script to the parser.
        defaults: Flags that come before the user's.

    Attributes:
        checkpoint_path: The checkpoint that `loop` loads.
        inputs: What the command line names between RUN and the first flag.

    Raises:
        UserError: If there is no such run, or its settings are not those of the classes any more.
    """

    words = "runs/<id> "

    def __init__(
        self,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule] | None,
        project: Path,
        extra: Callable[[LightningArgumentParser], None] | None = None,
        defaults: Sequence[str] = (),
    ):
        words, flags = words_and_flags(sys.argv[1:])
        if not words:
            if not set(HELP).intersection(flags):
                raise UserError(f"name a run: python {Path(sys.argv[0]).name} runs/<id>, or a .ckpt file")
            # For --help, which prints the settings and ends here.
            super().__init__(model_class, datamodule_class, project / "config.yaml", flags, extra)
        self.inputs = words[1:]
        self.checkpoint_path = find_checkpoint(words[0])
        checkpoint = read_checkpoint(self.checkpoint_path)
        args = [*DEFAULTS, *defaults, *flags]
        with tempfile.TemporaryDirectory() as folder:
            base = run_of(self.checkpoint_path) / "config.yaml"
            if self.checkpoint_path.parent.name != "checkpoints" or not base.is_file():
                base = Path(folder, f"hyper-parameters in {self.checkpoint_path.name}.yaml")
                settings = yaml.safe_load((project / "config.yaml").read_text(encoding="utf-8"))
                settings.update(hyper_parameters(checkpoint, model_class, datamodule_class))
                base.write_text(yaml.safe_dump(settings), encoding="utf-8")
            super().__init__(model_class, datamodule_class, base, args, extra, checkpoint)

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        self.refuse_other_backbone()
        self.use_tokenizer_of(run_of(self.checkpoint_path))

    def refuse_other_backbone(self) -> None:
        """Raise a UserError if a flag names another pretrained model than that of the run."""
        settings = self.config.model
        if "backbone_config" not in settings:
            return
        trained = (settings.backbone_config or {}).get("name")
        if settings.backbone != trained:
            raise UserError(
                f"model.backbone is {trained} in this run (got {settings.backbone}); leave it out"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run's callbacks, except those that only training needs."""
        trainer = super().instantiate_trainer(enable_progress_bar=True, **kwargs)
        unused: tuple[type, ...] = (Checkpoint, EarlyStopping)
        if not sys.stdout.isatty() or self.config.trainer.enable_progress_bar is False:
            unused = (*unused, ProgressBar)
        callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, unused)]
        seed = int(self.config.seed_everything or 0)
        trainer.callbacks = [ExactLoaders(seed), DataNotes(), *callbacks]
        trainer.strategy.checkpoint_io = WholeCheckpoints(self.model)
        return trainer

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the scores; empty if there are none."""
        classes = getattr(self.datamodule, "classes", None)
        if isinstance(classes, list | tuple):
            return list(classes)
        return []

    def loop(self, loop: Callable, data: object) -> Any:
        """Run a loop of the trainer, such as `trainer.test`, with the weights in the checkpoint.

        Raises:
            UserError: If they are not those of the model; it names the first few.
        """
        try:
            return loop(self.model, data, ckpt_path=self.checkpoint_path, weights_only=True)
        except RuntimeError as error:
            if not str(error).startswith("Error(s) in loading state_dict"):
                raise
            reason = re.sub(r"torch\.Size\((.*?)\)", r"\1", str(error).splitlines()[1].strip())
            raise UserError(
                f"{self.checkpoint_path} does not fit {type(self.model).__name__}, whose code or settings "
                f"changed since the training: {reason[:300]}"
            ) from error

    def output(self, name: str) -> Path:
        """Return the file to write: that of --output, or `name` in the run's folder.

        Raises:
            UserError: If no file can be there.
        """
        given = self.config.output
        if given is None:
            return run_of(self.checkpoint_path) / name
        path = Path(given)
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--output {given} must be the name of a file in a folder that exists")
        return path


def words_and_flags(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first flag, and the others."""
    for place, word in enumerate(args):
        if word.startswith("-"):
            return args[:place], args[place:]
    return args, []


def run_of(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's run, or that of the checkpoint if it has no run."""
    folder = checkpoint.resolve().parent
    if folder.name == "checkpoints":
        return folder.parent
    return folder


def hyper_parameters(
    checkpoint: dict,
    model_class: type[LightningModule],
    datamodule_class: type[LightningDataModule] | None,
) -> dict[str, dict]:
    """Return the hyper-parameters in a checkpoint as settings of model and data."""
    found = {"model": accepted(checkpoint.get("hyper_parameters", {}), model_class)}
    if datamodule_class is not None:
        found["data"] = accepted(checkpoint.get("datamodule_hyper_parameters", {}), datamodule_class)
    return found


def accepted(values: dict, cls: type) -> dict:
    """Return the values that the constructor takes, as Lightning's `load_from_checkpoint` does."""
    parameters = signature(cls).parameters
    for parameter in parameters.values():
        if parameter.kind == Parameter.VAR_KEYWORD:
            return dict(values)
    return {name: value for name, value in values.items() if name in parameters}


def are_probabilities(scores: Tensor) -> bool:
    """Return whether each row of (B, num_classes) adds up to 1, as exactly as 16 bits allow."""
    sums = scores.float().sum(dim=1)
    return bool(scores.min() >= 0 and (sums - 1).abs().max() < 0.02)

"""`--help`: the settings that people change most, on two screens; `--help_all` lists every setting."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from .private import help_texts

HELP = ("--help", "-h", "--help_all")
NAME_WIDTH = 34  # characters of a setting and its value

# Settings, and what to say of them; where nothing is said, their docstring is used.
TRAINING = {
    "trainer.max_epochs": "Epochs to train at most.",
    "trainer.max_steps": "Optimizer steps to train at most; -1: no limit.",
    "trainer.max_time": "Time to train at most, such as 00:12:00:00 for twelve hours.",
    "early_stopping.patience": "Stop after this many validations without a better result.",
    "checkpoint.monitor": "Metric that decides which checkpoint is best, and when to stop early.",
    "checkpoint.mode": "min if less of it is better, max if more is.",
    "checkpoint.save_top_k": "How many of the best checkpoints to keep.",
    "trainer.check_val_every_n_epoch": "Epochs from one validation to the next.",
    "trainer.accumulate_grad_batches": "Batches whose gradients are added up for one step.",
    "trainer.gradient_clip_val": "Largest norm of the gradients; null: any.",
    "trainer.callbacks+": "Add a callback, such as EMAWeightAveraging.",
    "seed_everything": "Seed of all random numbers but the split.",
}
MACHINE = {
    "trainer.accelerator": "cpu, gpu, mps; auto: what there is.",
    "trainer.devices": "How many GPUs or processes.",
    "trainer.num_nodes": "How many machines.",
    "trainer.strategy": "How several devices work together, such as ddp.",
    "trainer.precision": "Numbers to compute with, such as bf16-mixed.",
    "compile": "",
    "tf32": "",
}
LOGGING = {
    "tracking.project": "Project of Weights & Biases.",
    "tracking.name": "Name of the run.",
    "tracking.group": "Group of runs, which runs.py compares.",
    "tracking.tags": "List of tags, such as '[first, small]'.",
    "trainer.logger": "CSVLogger, TensorBoardLogger or false, instead of Weights & Biases.",
    "trainer.log_every_n_steps": "Steps from one logged value to the next.",
    "trainer.default_root_dir": "Folder of all runs; null: runs/.",
}
MISTAKES = {
    "trainer.limit_train_batches": "Batches of an epoch: a number, or a share such as 0.1.",
    "trainer.limit_val_batches": "The same for validation.",
    "trainer.detect_anomaly": "Name the operation that produced a NaN.",
    "trainer.profiler": "simple: print at the end where the time went.",
    "stuck_after": "",
}
TRAINED = {
    "trainer.accelerator": MACHINE["trainer.accelerator"],
    "trainer.precision": MACHINE["trainer.precision"],
    "trainer.limit_test_batches": "Batches to test on: a number, or a share such as 0.1.",
}
RUN = {"resume": "", "model.init_from": ""}
# What stands for a value where the one of now says little.
VALUES = {"resume": "RUN", "model.init_from": "RUN", "output": "FILE", "trainer.callbacks+": "NAME"}


def help_text(parser: Any, config: Namespace, words: str, script: dict[str, str]) -> str:
    """Return the settings that people change most, with their values, a line each.

    Args:
        config: The values, as config.yaml and flags make them.
        words: What comes before the settings on the command line, such as runs/<id>; nothing for train.py.
        script: The settings that only this script has.
    """
    texts = help_texts(parser)
    name = Path(sys.argv[0]).name
    lines = [
        f"usage: python {name} {words}[--config FILE] [--setting value ...]",
        "",
        "Later settings win: config.yaml, then --config files, then flags. Values are the present ones.",
        described("--config FILE", "Add a file of settings, such as experiments/debug.yaml."),
        described("--print_config", "Print all settings and stop."),
        described("--help_all", "List every setting, with its type."),
        *group("", script if words else RUN, texts, config),
        *group("model: arguments of Model and Network", below("model", texts), texts, config),
        *group("data: arguments of DataModule", below("data", texts), texts, config),
    ]
    if words:
        lines += group("machine", TRAINED, texts, config)
    else:
        lines += group("training", TRAINING, texts, config)
        lines += group("machine", MACHINE, texts, config)
        lines += group("logging", LOGGING, texts, config)
        lines += group("finding mistakes", MISTAKES, texts, config)
    return "\n".join(lines)


def below(prefix: str, texts: dict[str, str]) -> dict[str, str]:
    """Return the settings of a group, such as those of the model."""
    return {name: "" for name in texts if name.startswith(f"{prefix}.") and name not in RUN}


def group(title: str, names: dict[str, str], texts: dict[str, str], config: Namespace) -> list[str]:
    """Return a title and the settings below it that this project has."""
    known = [name for name in names if name.removesuffix("+") in texts]
    lines = ["", title] if known and title else []
    for name in known:
        value = VALUES.get(name) or shown(config.get(name))
        lines.append(described(f"--{name} {value}", names[name] or first_sentence(texts[name])))
    return lines


def described(setting: str, text: str) -> str:
    """Return a setting and what it does in one line, cut after the last word that there is room for."""
    columns = shutil.get_terminal_size((110, 50)).columns
    line = f"  {setting:{NAME_WIDTH}}  {text}".rstrip()
    if len(line) >= columns:
        line = line[: columns - 2].rpartition(" ")[0] + " …"
    return line


def shown(value: Any) -> str:
    """Return a value as one would type it; nothing for what is longer than a word or two."""
    if not is_plain(value):
        return ""
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= 20 else ""


def is_plain(value: Any) -> bool:
    """Return whether a value is a word, a number or a list of them."""
    return value is None or isinstance(value, bool | int | float | str | list)


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring, in one line."""
    line = " ".join(text.split())
    return re.split(r"(?<=\.) (?=[A-Z`])", line)[0]

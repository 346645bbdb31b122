"""Resume a run from the checkpoint before each of its steps, and compare with the run that was never stopped.

Run in the folder of a generated project: `python brute_force.py CASE...`. It prints a line of JSON for each
case: the number of points, and those that ended differently, or the error of a start that failed. All cases
run in one process, because importing Lightning takes longer than most of them. The user's code of a case is
a file of tests/plain.

With LOCAL_RANK, WORLD_SIZE and the like set, it is one of several processes that train each case together;
ROOT is then a folder that they share.
"""

import contextlib
import hashlib
import importlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch  # raises AttributeError if what it patches does not exist

import torch
import yaml
from chaos import equal
from torch import distributed

sys.path.insert(0, str(Path(__file__).resolve().with_name("plain")))
sys.path.insert(0, str(Path.cwd()))
import train

PACKAGE = train.DataModule.__module__.removesuffix(".data")
agreement = importlib.import_module(f"{PACKAGE}.harness.agreement")
loaders = importlib.import_module(f"{PACKAGE}.harness.loaders")
pictures = importlib.import_module(f"{PACKAGE}.harness.pictures")
resume = importlib.import_module(f"{PACKAGE}.harness.resume")
settings = importlib.import_module(f"{PACKAGE}.harness.settings")
training = importlib.import_module(f"{PACKAGE}.harness.training")

SMALL = {
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.limit_train_batches": 3,
    "trainer.limit_val_batches": 2,
    "trainer.limit_test_batches": 1,
    "trainer.log_every_n_steps": 2,
    "trainer.enable_model_summary": False,
}
OF_FILE = {
    None: {"model.width": 4, "data.batch_size": 16},
    "classifier": {"checkpoint.monitor": "val_loss"},
    "on_device": {"checkpoint.monitor": "val_loss"},
}
CALLBACKS = "lightning.pytorch.callbacks"
ACCUMULATION = {
    "class_path": f"{CALLBACKS}.GradientAccumulationScheduler",
    "init_args": {"scheduling": {0: 1, 1: 2}},
}
SECOND_CHECKPOINT = {
    "class_path": f"{CALLBACKS}.ModelCheckpoint",
    "init_args": {"monitor": "val_acc", "mode": "max", "save_top_k": 2, "every_n_train_steps": 2},
}
AVERAGE = {"class_path": f"{CALLBACKS}.EMAWeightAveraging", "init_args": {"update_starting_at_step": 2}}
SWA = {
    "class_path": f"{CALLBACKS}.StochasticWeightAveraging",
    "init_args": {"swa_lrs": 0.01, "swa_epoch_start": 1, "annealing_epochs": 1, "device": None},
}

# Case: (file in tests/plain, or None for the code that the project came with; settings)
CASES = {
    "shipped": (None, {"model.dropout": 0.5}),
    "finetuning": (None, {"config": "experiments/finetune.yaml", "trainer.max_epochs": 3}),  # freezes for two
    "classifier": ("classifier", {"trainer.max_epochs": 3}),
    "workers": ("classifier", {"trainer.max_epochs": 3, "data.num_workers": 2}),
    "plateau": (
        "classifier",
        {"model.plateau": True, "trainer.accumulate_grad_batches": 2, "trainer.limit_train_batches": 5},
    ),
    "plateau_rare_validation": (
        "classifier",
        {"model.plateau": True, "trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 4},
    ),
    "validation_within": ("classifier", {"trainer.val_check_interval": 2}),
    "validation_always": ("classifier", {"trainer.val_check_interval": 1}),
    "max_steps": ("classifier", {"trainer.max_epochs": -1, "trainer.max_steps": 7}),
    "early_stop": (
        "classifier",
        {"early_stopping.patience": 1, "early_stopping.min_delta": 9, "trainer.max_epochs": 9},
    ),
    "one_batch_epochs": (
        "classifier",
        {"trainer.limit_train_batches": 1, "trainer.max_epochs": 5, "trainer.log_every_n_steps": 1},
    ),
    "average": ("classifier", {"trainer.callbacks": [AVERAGE]}),
    "stochastic_average": ("classifier", {"trainer.callbacks": [SWA], "trainer.max_epochs": 3}),
    "accumulation_scheduler": ("classifier", {"trainer.callbacks": [ACCUMULATION]}),
    "second_checkpoint": ("classifier", {"trainer.callbacks": [SECOND_CHECKPOINT]}),
    "own_loader": ("own_loader", {}),
    "own_loader_workers": ("own_loader", {"data.num_workers": 2}),
    "sampler_without_length": ("samplers", {"data.kind": "sampler"}),
    "batch_sampler_without_length": ("samplers", {"data.kind": "batch_sampler"}),
    "whole_batches": ("samplers", {"data.kind": "whole_batches"}),
    "single_items": ("samplers", {"data.kind": "single_items"}),
    "stream": ("stream", {"trainer.limit_train_batches": 1.0}),
    "stream_workers": ("stream", {"data.num_workers": 2}),
    "stream_with_length": ("stream", {"data.kind": "sized", "trainer.limit_train_batches": 1.0}),
    "stream_too_long": ("stream", {"data.kind": "too_long", "trainer.limit_train_batches": 1.0}),
    "stream_with_state": ("stream", {"data.kind": "stateful", "trainer.limit_train_batches": 1.0}),
    "stream_of_batches": ("stream", {"data.batch_size": None}),
    "on_device": ("on_device", {"trainer.max_epochs": 3}),
    "on_device_stream": ("on_device_stream", {"trainer.limit_train_batches": 1.0}),
    "combined": ("combined", {"trainer.limit_train_batches": 1.0}),
    "combined_workers": ("combined", {"trainer.limit_train_batches": 1.0, "data.num_workers": 1}),
    "combined_max_size": ("combined", {"trainer.limit_train_batches": 1.0, "data.mode": "max_size"}),
    "lists": ("boring_lists", {}),
    "language": ("language", {}),
    "own_batch": ("own_batch", {}),
    "gan": ("gan", {"trainer.log_every_n_steps": 1}),
    "own_accumulation": ("accumulating", {"trainer.max_epochs": 3}),
    "skipped_steps": ("skipping", {}),
    "reloaded": (
        "skipping",
        {
            "data.grow": True,
            "trainer.reload_dataloaders_every_n_epochs": 1,
            "trainer.max_epochs": 3,
            "trainer.limit_train_batches": 1.0,
        },
    ),
    "boring": ("boring", {}),
    "boring_own_loaders": ("boring_own_loaders", {}),
    "boring_manual": ("boring_manual", {}),
    "demo": ("demo", {}),
    "transformer": ("transformer", {}),
    "unusual_weights": ("unusual_weights", {}),
    # The negative control: with Lightning's own loaders no point may end the same.
    "ordinary_loader": ("classifier", {"trainer.max_epochs": 3}),
}


RANK = int(os.environ.get("LOCAL_RANK", 0))
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))


class RunError(Exception):
    """A start of train.py that ended with an error."""


def leave_alone(self, trainer, loader):
    """Return a loader as Lightning has made it."""
    return loader


def draw_nothing(run, *arguments):
    """Draw no pictures, which would take half of the time."""
    return run


def set_up_once(self, *arguments):
    """Build the parser of a model and its data once: it takes a third of the time of a start."""
    classes = self.model_class, self.datamodule_class
    if classes not in parsers:
        set_up(self, *arguments)
        read_once(self.parser)
        parsers[classes] = self.parser
    self.parser = parsers[classes]


def read_once(parser):
    """Let a parser keep what it has read and written: each point of a case starts with the same settings."""
    parse, dump = parser.parse_args, parser.dump
    read: dict = {}
    written: dict = {}

    def parse_args(arguments):
        paths = [text.removeprefix("--config=") for text in arguments if text.endswith(".yaml")]
        files = [Path(path).read_text(encoding="utf-8") for path in paths]
        key = (*arguments, *files)
        if key not in read:
            read[key] = parse(arguments)
        return deepcopy(read[key])

    def dump_settings(config, **options):
        key = repr(config)
        if key not in written:
            written[key] = dump(config, **options)
        return written[key]

    parser.parse_args = parse_args
    parser.dump = dump_settings


def load_yaml(text):
    """Read YAML with libyaml, which is ten times as fast."""
    return yaml.load(text, Loader=yaml.CSafeLoader)


parsers: dict = {}
set_up = settings.Settings.setup_parser


@contextlib.contextmanager
def users_code(case: str):
    """Put the model and the data of a case in place of those that train.py has imported."""
    file, _ = CASES[case]
    with contextlib.ExitStack() as changes:
        if file is not None:
            module = importlib.import_module(file)
            changes.enter_context(patch.object(train, "Model", module.Model))
            changes.enter_context(patch.object(train, "DataModule", module.DataModule))
        if case == "ordinary_loader":
            changes.enter_context(patch.object(loaders.ExactLoaders, "make_exact", leave_alone))
        yield


def run(*arguments: str) -> None:
    """Run train.py; raise an error, with what it printed, if it ends with one."""
    output = io.StringIO()
    with (
        patch.object(sys, "argv", ["train.py", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            train.main()
        except SystemExit as end:
            if end.code:
                raise RunError(f"{end.code}\n{output.getvalue()}") from end


def result(folder: Path) -> dict:
    """Return all that must be equal: metrics.csv, and the model and the training in each checkpoint."""
    found = {"metrics.csv": (folder / "metrics.csv").read_bytes()}
    for path in sorted(folder.rglob("*.ckpt")):
        if path.name == "previous.ckpt":
            continue
        checkpoint = torch.load(path, weights_only=True)
        for state in checkpoint.get("callbacks", {}).values():
            state.pop("current_score", None)  # ModelCheckpoint saves it, but does not load it
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "epoch", "global_step"):
            if key in checkpoint:
                found[f"{path.name} {key}"] = checkpoint[key]
    assert "last.ckpt optimizer_states" in found
    return found


def differences(expected: dict, found: dict) -> list[str]:
    """Return the names of what is not equal bit for bit."""
    different = list(expected.keys() ^ found.keys())
    for name in expected.keys() & found.keys():
        if not equal(expected[name], found[name]):
            different.append(name)
    return sorted(different)


def digest(weights: dict) -> str:
    """Return a checksum of a model's weights."""
    values = hashlib.sha256()
    for name in sorted(weights):
        values.update(weights[name].numpy().tobytes())
    return values.hexdigest()


def wait_for_others() -> None:
    """Wait until all processes are here."""
    if PROCESSES > 1:
        distributed.barrier()


def brute_force(case: str, root: Path) -> dict:
    """Train once with a copy of the run's folder at each step, then go on from each copy."""
    file, settings = CASES[case]
    flags = [f"--trainer.default_root_dir={root / case}"]
    if PROCESSES > 1:
        flags += [f"--trainer.devices={PROCESSES}", "--trainer.strategy=ddp"]
    for name, value in {**SMALL, **OF_FILE.get(file, {}), **settings}.items():
        text = value if isinstance(value, str) else json.dumps(value)
        flags.append(f"--{name}={text}")
    copies = []
    save = resume.Resume.save

    def save_and_copy(self, trainer, batch_idx):
        save(self, trainer, batch_idx)
        if batch_idx is not None:  # not at the end
            self.next_save = 0.0  # again before the next step
            copies.append(root / f"{case}-{len(copies)}")
            if RANK == 0:
                shutil.copytree(self.folder.path, copies[-1])

    with patch.object(resume.Resume, "save", save_and_copy):
        run(*flags)
    wait_for_others()
    (folder,) = (root / case).iterdir()
    expected = result(folder)
    different = []
    for number, copy in enumerate(copies):
        wait_for_others()
        if RANK == 0:
            shutil.rmtree(folder)
            copy.rename(folder)
        wait_for_others()
        run("--resume", str(folder))
        wait_for_others()
        names = differences(expected, result(folder))
        if names:
            different.append([number, names])
    weights = digest(expected["last.ckpt state_dict"])
    return {"points": len(copies), "different": different, "weights": weights}


def main() -> None:
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as own,
        patch.object(agreement, "SECONDS", 0.0),  # processes ask each other at each step
        patch.object(training, "draw_learning_curves", draw_nothing),
        patch.object(pictures, "draw_confusion_matrix", draw_nothing),
        patch.object(pictures, "draw_examples", draw_nothing),
        patch.object(settings.Settings, "setup_parser", set_up_once),
        patch.object(yaml, "safe_load", load_yaml),
    ):
        for case in sys.argv[1:] or CASES:
            with users_code(case):
                try:
                    answer = brute_force(case, Path(os.environ.get("ROOT", own)))
                except RunError as error:
                    answer = {"error": str(error)}
            print(json.dumps({"case": case, **answer}), flush=True)


if __name__ == "__main__":
    main()

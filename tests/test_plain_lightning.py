"""Ordinary Lightning code, laid over a generated project, works as far as it has the hooks.

`plain/` has the code: Lightning's own demo classes, and what people write. What a class has no hook for is
left out, and a command that needs it says in one line which hook is missing. brute_force.py resumes the same
code from each of its steps.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from project import Done, run, run_many

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

PLAIN = Path(__file__).with_name("plain")
FEW = (
    "--trainer.max_epochs 2 --trainer.limit_train_batches 4 --trainer.limit_val_batches 2 "
    "--trainer.limit_test_batches 2 --trainer.limit_predict_batches 2 --trainer.log_every_n_steps 1 "
    "--trainer.accelerator cpu"
)
# WANDB_RUN_ID names the run, so that its folder is known beforehand.
VARIABLES = {"WANDB_MODE": "disabled", "WANDB_RUN_ID": "run"}

# train.py, with SIGTERM before its third batch.
STOPPED = """
import signal

import train

hook = train.Model.on_train_batch_start
begun = []


def stop_in_third_batch(*args, **kwargs):
    begun.append(args)
    if len(begun) == 3:
        signal.raise_signal(signal.SIGTERM)
    return hook(*args, **kwargs)


train.Model.on_train_batch_start = stop_in_third_batch
try:
    train.main()
finally:
    train.Model.on_train_batch_start = hook
"""

# Validate the best checkpoint with nothing but Lightning.
VALIDATE = """
from lightning import Trainer

from my_project.model import DataModule, Model

model = Model.load_from_checkpoint("runs/run/checkpoints/best.ckpt", weights_only=True)
trainer = Trainer(limit_val_batches=2, logger=False, enable_progress_bar=False, accelerator="cpu")
print(trainer.validate(model, DataModule(), verbose=False))
"""

# What the one line names if a command cannot work.
MISSING = {
    "evaluate": "test_step|validation_step",
    "predict": "predict_dataloader",
    "export": "example_input_array",
}


@dataclass
class Code:
    """A file of plain/, the commands that work for it besides train.py, and settings of its own."""

    file: str
    works: str = ""
    flags: str = ""
    log: str = ""  # a metric that metrics.csv must have


CODES = {
    "boring": Code("boring", "evaluate predict"),
    "boring_own_loaders": Code("boring_own_loaders", "evaluate predict"),
    "boring_manual": Code("boring_manual", "evaluate predict"),
    "boring_lists": Code("boring_lists", "evaluate predict", log="valid_loss/dataloader_idx_1"),
    "demo": Code("demo"),
    "transformer": Code("transformer"),
    "classifier": Code("classifier", "evaluate predict", log="val_acc"),
    "autoencoder": Code("autoencoder", "evaluate export", log="train_loss"),
    "gan": Code("gan", log="g_loss"),
    "language": Code("language", "evaluate predict", log="val/loss/dataloader_idx_0"),
    "segmentation": Code("segmentation", "evaluate predict export"),
    "no_test_step": Code("no_test_step", "evaluate predict export", log="val_loss"),
    "own_batch": Code("own_batch", "evaluate", log="val_loss"),
    "own_loader": Code("own_loader", "evaluate", log="val/loss"),
    "combined": Code("combined", log="mean/unlabelled"),
    "stream": Code("stream", "evaluate", "--trainer.limit_train_batches 1.0", log="val/loss"),
    "stream_workers": Code("stream", "evaluate", "--data.num_workers 2"),
    "stream_too_long": Code(
        "stream", "evaluate", "--data.kind too_long --trainer.limit_train_batches 1.0", log="val/loss"
    ),
    "sampler": Code("samplers"),
    "whole_batches": Code("samplers", flags="--data.kind whole_batches"),
    "skipping": Code(
        "skipping", "evaluate", "--data.grow true --trainer.reload_dataloaders_every_n_epochs 1"
    ),
    "accumulating": Code("accumulating"),
    "unusual_weights": Code("unusual_weights", "evaluate", log="val_loss"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def lay_over(bake, tmp_path_factory):
    """Return lay_over(file), which puts a file of plain/ in place of a project's model, data and network."""
    original = bake(accept_hooks=False)

    def lay_over(file: str) -> Path:
        project = tmp_path_factory.mktemp(file) / original.name
        shutil.copytree(original, project)
        package = project / "my_project"
        (project / "tests" / "test_example.py").unlink()  # of the data that came with it
        shutil.copy(PLAIN / f"{file}.py", package / "model.py")
        (package / "data.py").write_text("from .model import DataModule\n\n__all__ = ['DataModule']\n")
        (package / "network.py").unlink()
        (project / "stopped.py").write_text(STOPPED)
        return project

    return lay_over


def box(done: Done) -> dict[str, str]:
    """Return the rows of the closing box."""
    text = done.out.split("-" * 79)[-2]
    return dict(re.findall(r"^(\S.*?)  +(.*)$", text, re.MULTILINE))


def error(done: Done) -> str:
    """Return the one line of an error."""
    assert done.code == 1, done.out + done.err
    assert "Traceback" not in done.err, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return line


def rows(run: Path) -> pd.DataFrame:
    """Return metrics.csv as the README reads it."""
    return pd.read_csv(run / "metrics.csv").pivot(index="step", columns="name", values="value")


@pytest.mark.parametrize("name", CODES)
def test_it_trains_and_resumes_and_all_commands_work_that_it_has_the_hooks_for(name, lay_over, home):
    code = CODES[name]
    project = lay_over(code.file)
    commands = [
        f"stopped.py {FEW} {code.flags}",
        "train.py --resume runs/run",
        "evaluate.py runs/run",
        "predict.py runs/run",
        "export.py runs/run",
    ]
    stopped, trained, *others = run_many(project, commands, home=home, variables=VARIABLES)
    assert stopped.code == 143, stopped.out + stopped.err
    assert "--resume runs/run" in stopped.out + stopped.err
    assert trained.code == 0, trained.out + trained.err

    works = code.works.split()
    listed = box(trained)
    for command, done in zip(MISSING, others, strict=True):
        if command in works:
            assert done.code == 0, done.out + done.err
            assert listed[command].startswith(f"python {command}.py runs/run")
        else:
            assert re.search(MISSING[command], error(done))
            assert command not in listed
    assert "fine-tune" not in listed
    found = rows(project / "runs" / "run")
    if code.log:
        assert found[code.log].notna().any()


@pytest.mark.parametrize("name", ["boring_own_loaders", "gan", "language", "skipping"])
def test_the_projects_own_test_stays_green(name, lay_over, home):
    project = lay_over(CODES[name].file)
    done = run(project, "-m pytest -q tests/test_project.py", home=home)
    assert done.code == 0, done.out + done.err


def test_all_curves_and_pictures_of_other_names_are_drawn(lay_over, home, pictures):
    """`train_loss`, which is logged per step and per epoch, belongs to `val_loss`."""
    project = lay_over("classifier")
    (done,) = run_many(project, [f"train.py {FEW}"], home=home, variables=VARIABLES)
    assert done.code == 0, done.err
    folder = project / "runs" / "run"
    assert (folder / "learning_curves.png").stat().st_size > 10_000
    assert {"train_loss_step", "train_loss_epoch", "val_loss", "test_loss"} <= set(rows(folder).columns)
    assert not (folder / "confusion_matrix.png").exists()
    assert "confusion_matrix.png" not in done.out


def test_without_the_metric_to_watch_the_newest_checkpoint_is_kept_and_the_names_are_said(lay_over, home):
    project = lay_over("language")
    watch = "--checkpoint.monitor val/loss/dataloader_idx_1"
    commands = [f"train.py {FEW}", f"train.py {FEW} {watch} --trainer.default_root_dir watched"]
    plain, watched = run_many(project, commands, home=home, variables=VARIABLES)
    assert plain.code == 0, plain.err
    (line,) = [line for line in (plain.out + plain.err).splitlines() if "checkpoint.monitor" in line]
    assert "val/loss/dataloader_idx_0, val/loss/dataloader_idx_1" in line
    assert (project / "runs" / "run" / "checkpoints" / "last.ckpt").exists()
    assert not (project / "runs" / "run" / "checkpoints" / "best.ckpt").exists()
    assert watched.code == 0, watched.err
    assert (project / "watched" / "run" / "checkpoints" / "best.ckpt").exists()


def test_loaders_of_one_data_set_draw_differently_and_the_shorter_one_anew_in_each_cycle(lay_over, home):
    project = lay_over("combined")
    flags = f"{FEW} --trainer.limit_train_batches 1.0 --trainer.max_epochs 1"
    (done,) = run_many(project, [f"train.py {flags}"], home=home, variables=VARIABLES)
    assert done.code == 0, done.err
    found = rows(project / "runs" / "run")
    assert found["mean/unlabelled"].dropna().nunique() == 5  # two and a half passes over two batches
    assert found["mean/labelled"].dropna().nunique() == 5


def test_hyper_parameters_that_are_not_plain_are_refused_at_once(lay_over, home):
    project = lay_over("not_plain")
    (done,) = run_many(project, [f"train.py {FEW}"], home=home, variables=VARIABLES)
    line = error(done)
    assert "hyper-parameters" in line
    assert "ReLU" in line
    assert not list(project.glob("runs/*/checkpoints/*"))


def test_a_mistake_in_the_users_own_code_keeps_its_place(lay_over, home):
    project = lay_over("wrong_log")
    (done,) = run_many(project, [f"train.py {FEW}"], home=home, variables=VARIABLES)
    assert done.code == 1
    assert "You can't `self.log()` inside `on_fit_start`" in done.err
    assert re.search(r'model\.py", line \d+, in on_fit_start', done.err)


def test_the_averaged_weights_that_were_validated_are_the_best_checkpoint(lay_over, home):
    project = lay_over("classifier")
    average = "--trainer.callbacks lightning.pytorch.callbacks.EMAWeightAveraging"
    job = f"train.py {FEW} {average} --checkpoint.monitor val_loss"
    (project / "check.py").write_text(VALIDATE)
    trained, checked = run_many(project, [job, "check.py"], home=home, variables=VARIABLES)
    assert trained.code == 0, trained.err
    assert checked.code == 0, checked.err
    validated = float(re.search(r"'val_loss': ([\d.]+)", checked.out)[1])
    assert rows(project / "runs" / "run")["val_loss"].min() == pytest.approx(validated, rel=1e-6)


def test_the_step_of_a_checkpoint_with_two_optimizers_counts_both(lay_over, home):
    """Lightning's own count; what is logged goes by batches, and is not changed by a resume."""
    project = lay_over("gan")
    (done,) = run_many(project, [f"train.py {FEW}"], home=home, variables=VARIABLES)
    assert done.code == 0, done.err
    folder = project / "runs" / "run"
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 16
    assert rows(folder)["g_loss"].notna().sum() == 8

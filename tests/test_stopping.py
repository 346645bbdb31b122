"""When a training ends, why it says so, and how it goes on."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from project import Done, run, run_many

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

JOB = (
    "train.py --model.width 4 --data.batch_size 16 --trainer.limit_train_batches 4 --trainer.max_epochs 9 "
    "--trainer.limit_val_batches 1 --trainer.limit_test_batches 1 --trainer.log_every_n_steps 1"
)

# Name, flags, why it ended, what makes it go on, and how many steps it has then: None where a clock decides.
ENDS = {
    "patience": (
        "--early_stopping.patience 1 --early_stopping.min_delta 9",
        "early stopping at epoch 1, since val/loss was not better for 1 validations; to continue, give a "
        "larger --early_stopping.patience (it was 1)",
        "--early_stopping.patience 3",
        16,
    ),
    "patience and epochs": (
        "--early_stopping.patience 2 --early_stopping.min_delta 9",
        "early stopping at epoch 2, since val/loss was not better for 2 validations",
        "--trainer.max_epochs 8",
        20,
    ),
    "threshold": (
        "--early_stopping.stopping_threshold 99",
        "early stopping at epoch 0: Stopping threshold reached: val/loss = ",
        "--early_stopping.stopping_threshold null",
        36,
    ),
    "epochs": (
        "--trainer.max_epochs 2",
        "max_epochs 2 reached; to continue, give a larger --trainer.max_epochs",
        "--trainer.max_epochs 3",
        12,
    ),
    "steps": (
        "--trainer.max_steps 6",
        "max_steps 6 reached; to continue, give a larger --trainer.max_steps",
        "--trainer.max_steps 9",
        9,
    ),
    "time": (
        "--trainer.max_time 00:00:00:01 --trainer.max_epochs 10000 --early_stopping.patience 9999",
        "max_time was over; to continue, give a larger --trainer.max_time",
        "--trainer.max_time 00:00:00:02",
        None,
    ),
    "the model": (
        "--trainer.callbacks stops.Stops",
        "the model or a callback set trainer.should_stop",
        "--trainer.max_epochs 8",
        None,
    ),
}
STOPS = """
from lightning import Callback

class Stops(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = True
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    project = bake(accept_hooks=False)
    (project / "stops.py").write_text(STOPS)
    return project


@pytest.fixture(scope="module")
def ended(project, home) -> dict[str, list[Done]]:
    """Train, resume as it is, and resume so that it goes on; return the three commands of each case."""
    commands = []
    for name, (flags, _, more, _) in ENDS.items():
        root = f"ended/{name.replace(' ', '-')}"
        commands.append(f"{JOB} {flags} --trainer.default_root_dir {root}")
        commands.append(f"train.py --resume {root}/run")
        commands.append(f"train.py --resume {root}/run {more}")
    done = run_many(project, commands, home=home, variables={"WANDB_RUN_ID": "run", "WANDB_MODE": "disabled"})
    return {name: done[3 * number : 3 * number + 3] for number, name in enumerate(ENDS)}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_ended_says_why_and_goes_on_when_it_may(ended, project, name):
    _, reason, _, steps = ENDS[name]
    trained, again, longer = ended[name]
    assert trained.code == 0, trained.err
    assert again.code == 0, again.err
    root = f"ended/{name.replace(' ', '-')}"
    assert again.out.startswith(f"{root}/run is finished: {reason}")
    assert again.out.count("\n") == 1
    assert longer.code == 0, longer.err
    assert "test/acc" in longer.out
    first_test = int(re.search(r"^(\d+),test/loss", metrics(project / root), re.MULTILINE)[1])
    last = torch.load(project / root / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == first_test
    if steps is not None:
        assert last["global_step"] == steps


def metrics(root: Path) -> str:
    return (root / "run" / "metrics.csv").read_text()


def test_a_learning_rate_that_rises_again_is_said(ended):
    said = "the learning rate rises again, from "
    assert said in ended["epochs"][2].err
    assert said not in ended["patience"][2].err
    assert said not in ended["epochs"][0].err


def test_a_finished_run_is_left_as_it_is(project, home):
    commands = [f"{JOB} --trainer.max_epochs 1", "train.py --resume runs/run"]
    variables = {"WANDB_RUN_ID": "run"}
    run_many(project, commands[:1], home=home, variables=variables)
    before = files(project / "runs")
    (again,) = run_many(project, commands[1:], home=home, variables=variables)
    assert again.code == 0
    assert files(project / "runs") == before
    (refused,) = run_many(project, ["train.py --resume runs/run --trainer.max_epochs -1"], home=home)
    assert refused.code == 1
    assert "Traceback" not in refused.err
    assert "error: the learning rate follows a schedule that needs the number of steps" in refused.err
    assert files(project / "runs") == before


def files(folder: Path) -> dict[str, str]:
    """Return a checksum of each file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# Trains with values of the metric that are given, and prints how many epochs it was for each callback.
EPOCHS = """
import sys
sys.path.insert(0, ".")
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringModel
from my_project.harness.stopping import Stopping

class Model(BoringModel):
    def on_validation_epoch_end(self):
        self.log("loss", values[self.current_epoch])

for values in ([1, 2, 0.9, 0.8, 0.7, 0.6], [1, 2, 0.9, 0.8, 2, 0.6], [1, 2, 2, 2, 2, 2]):
    for kind in (Stopping, EarlyStopping):
        trainer = Trainer(
            min_epochs=3, max_epochs=6, limit_train_batches=1, limit_val_batches=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, callbacks=[kind(monitor="loss", patience=1)], accelerator="cpu",
        )
        trainer.fit(Model())
        print(kind.__name__, trainer.current_epoch)
"""


def test_what_happens_after_min_epochs_decides(project, home):
    """Lightning's own remembers a stop that min_epochs has overruled."""
    (project / "epochs.py").write_text(EPOCHS)
    done = run(project, "epochs.py", home=home)
    assert done.code == 0, done.err
    expected = [
        "Stopping 6",
        "EarlyStopping 3",
        "Stopping 5",
        "EarlyStopping 3",
        "Stopping 3",
        "EarlyStopping 3",
    ]
    assert done.out.splitlines() == expected


ACCUMULATING = """
trainer:
  max_epochs: 4
  callbacks:
  - class_path: GradientAccumulationScheduler
    init_args:
      scheduling: {0: 1, 2: 4}
"""


def test_a_schedule_counts_the_steps_of_a_gradient_accumulation_scheduler(project, home):
    """Two epochs of four steps and two of one: the learning rate comes to its end with the training."""
    (project / "accumulating.yaml").write_text(ACCUMULATING)
    command = f"{JOB} --config accumulating.yaml --trainer.default_root_dir accumulating"
    variables = {"WANDB_RUN_ID": "run", "WANDB_MODE": "disabled"}
    (done,) = run_many(project, [command], home=home, variables=variables)
    assert done.code == 0, done.err
    rates = re.findall(r"^\d+,train/lr,(\S+)$", metrics(project / "accumulating"), re.MULTILINE)
    assert len(rates) == 10
    assert float(rates[-1]) < 0.1 * max(map(float, rates))

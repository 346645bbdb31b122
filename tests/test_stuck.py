"""Nothing hangs, whatever is stuck or killed, W&B stops no training, and a SLURM job goes on by itself."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from chaos import JOB, equal, result, trained, wait_for_training
from project import HAS_MOUNT, Done, environment, run, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

TWO = "--trainer.devices 2 --trainer.strategy ddp"
LONG = JOB.replace("--trainer.max_epochs 20", "--trainer.max_epochs 5000 --early_stopping.patience 5000")
FEW = "--model.width 4 --trainer.max_epochs 2 --trainer.limit_train_batches 4 --trainer.accelerator cpu"
UNTRACKED = {"WANDB_MODE": "disabled"}

# train.py, where one hook never ends.
STUCK = """
import os
import time

import train

owner, name = os.environ["STUCK"].split(".")


def never_ends(*args, **kwargs):
    time.sleep(600)


setattr(getattr(train, owner), name, never_ends)
train.main()
"""

# train.py, where all that may take long takes longer than --stuck_after, once.
PATIENT = """
import io
import os
import pdb
import signal
import subprocess
import sys
import time

import train

LONG = 3.3  # seconds
waited = []


def wait(name):
    if name not in waited:
        waited.append(name)
        time.sleep(LONG)


class Person(io.StringIO):
    def readline(self, *args):
        wait("debugger")
        return "continue\\n"


class Patient(train.Model):
    def on_train_epoch_start(self):
        wait("on_train_epoch_start")

    def training_step(self, batch, batch_idx):
        if self.global_step == 2:
            pdb.Pdb(stdin=Person(), stdout=sys.stderr).set_trace()
        if self.global_step == 4:
            waker = subprocess.Popen(["sh", "-c", f"sleep {LONG}; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
            waker.wait()
            waited.append("stopped")
        return super().training_step(batch, batch_idx)

    def on_validation_end(self):
        wait("on_validation_end")

    def on_train_epoch_end(self):
        wait("on_train_epoch_end")
        super().on_train_epoch_end()


train.Model = Patient
train.main()
print(waited)
"""

# train.py with few file handles, which may ask for more.
FEW_HANDLES = """
import os
import resource

import train

few = len(os.listdir("/proc/self/fd")) + 30
resource.setrlimit(resource.RLIMIT_NOFILE, (few, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
train.main()
"""

# What is said where there are not more to be had; which of these errors it is differs from run to run.
NO_HANDLES = """
from my_project.harness.errors import explanation

lost = RuntimeError("received 0 items of ancdata")
for error in (OSError(24, "Too many open files"), lost, EOFError()):
    print(explanation(error))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    project = bake(accept_hooks=False)
    scripts = {"stuck": STUCK, "patient": PATIENT, "few_handles": FEW_HANDLES, "no_handles": NO_HANDLES}
    for name, text in scripts.items():
        (project / f"{name}.py").write_text(text)
    return project


@pytest.fixture
def launch(project, home):
    """Return launch(command, project), which starts it in a group of its own, ended with the test."""
    started = []

    def launch(command: str, project: Path = project) -> subprocess.Popen:
        started.append(start(project, home, command))
        return started[-1]

    yield launch
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def changed(project: Path, file: str, old: str, new: str) -> None:
    path = project / "my_project" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def error(done: Done) -> str:
    """Return the one line of an error."""
    assert done.code == 1, done.err
    assert "Traceback" not in done.err, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return line


def ended(process: subprocess.Popen, seconds: float) -> str:
    """Return the output of a process that ends in time, fails, and leaves no other behind."""
    output = process.communicate(timeout=seconds)[0]
    assert process.returncode not in (0, None), output
    for _ in range(100):  # workers look every five seconds whether their process is still there
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return output
        time.sleep(0.1)
    raise AssertionError(f"processes are left behind\n{output}")


def children(process: subprocess.Popen, word: str) -> list[int]:
    """Return the processes that it has started with `word` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and word in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def wait_for_metrics(process: subprocess.Popen, root: Path) -> None:
    """Wait until something is logged: W&B has opened the run then."""
    while not list(root.glob("*/metrics.csv")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


@pytest.mark.parametrize(
    "hook",
    [
        "Model.validation_step",  # of the sanity check
        "DataModule.train_dataloader",
        "Model.training_step",
        "Model.test_step",
    ],
)
def test_what_never_ends_is_named_and_ends_the_run(project, home, hook):
    command = f"stuck.py {FEW} --trainer.max_epochs 1 --stuck_after 2 --trainer.default_root_dir stuck"
    done = run(project, command, home=home, variables={"STUCK": hook, **UNTRACKED}, timeout=60)
    assert done.code == 75, done.err
    assert re.search(r"^error: rank 0: no batch was finished for 2.0 s", done.err, re.MULTILINE)
    assert re.search(r'stuck.py", line \d+, in never_ends', done.err)


def test_a_worker_that_never_answers_ends_the_run_and_itself(bake, launch):
    project = bake(accept_hooks=False)
    indexing = "        rows = torch.tensor(indices)"
    stuck = "        __import__('time').sleep(600 * (self.labels[indices[0]] == 3).item())\n"
    changed(project, "data.py", indexing, stuck + indexing)
    process = launch(f"train.py {JOB} --stuck_after 3 --data.num_workers 1", project)
    output = ended(process, 60)
    assert process.returncode == 75
    assert re.search(
        r"dataloader.py.*^error: rank 0: no batch was finished", output, re.DOTALL | re.MULTILINE
    )


def test_what_may_take_long_ends_no_run(project, home):
    """Hooks of an epoch, a debugger, Ctrl-Z; a machine that sleeps is like the last."""
    command = f"patient.py {FEW} --stuck_after 2 --trainer.num_sanity_val_steps 0"
    command += " --trainer.default_root_dir patient"
    done = run(project, command, home=home, variables=UNTRACKED, timeout=90)
    assert done.code == 0, done.err
    waited = ["on_train_epoch_start", "debugger", "on_validation_end", "on_train_epoch_end", "stopped"]
    assert f"{waited}\n" in done.out


def test_a_rank_that_is_stuck_ends_all_and_is_named(bake, launch):
    project = bake(accept_hooks=False)
    stuck = "        __import__('time').sleep(600 * (self.global_step == 9 and self.global_rank == 1))\n"
    changed(project, "model.py", "        x, y = batch", f"{stuck}        x, y = batch")
    process = launch(f"train.py {JOB} {TWO} --stuck_after 3", project)
    output = ended(process, 90)
    assert process.returncode == 75, output
    assert re.search(r"^error: rank 0: no batch", output, re.MULTILINE), output
    assert re.search(r'model.py", line \d+, in _step\n.*sleep.*\nerror: rank 1: no batch', output), output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all(project, launch, rank):
    root = project / f"killed-{rank}"
    process = launch(f"train.py {LONG} {TWO} --trainer.default_root_dir {root}")
    wait_for_training(process, root)
    time.sleep(0.5)
    (other,) = children(process, "project.py")
    os.kill(process.pid if rank == 0 else other, signal.SIGKILL)
    output = ended(process, 60)
    if rank == 1:
        assert re.search("[Cc]hild process.*-9|[Cc]onnection (closed|reset)", output), output


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(project, launch):
    root = project / "signalled"
    process = launch(f"train.py {LONG} {TWO} --trainer.default_root_dir {root}")
    wait_for_training(process, root)
    time.sleep(0.5)
    os.kill(children(process, "project.py")[0], signal.SIGTERM)
    output = ended(process, 60)
    assert process.returncode == 143, output
    assert "continue: python train.py --resume signalled/" in output
    assert (trained(root) / "checkpoints" / "last.ckpt").exists()


def test_ctrl_c_while_workers_read_a_stream_saves_the_run(bake, launch):
    project = bake(accept_hooks=False)
    package = project / "my_project"
    stream = (Path(__file__).parent / "plain" / "stream.py").read_text()
    # So slow that the training always waits for the worker.
    slow = "            __import__('time').sleep(0.1)\n            yield "
    (package / "model.py").write_text(stream.replace("            yield ", slow))
    (package / "data.py").write_text("from .model import DataModule\n\n__all__ = ['DataModule']\n")
    process = launch(
        "train.py --data.num_workers 1 --trainer.logger false --trainer.accelerator cpu", project
    )
    wait_for_training(process, project / "runs")
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    output = ended(process, 60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "continue: python train.py --resume runs/" in output
    assert (trained(project / "runs") / "checkpoints" / "last.ckpt").exists()


@pytest.mark.skipif(not HAS_MOUNT, reason="needs to mount a small disk")
def test_too_little_shared_memory_gets_one_line(project, home):
    flags = "--data.num_workers 1 --data.batch_size 1200 --trainer.num_sanity_val_steps 0"
    command = f"train.py {FEW} {flags}"
    line = error(run(project, command, home=home, variables=UNTRACKED, disk=("/dev/shm", "100k")))
    assert "/dev/shm" in line
    assert "--data.num_workers 0" in line


@pytest.mark.skipif(sys.platform != "linux", reason="shared memory takes no file handles there")
def test_too_few_file_handles_are_raised_or_named(project, home):
    flags = "--data.batch_size 16 --data.num_workers 2 --data.prefetch_factor 30 --trainer.max_epochs 1"
    flags += " --trainer.limit_val_batches 0 --trainer.default_root_dir handles"
    raised = run(project, f"few_handles.py {FEW} {flags}", home=home, variables=UNTRACKED, timeout=60)
    assert raised.code == 0, raised.err
    named = run(project, "no_handles.py", home=home)
    assert named.out.count("too many files are open: raise the limit (ulimit -n 4096)") == 3, named.err


def test_the_service_of_wandb_killed_stops_no_training(project, launch):
    root = project / "service"
    job = LONG.replace("5000", "25")
    process = launch(f"train.py {job} --trainer.default_root_dir {root}")
    while not list(root.glob("*/metrics.csv")):  # W&B has the run then
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    (service,) = children(process, "wandb-core")
    os.kill(service, signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    rows = (trained(root) / "metrics.csv").read_text().splitlines()
    assert sum(",val/loss," in row for row in rows) == 25
    assert sum(",test/acc," in row for row in rows) == 1


@pytest.mark.skipif(not HAS_MOUNT, reason="needs to mount a small disk")
def test_a_full_disk_of_wandb_stops_no_training(project, home):
    wandb = project / "disk" / "wandb"
    wandb.mkdir(parents=True)
    command = f"train.py {JOB} --trainer.default_root_dir disk"
    variables = {"WANDB_MODE": "offline"}
    done = run(project, command, home=home, variables=variables, disk=(str(wandb), "64k"))
    assert done.code == 0, done.err
    rows = (trained(project / "disk") / "metrics.csv").read_text().splitlines()
    assert sum(",val/loss," in row for row in rows) == 20
    assert sum(",test/acc," in row for row in rows) == 1


@pytest.fixture
def in_slurm(project, home, tmp_path):
    """Return in_slurm(script, job, arguments), which runs slurm.sh; `python` there runs `script`."""

    def in_slurm(script: str, job: str, arguments: str, **variables: str) -> subprocess.Popen:
        for name, text in {
            "srun": 'echo $$ > step.pid; exec "$@"',
            "scontrol": 'echo "$@" >> requeued',
            "python": script,
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        settings = {
            "SLURM_JOB_ID": job,
            "SLURM_JOB_NAME": "job",
            "SLURM_NODELIST": "localhost",
            "SLURM_NNODES": "1",
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        }
        return subprocess.Popen(
            ["bash", "slurm.sh", *arguments.split()],
            cwd=project,
            env=environment(home) | settings | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return in_slurm


def test_a_slurm_job_is_requeued_and_goes_on_in_the_same_run(project, home, in_slurm):
    unharmed = run(project, f"train.py {JOB} --trainer.default_root_dir unharmed", home=home)
    assert unharmed.code == 0, unharmed.err
    python = f'exec "{sys.executable}" "$@"'
    first = in_slurm(python, "77", JOB)
    wait_for_training(first, project / "runs")
    time.sleep(0.3)
    os.kill(int((project / "step.pid").read_text()), signal.SIGTERM)
    output = first.communicate(timeout=60)[0]
    assert first.returncode == 143, output
    assert (project / "requeued").read_text() == "requeue 77\n"
    again = in_slurm(python, "77", JOB)
    output = again.communicate(timeout=120)[0]
    assert again.returncode == 0, output
    assert (project / "requeued").read_text() == "requeue 77\n"
    assert equal(result(project / "runs" / "77"), result(trained(project / "unharmed")))
    assert sorted(path.name for path in (project / "runs").iterdir()) == ["77", "wandb"]


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(143, "99", True), (75, "9", True), (75, "10", False), (1, "0", False), (0, "0", False)],
)
def test_only_a_job_that_was_stopped_or_stuck_is_requeued(project, in_slurm, code, restarts, requeued):
    job = f"{code}-{restarts}"
    process = in_slurm(f"exit {code}", job, "", SLURM_RESTART_COUNT=restarts)
    assert process.wait(timeout=20) == code, process.stdout.read()
    process.stdout.close()
    file = project / "requeued"
    found = file.read_text().splitlines() if file.exists() else []
    assert (f"requeue {job}" in found) == requeued

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
from chaos import JOB, equal, result, start, trained, wait_for_training
from project import environment, run
from test_faults import HAS_MOUNT, in_small_disk

pytestmark = pytest.mark.slow

TWO = "--trainer.devices 2 --trainer.strategy ddp"
LONG = JOB.replace("--trainer.max_epochs 30", "--trainer.max_epochs 5000 --early_stopping.patience 5000")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    return bake(accept_hooks=False)


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


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_never_comes_ends_the_run_and_is_named(bake, launch, workers):
    project = bake(accept_hooks=False)
    indexing = "        rows = torch.tensor(indices)"
    stuck = "        __import__('time').sleep(600 * (self.labels[indices[0]] == 3).item())\n"
    changed(project, "data.py", indexing, stuck + indexing)
    process = launch(f"train.py {JOB} --stuck_after 4 --data.num_workers {workers}", project)
    output = ended(process, 60)
    assert re.search(r"^error: rank 0: no batch for 4.0 s", output, re.MULTILINE), output
    assert ("my_project/data.py" if workers == 0 else "dataloader.py") in output


def test_a_rank_that_is_stuck_ends_all_and_is_named(bake, launch):
    project = bake(accept_hooks=False)
    stuck = "        __import__('time').sleep(600 * (self.global_step == 9 and self.global_rank == 1))\n"
    changed(project, "model.py", "        x, y = batch", f"{stuck}        x, y = batch")
    process = launch(f"train.py {JOB} {TWO} --stuck_after 5", project)
    output = ended(process, 90)
    assert re.search(r"^error: rank 0: no batch", output, re.MULTILINE), output
    assert re.search(r'model.py", line \d+, in _step\n.*sleep.*\nerror: rank 1: no batch', output), output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all(project, launch, rank):
    root = project / f"killed-{rank}"
    process = launch(f"train.py {LONG} {TWO} --trainer.default_root_dir {root}")
    wait_for_training(process, root)
    time.sleep(1)
    (other,) = children(process, "train.py")
    os.kill(process.pid if rank == 0 else other, signal.SIGKILL)
    output = ended(process, 60)
    if rank == 1:
        assert re.search("[Cc]hild process.*-9|[Cc]onnection (closed|reset)", output), output


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(project, launch):
    root = project / "signalled"
    process = launch(f"train.py {LONG} {TWO} --trainer.default_root_dir {root}")
    wait_for_training(process, root)
    time.sleep(1)
    os.kill(children(process, "train.py")[0], signal.SIGTERM)
    output = ended(process, 60)
    assert process.returncode == 143, output
    assert "go on: python train.py --resume signalled/" in output


def test_the_service_of_wandb_killed_stops_no_training(project, launch):
    root = project / "service"
    job = LONG.replace("5000", "150")
    process = launch(f"train.py {job} --trainer.default_root_dir {root}")
    wait_for_training(process, root)
    time.sleep(0.5)
    (service,) = children(process, "wandb-core")
    os.kill(service, signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    rows = (trained(root) / "metrics.csv").read_text().splitlines()
    assert sum(",val/loss," in row for row in rows) == 150
    assert sum(",test/acc," in row for row in rows) == 1


@pytest.mark.skipif(not HAS_MOUNT, reason="needs to mount a small disk")
def test_a_full_disk_of_wandb_stops_no_training(project, home):
    script = (
        "mkdir -p disk/full/wandb && mount -t tmpfs -o size=64k tmpfs disk/full/wandb && "
        f"WANDB_MODE=offline WANDB_RUN_ID=full python train.py {JOB} --trainer.default_root_dir disk"
    )
    done = in_small_disk(project, home, "1m", script)
    assert done.code == 0, done.err
    rows = (project / "disk" / "full" / "metrics.csv").read_text().splitlines()
    assert sum(",val/loss," in row for row in rows) == 30
    assert sum(",test/acc," in row for row in rows) == 1


def test_a_slurm_job_is_requeued_and_goes_on_in_the_same_run(project, home, tmp_path):
    unharmed = run(project, f"train.py {JOB} --trainer.default_root_dir unharmed", home=home)
    assert unharmed.code == 0, unharmed.err
    for name, text in {
        "srun": 'echo $$ > step.pid; exec "$@"',
        "scontrol": 'echo "$@" >> requeued',
        "python": f'exec "{sys.executable}" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"ID": "77", "NAME": "job", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    slurm = {f"SLURM_{name}" if name != "ID" else "SLURM_JOB_ID": value for name, value in job.items()}
    slurm |= {"SLURM_JOB_NAME": "job", "SLURM_NODELIST": "localhost", "SLURM_NNODES": "1"}
    options = {
        "cwd": project,
        "env": environment(home) | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    with subprocess.Popen(["bash", "slurm.sh", *JOB.split()], **options) as first:
        while not (project / "runs" / "77" / "config.yaml").exists():
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(int((project / "step.pid").read_text()), signal.SIGTERM)
        output = first.communicate(timeout=60)[0]
    assert first.returncode == 143, output
    assert (project / "requeued").read_text() == "requeue 77\n"
    again = subprocess.run(["bash", "slurm.sh", *JOB.split()], timeout=120, **options)
    assert again.returncode == 0, again.stdout
    assert (project / "requeued").read_text() == "requeue 77\n"
    assert equal(result(project / "runs" / "77"), result(trained(project / "unharmed")))
    assert [path.name for path in (project / "runs").iterdir()] == ["77"]

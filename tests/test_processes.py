"""Several processes at once: runs that start together, and one run on two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from project import TINY, environment, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(bake) -> Path:
    return bake(accept_hooks=False)


def test_two_runs_at_the_same_moment_do_not_meet(project, tmp_path):
    command = [sys.executable, "train.py", *TINY.split()]
    settings = {"cwd": project, "env": environment(tmp_path), "stdin": subprocess.DEVNULL}
    both = [subprocess.Popen(command, **settings, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    folders = list((project / "runs").glob("*"))
    assert len(folders) == 2
    for folder in folders:
        assert sum(f"--resume runs/{folder.name}" in output for output in outputs) == 1
        assert (folder / "metrics.csv").read_bytes() == (folders[0] / "metrics.csv").read_bytes()


def test_runs_of_one_second_have_ids_of_their_own(project, tmp_path):
    script = tmp_path / "ids.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(project)!r})\n"
        "from pathlib import Path\n"
        "from my_project.harness.run import new_run\n"
        "print(len({new_run(Path('runs')) for _ in range(100)}))\n"
    )
    assert run(tmp_path, str(script), home=tmp_path).out == "100\n"


def test_two_processes_of_ddp_make_one_run(project, tmp_path):
    before = set((project / "runs").glob("*"))
    flags = "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy ddp"
    done = run(project, f"train.py {TINY} {flags}", home=tmp_path, network=True)
    assert done.code == 0, done.err
    (folder,) = set((project / "runs").glob("*")) - before
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt"}
    names = [line.split(",")[1] for line in (folder / "metrics.csv").read_text().splitlines()]
    assert names.count("test/acc") == 1
    assert done.out.count("evaluate.py runs/") == 1

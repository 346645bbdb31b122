"""Several processes at once: runs that start together, and one run on two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
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


@pytest.mark.parametrize("layer", ["", "--config experiments/finetune.yaml "], ids=["train", "fine-tune"])
def test_the_number_of_processes_changes_results_by_rounding_only(bake, tmp_path, layer):
    """The same global batches, which `overfit_batches` keeps in order: of 16 rows, or twice of 8."""
    project = bake(accept_hooks=False, task="tabular")
    same = "--model.dropout 0 --trainer.overfit_batches 5 --trainer.max_epochs 10 --trainer.accelerator cpu"
    two = "--data.batch_size 8 --trainer.devices 2 --trainer.strategy ddp"
    weights = []
    for name, flags in {"one": "--data.batch_size 16", "two": two}.items():
        command = f"train.py {layer}{same} {flags} --trainer.default_root_dir {name}"
        done = run(project, command, home=tmp_path, network=True)
        assert done.code == 0, done.err
        (path,) = (project / name).glob("*/checkpoints/last.ckpt")
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] == 50
        weights.append(checkpoint["state_dict"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=0)

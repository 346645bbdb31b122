"""Several processes at once: runs that start together, and one run on two processes."""

from pathlib import Path

import pytest
import torch
from project import TINY, run, run_many, start
from test_stuck import changed, ended

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

TWO = "--trainer.accelerator cpu --trainer.devices 2 --trainer.strategy"


@pytest.fixture(scope="module")
def project(bake) -> Path:
    return bake(accept_hooks=False)


def runs(root: Path) -> list[Path]:
    """Return the folders of the runs."""
    return [file.parent for file in root.glob("*/config.yaml")]


def test_two_runs_at_the_same_moment_do_not_meet(project, tmp_path):
    both = [start(project, tmp_path, f"train.py {TINY}") for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    folders = runs(project / "runs")
    assert len(folders) == 2
    for folder in folders:
        assert sum(f"--resume runs/{folder.name}" in output for output in outputs) == 1
        assert (folder / "metrics.csv").read_bytes() == (folders[0] / "metrics.csv").read_bytes()
        assert len(list((project / "runs" / "wandb").glob(f"offline-run-*-{folder.name}"))) == 1


def test_runs_of_one_second_have_ids_of_their_own(project, tmp_path):
    (project / "ids.py").write_text(
        "from pathlib import Path\n"
        "from my_project.harness.folder import new_run\n"
        "print(len({new_run(Path('runs')) for _ in range(100)}))\n"
    )
    assert run(project, "ids.py", home=tmp_path).out == "100\n"


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
def test_two_processes_make_one_run(project, tmp_path, strategy):
    command = f"train.py {TINY} {TWO} {strategy} --trainer.default_root_dir {strategy}"
    done = run(project, command, home=tmp_path, network=True, ranks=False)  # as Lightning starts them
    assert done.code == 0, done.err
    (folder,) = runs(project / strategy)
    recorded = [path.name for path in (project / strategy / "wandb").glob("offline-run-*")]
    assert len(recorded) == 1 + (strategy == "ddp_fork")  # which begins anew to test
    assert all(name.endswith(folder.name) for name in recorded)
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt"}
    names = [line.split(",")[1] for line in (folder / "metrics.csv").read_text().splitlines()]
    assert names.count("test/acc") == 1
    assert done.out.count(f"evaluate.py {strategy}/{folder.name}") == 1
    assert done.out.count("test/acc") == 1
    assert (folder / "confusion_matrix.png").exists()


def test_spawned_processes_make_a_run(bake, tmp_path):
    project = bake(accept_hooks=False)
    changed(project, "data.py", "def test_dataloader", "def no_test")  # it would start two more
    process = start(project, tmp_path, f"train.py {TINY} {TWO} ddp_spawn")
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    (folder,) = runs(project / "runs")
    assert output.count(f"resume         python train.py --resume runs/{folder.name}") == 1
    assert (folder / "learning_curves.png").exists()


@pytest.mark.parametrize("layer", ["", "--config experiments/finetune.yaml "], ids=["train", "fine-tune"])
def test_the_number_of_processes_changes_results_by_rounding_only(bake, tmp_path, layer):
    """The same global batches, which `overfit_batches` keeps in order: of 16 rows, or twice of 8."""
    project = bake(accept_hooks=False, task="tabular")
    same = "--model.dropout 0 --trainer.overfit_batches 5 --trainer.max_epochs 10 --trainer.accelerator cpu"
    same += " --model.lr 0.002"  # AdamW makes of rounding a step of up to this size
    weights = []
    for name, flags in {"one": "--data.batch_size 16", "two": f"--data.batch_size 8 {TWO} ddp"}.items():
        command = f"train.py {layer}{same} {flags} --trainer.default_root_dir {name}"
        done = run(project, command, home=tmp_path, network=True)
        assert done.code == 0, done.err
        (path,) = (project / name).glob("*/checkpoints/last.ckpt")
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] == 50
        weights.append(checkpoint["state_dict"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_raises_ends_all(bake, tmp_path, rank):
    project = bake(accept_hooks=False)
    fault = f"        if self.global_step == 9 and self.global_rank == {rank}:\n"
    fault += "            raise KeyError('!')\n"
    changed(project, "model.py", "        x, y = batch", f"{fault}        x, y = batch")
    process = start(project, tmp_path, f"train.py --model.width 4 {TWO} ddp")
    output = ended(process, 60)
    assert "KeyError" in output, output


def test_a_mistake_with_two_processes_is_said_once(project, tmp_path):
    (folder,) = runs(project / "ddp")
    command = f"train.py --resume {folder} --trainer.max_epochs 2 --trainer.devices 1"
    (done,) = run_many(project, [command], home=tmp_path)
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: this run was started with 2 process(es); resume it with --trainer.devices 2 (got 1)"
    ]

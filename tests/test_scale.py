"""More processes, more machines: the same results, with any code. And Lightning's own tools, by flag."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from chaos import equal, result
from project import environment, run, run_many, start
from test_stuck import wait_for_metrics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

WORDS = ("one", "zwei", "trois")
TEXTS = "--model.width 8 --data.path texts --data.num_workers 0 --trainer.accelerator cpu"
DDP = "--trainer.devices 2 --trainer.strategy ddp"
JOB = f"{TEXTS} --data.batch_size 19 --trainer.max_epochs 12 --trainer.log_every_n_steps 2"
TORCHRUN = "-m torch.distributed.run"
# Each node has a network of its own, and a cable to the other.
NODES = """
ip link set lo up
unshare --net sh -c 'until ip link show cable1; do sleep 0.1; done; ip addr add 10.9.0.2/24 dev cable1;
    ip link set cable1 up; ip link set lo up; exec env GLOO_SOCKET_IFNAME=cable1 "$@"' sh $NODE 1 $JOB &
other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add cable0 type veth peer name cable1
ip link set cable1 netns $other
ip addr add 10.9.0.1/24 dev cable0
ip link set cable0 up
GLOO_SOCKET_IFNAME=cable0 $NODE 0 $JOB && wait $other
"""
IN_NETWORK = ["unshare", "--map-root-user", "--net", "sh", "-c"]
HAS_CABLE = sys.platform == "linux" and not (
    subprocess.run(
        [*IN_NETWORK, "ip link add cable0 type veth peer name cable1"], capture_output=True
    ).returncode
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    """Return a project for texts, with 39 of them to validate and 115 to test on."""
    project = bake(accept_hooks=False, task="text")
    (project / "texts").mkdir()
    for split, count in {"train": 200, "val": 39, "test": 115}.items():
        rows = [{"text": f"{WORDS[i % 3]} {split} {i}", "label": WORDS[i % 3]} for i in range(count)]
        pd.DataFrame(rows).to_csv(project / "texts" / f"{split}.csv", index=False)
    return project


def lay_over(bake, file: str) -> Path:
    """Return a project with a file of plain/ in place of its model, data and network."""
    project = bake(accept_hooks=False)
    package = project / "my_project"
    shutil.copy(Path(__file__).parent / "plain" / f"{file}.py", package / "model.py")
    (package / "data.py").write_text("from .model import DataModule\n\n__all__ = ['DataModule']\n")
    (package / "network.py").unlink()
    return project


def only_run(root: Path) -> Path:
    """Return the folder of the only run."""
    (settings,) = root.glob("*/config.yaml")
    return settings.parent


def metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of a run's best validation and of its test."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = [(row["step"], row["name"], float(row["value"])) for row in csv.DictReader(file)]
    _, best = min((value, step) for step, name, value in rows if name == "val/loss")
    return {name: value for step, name, value in rows if step == best or name.startswith("test/")}


def printed(out: str) -> dict[str, float]:
    """Return the metrics that evaluate.py printed."""
    return {name: float(value) for name, value in re.findall(r"((?:val|test)/\w+)\W+([\d.]+)", out)}


@pytest.fixture(scope="module")
def ddp(project, home) -> Path:
    """Return a run that two processes made, which Lightning started."""
    done = run(project, f"train.py {JOB} {DDP} --trainer.default_root_dir ddp", home=home, network=True)
    assert done.code == 0, done.err
    return only_run(project / "ddp")


def test_two_processes_measure_as_one_does(project, home, ddp):
    """The count is not even, and with 19 in a batch one process would have a batch more than the other."""
    (alone,) = run_many(project, [f"evaluate.py {ddp}"], home=home)
    assert alone.code == 0, alone.err
    measured = printed(alone.out)
    assert measured.keys() == {"test/acc", "test/loss"}
    found = metrics(ddp)
    assert {name: found[name] for name in measured} == pytest.approx(measured, rel=1e-6)
    (table,) = (project / "ddp" / "wandb").glob("offline-run-*/files/media/table/test/examples*.json")
    shown = json.loads(table.read_text())["data"]
    assert len(shown) == 50
    for example, target, *_ in shown:
        assert example.split()[0] == target


def test_ordinary_code_measures_as_one_process_does_ends_in_step_and_goes_on(bake, home):
    """One process has eight batches, the other six: both do six steps, and nobody waits for the other."""
    project = lay_over(bake, "processes")
    job = f"train.py {DDP} --trainer.accelerator cpu --trainer.max_epochs 2 --trainer.default_root_dir"
    untracked = {"WANDB_MODE": "disabled"}
    whole = run(project, f"{job} whole", home=home, network=True, variables=untracked)
    assert whole.code == 0, whole.err
    expected = only_run(project / "whole")
    last = torch.load(expected / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 12

    (alone,) = run_many(project, [f"evaluate.py {expected}"], home=home, variables=untracked)
    assert alone.code == 0, alone.err
    assert printed(alone.out) == pytest.approx({"val/loss": metrics(expected)["val/loss"]}, rel=1e-6)

    variables = untracked | {"STOP": "9"}  # within the second epoch
    stopped = run(project, f"{job} stopped", home=home, network=True, variables=variables)
    assert stopped.code == 143, stopped.err
    folder = only_run(project / "stopped")
    resumed = run(project, f"train.py --resume {folder}", home=home, network=True, variables=untracked)
    assert resumed.code == 0, resumed.err
    assert equal(result(folder), result(expected))


def test_torchrun_trains_as_ddp_does_and_goes_on_after_sigterm(project, home, ddp):
    command = f"{TORCHRUN} --standalone --nproc_per_node 2 train.py"
    process = start(project, home, f"{command} {JOB} {DDP} --trainer.default_root_dir torchrun")
    wait_for_metrics(process, project / "torchrun")
    os.kill(process.pid, signal.SIGTERM)  # it passes it on, to W&B's service as well
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0, output
    assert len(re.findall(r"stopped at step \d+; continue: python train.py --resume torchrun/", output)) == 1
    folder = only_run(project / "torchrun")
    done = run(project, f"{command} --resume {folder}", home=home, network=True)
    assert done.code == 0, done.err
    assert done.out.count("evaluate.py torchrun/") == 1
    assert only_run(project / "torchrun") == folder
    assert equal(result(folder), result(ddp))
    recorded = (project / "torchrun" / "wandb").glob("offline-run-*")
    assert {path.name.split("-", 3)[-1] for path in recorded} == {folder.name}


def test_two_nodes_train_as_one_does(project, home, ddp):
    address = "10.9.0.1" if HAS_CABLE else "127.0.0.1"
    script = NODES if HAS_CABLE else "$NODE 1 $JOB & other=$!; $NODE 0 $JOB && wait $other"
    node = f"--nnodes 2 --nproc_per_node 1 --master_addr {address} --master_port 29517 --node_rank"
    flags = (
        "--trainer.devices 1 --trainer.num_nodes 2 --trainer.strategy ddp --trainer.default_root_dir nodes"
    )
    done = subprocess.run(
        [*(IN_NETWORK if HAS_CABLE else ["sh", "-c"]), script],
        cwd=project,
        env=environment(home)
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        | {"NODE": f"python {TORCHRUN} {node}", "JOB": f"train.py {JOB} {flags}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert equal(result(only_run(project / "nodes")), result(ddp))


def test_two_nodes_of_slurm_train_as_one_does(project, home, ddp, tmp_path):
    srun = 'SLURM_PROCID=1 SLURM_NODEID=1 "$@" & other=$!; "$@" && wait $other'
    for name, text in {"srun": srun, "python": f'exec "{sys.executable}" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"JOB_ID": "88", "JOB_NAME": "job", "NODELIST": "localhost", "NNODES": "2", "NTASKS": "2"}
    job["NTASKS_PER_NODE"] = "1"
    job |= dict.fromkeys(("PROCID", "LOCALID", "NODEID"), "0")
    flags = "--trainer.devices 1 --trainer.num_nodes 2 --trainer.strategy ddp"
    done = subprocess.run(
        ["bash", "slurm.sh", *f"{JOB} {flags}".split()],
        cwd=project,
        env=environment(home)
        | {f"SLURM_{name}": value for name, value in job.items()}
        | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert equal(result(project / "runs" / "88"), result(ddp))


@pytest.fixture(scope="module")
def table(bake) -> Path:
    return bake(accept_hooks=False, task="tabular")


CLIP = """
import torch
from lightning import Callback
from torch.nn.utils import get_total_norm

class Norms(Callback):
    def on_train_batch_end(self, trainer, model, *_):
        norm = get_total_norm([p.grad for p in model.parameters()])
        with open("norms", "a") as file:
            file.write(f"{norm}\\n")
"""


def test_accumulation_clipping_and_profilers_work_by_flag(table, home):
    (table / "clip.py").write_text(CLIP)
    same = (
        "train.py --model.dropout 0 --trainer.overfit_batches {} --data.batch_size {} --trainer.max_epochs 3"
    )
    same += " --trainer.accelerator cpu --trainer.default_root_dir {}"
    clip = "--trainer.gradient_clip_val 0.01 --trainer.callbacks+=clip.Norms"
    quick = "--trainer.accelerator cpu --trainer.max_epochs 1 --trainer.limit_train_batches 4"
    commands = [
        same.format(10, 8, "halves") + " --trainer.accumulate_grad_batches 2",
        same.format(5, 16, "wholes"),
        same.format(5, 16, "clipped") + f" {clip}",
        f"train.py --config experiments/profile.yaml {quick}",
        f"train.py {quick} --trainer.profiler pytorch --trainer.default_root_dir traced",
        "train.py --config experiments/fsdp.yaml",
        "train.py --config experiments/fsdp.yaml --trainer.accelerator cpu",
        "train.py --config experiments/multi-node.yaml",
    ]
    before = {path.name for path in table.iterdir()} | {"runs", "halves", "wholes", "clipped", "traced"}
    *done, fsdp, fsdp_on_cpu, nodes = run_many(table, commands, home=home)
    assert [result.code for result in done] == [0] * 5, "".join(result.err for result in done)
    halves, wholes = (result(only_run(table / name))["last.ckpt state_dict"] for name in ("halves", "wholes"))
    for name, value in halves.items():
        torch.testing.assert_close(wholes[name], value, atol=1e-5, rtol=0)
    norms = [float(line) for line in (table / "norms").read_text().splitlines()]
    assert norms == pytest.approx([0.01] * 15, rel=1e-3)
    assert re.search(r"run_training_epoch\s+\|", done[3].err + done[3].out)
    assert list(only_run(table / "traced").glob("*.pt.trace.json"))
    assert {path.name for path in table.iterdir()} - before <= {"norms", "__pycache__"}
    for refused in (fsdp, fsdp_on_cpu, nodes):
        assert refused.code == 1
        assert "Traceback" not in refused.err
        (line,) = [line for line in refused.err.splitlines() if line.startswith("error: ")]
        assert "the trainer refuses its settings" in line

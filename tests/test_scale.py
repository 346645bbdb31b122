"""More processes, more machines, more data: the same results. And Lightning's own tools, by flag."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from chaos import equal, result, start, wait_for_training
from project import environment, run, run_many
from test_stuck import changed, ended

pytestmark = pytest.mark.slow

WORDS = ("one", "zwei", "trois")
TEXTS = "--model.width 8 --data.path texts --data.num_workers 0 --trainer.accelerator cpu"
DDP = "--trainer.devices 2 --trainer.strategy ddp"
JOB = f"{TEXTS} --data.batch_size 19 --trainer.max_epochs 30 --trainer.log_every_n_steps 2"
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
EVALUATE = """
import json, sys; sys.path.insert(0, ".")
from my_project.data import DataModule
from my_project.harness import run
from my_project.model import Model
checkpoint = run.find_checkpoint(sys.argv[1])
model, data, trainer = run.load(Model, checkpoint), run.load(DataModule, checkpoint), run.inference_trainer()
metrics = trainer.validate(model, data, verbose=False)[0] | trainer.test(model, data, verbose=False)[0]
targets = {data.test_example(i): data.parts["test"][1][i] for i in range(len(data.test_set))}
print(json.dumps([metrics, targets]))
"""


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


def only_run(root: Path) -> Path:
    """Return the folder of the only run."""
    (folder,) = [path for path in root.iterdir() if path.is_dir()]
    return folder


@pytest.fixture(scope="module")
def ddp(project, home) -> Path:
    """Return a run that two processes made, which Lightning started."""
    done = run(project, f"train.py {JOB} {DDP} --trainer.default_root_dir ddp", home=home, network=True)
    assert done.code == 0, done.err
    return only_run(project / "ddp")


def test_two_processes_measure_as_one_does(project, home, ddp):
    """Neither count is even, and with 19 in a batch one process would have a batch more than the other."""
    (project / "measure.py").write_text(EVALUATE)
    alone = run(project, f"measure.py {ddp}", home=home)
    assert alone.code == 0, alone.err
    metrics, targets = json.loads(alone.out.splitlines()[-1])
    assert metrics.keys() == {"val/acc", "val/loss", "test/acc", "test/loss"}
    with (ddp / "metrics.csv").open(encoding="utf-8") as file:
        rows = [(row["step"], row["name"], float(row["value"])) for row in csv.DictReader(file)]
    _, best = min((value, step) for step, name, value in rows if name == "val/loss")
    found = {name: value for step, name, value in rows if step == best or name.startswith("test/")}
    assert {name: found[name] for name in metrics} == pytest.approx(metrics, rel=1e-6)
    (table,) = ddp.glob("wandb/**/table/test/examples*.json")
    shown = json.loads(table.read_text())["data"]
    assert len(shown) == 50
    assert all(targets[example] == target for example, target, *_ in shown)


def test_torchrun_trains_as_ddp_does_and_goes_on_after_sigterm(project, home, ddp):
    command = f"{TORCHRUN} --standalone --nproc_per_node 2 train.py"
    process = start(project, home, f"{command} {JOB} {DDP} --trainer.default_root_dir torchrun")
    wait_for_training(process, project / "torchrun")
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)  # it passes it on
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0, output
    assert len(re.findall(r"stopped at step \d+; go on: python train.py --resume torchrun/", output)) == 1
    folder = only_run(project / "torchrun")
    done = run(project, f"{command} --resume {folder}", home=home, network=True)
    assert done.code == 0, done.err
    assert done.out.count("evaluate.py torchrun/") == 1
    assert only_run(project / "torchrun") == folder
    assert equal(result(folder), result(ddp))
    ids = {path.name.removesuffix(".wandb").split("run-")[-1] for path in folder.rglob("*.wandb")}
    assert ids == {folder.name}


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


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_raises_ends_all(bake, home, rank):
    project = bake(accept_hooks=False)
    fault = (
        f"        if self.global_step == 9 and self.global_rank == {rank}:\n            raise KeyError('!')\n"
    )
    changed(project, "model.py", "        x, y = batch", f"{fault}        x, y = batch")
    process = start(project, home, f"train.py --model.width 4 --trainer.accelerator cpu {DDP}")
    output = ended(process, 60)
    assert "KeyError" in output, output


SPY = """
import os, signal
from lightning import Callback

class Spy(Callback):
    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        texts = [bytes(row[row > 0].tolist()).decode() for row in batch[0]]
        with open(f"{os.environ['SEEN']}-{trainer.current_epoch}-{trainer.global_rank}", "a") as file:
            file.writelines(f"{text}\\n" for text in texts)
        if trainer.global_step == int(os.environ.get("STOP", -1)):
            os.kill(os.getpid(), signal.SIGTERM)
"""
STREAM = "--model.width 8 --data.path shards --data.streaming true --data.buffer 20 --data.num_workers 2 "
STREAM += "--data.batch_size 6 --trainer.accelerator cpu --trainer.callbacks+=spy.Spy --trainer.max_steps 99"


def write_shards(folder: Path, *counts: int) -> list[str]:
    """Write files to train on with so many rows, and two more to validate and test on; return the texts."""
    texts = []
    for shard, count in enumerate(counts):
        rows = [{"text": f"{WORDS[i % 3]} {shard} {i}", "label": WORDS[i % 3]} for i in range(count)]
        path = folder / f"train-{shard}.parquet"
        pd.DataFrame(rows).to_parquet(path, index=False)
        texts += [row["text"] for row in rows]
    for split in ("val", "test"):
        rows = [{"text": f"{word} {split}", "label": word} for word in WORDS for _ in range(5)]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet", index=False)
    return texts


def seen(project: Path, name: str, epoch: int) -> list[str]:
    """Return the texts that an epoch trained on, those of the first process first."""
    return [
        text for path in sorted(project.glob(f"{name}-{epoch}-*")) for text in path.read_text().splitlines()
    ]


@pytest.fixture
def shards(bake):
    """Return shards(*counts), which bakes a project for texts with training files of so many rows."""

    def shards(*counts: int) -> tuple[Path, list[str]]:
        project = bake(accept_hooks=False, task="text")
        (project / "spy.py").write_text(SPY)
        (project / "shards").mkdir()
        return project, write_shards(project / "shards", *counts)

    return shards


def test_a_stream_is_read_once_an_epoch_in_another_order_and_goes_on_exactly(shards, home, monkeypatch):
    project, texts = shards(24, 24, 24, 24)
    job = f"train.py {STREAM} --trainer.max_epochs 2 {DDP} --trainer.default_root_dir"
    monkeypatch.setenv("SEEN", "whole")
    whole = run(project, f"{job} whole", home=home, network=True)
    assert whole.code == 0, whole.err
    for epoch in range(2):
        assert Counter(seen(project, "whole", epoch)) == Counter(texts)
    assert seen(project, "whole", 0) != seen(project, "whole", 1)

    monkeypatch.setenv("SEEN", "stopped")
    monkeypatch.setenv("STOP", "9")  # within the second epoch
    stopped = run(project, f"{job} stopped", home=home, network=True)
    assert stopped.code == 143, stopped.err
    monkeypatch.delenv("STOP")
    folder = only_run(project / "stopped")
    resumed = run(project, f"train.py --resume {folder}", home=home, network=True)
    assert resumed.code == 0, resumed.err
    assert equal(result(folder), result(only_run(project / "whole")))
    assert seen(project, "stopped", 0) == seen(project, "whole", 0)
    assert Counter(seen(project, "stopped", 1)) == Counter(texts)


@pytest.mark.parametrize("counts", [(40, 7, 21, 5), (30, 20, 11)], ids=["by file", "by row"])
def test_uneven_files_end_all_processes_at_once(shards, home, monkeypatch, counts):
    """What one process has more than the other is left out: a part of a file where files are dealt out."""
    project, texts = shards(*counts)
    monkeypatch.setenv("SEEN", "uneven")
    done = run(project, f"train.py {STREAM} {DDP} --trainer.max_epochs 2", home=home, network=True)
    assert done.code == 0, done.err
    for epoch in range(2):
        found = seen(project, "uneven", epoch)
        assert max(Counter(found).values()) == 1
        assert set(found) <= set(texts)
        if len(counts) % 2:  # dealt out batch by batch, to each process by each of its workers
            assert len(found) >= len(texts) - 2 * 6


def test_streams_of_each_kind_and_mistakes(bake, home, monkeypatch):
    """CSV, JSON lines and Parquet; numbers and categories; images in Parquet; and what is refused."""
    import datasets
    import numpy as np

    monkeypatch.setenv("SEEN", "kinds")
    text, table, image = (bake(accept_hooks=False, task=task) for task in ("text", "tabular", "image"))
    rows = pd.DataFrame([{"text": f"{WORDS[i % 3]} {i}", "label": WORDS[i % 3]} for i in range(60)])
    for name, ending, train in (
        ("csv", "csv", rows),
        ("jsonl", "jsonl", rows),
        ("new", "csv", rows.assign(label=rows["label"].where(rows.index != 55, "vier"))),
        ("gap", "csv", rows.assign(text=rows["text"].where(rows.index != 55))),
    ):
        (text / name).mkdir()
        for split, part in {"train": train, "val": rows[:9], "test": rows[:9]}.items():
            path = text / name / f"{split}.{ending}"
            part.to_csv(path, index=False) if ending == "csv" else part.to_json(
                path, orient="records", lines=True
            )
    (text / "alone").mkdir()
    rows.to_csv(text / "alone" / "train.csv", index=False)
    numbers = pd.DataFrame({"size": range(60), "kind": ["a", "b"] * 30, "label": [0.5, 1.5, 2.5] * 20})
    (table / "rows").mkdir()
    pixels = np.zeros((8, 8, 3), np.uint8)
    pictures = datasets.Dataset.from_dict(
        {"picture": [pixels] * 12, "label": [0, 1] * 6},
        datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}),
    )
    (image / "rows").mkdir()
    for split in ("train", "val", "test"):
        numbers.to_parquet(table / "rows" / f"{split}.parquet", index=False)
        pictures.to_parquet(image / "rows" / f"{split}.parquet")
    stream = "--model.width 4 --trainer.accelerator cpu --data.num_workers 0 --data.streaming true"
    steps = "--trainer.max_steps 5"
    commands = {
        "--data.path csv --trainer.max_epochs 2 --trainer.limit_train_batches 3": (text, None),
        f"--data.path jsonl {steps}": (text, None),
        "--data.path csv": (text, "give --trainer.max_steps"),
        f"--data.path alone {steps}": (text, "alone needs files called val and test"),
        f"--data.path csv --data.balanced true {steps}": (text, "nothing balanced"),
        f"{steps}": (text, "give --data.path"),
        f"--data.path new --data.buffer 20 --data.shuffle false {steps}": (text, "vier in the train split"),
        f"--data.path gap --data.buffer 20 --data.shuffle false {steps}": (text, "text is missing"),
        f"--data.path rows {steps}": (table, None),
        f"--data.path rows {steps} ": (image, None),
    }
    for project in (text, table, image):
        mine = {flags: reason for flags, (other, reason) in commands.items() if other == project}
        results = run_many(project, [f"train.py {stream} {flags}" for flags in mine], home=home)
        for (flags, reason), done in zip(mine.items(), results, strict=True):
            if reason is None:
                assert done.code == 0, f"{flags}\n{done.err}"
            else:
                (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
                assert reason in line
                assert "Traceback" not in done.err


@pytest.fixture(scope="module")
def table(bake) -> Path:
    return bake(accept_hooks=False, task="tabular")


def test_what_finders_find_is_used_printed_recorded_and_resumed(table, home):
    job = "train.py --trainer.max_epochs 8 --trainer.limit_train_batches 4 --trainer.accelerator cpu"
    finders = "--trainer.callbacks BatchSizeFinder --trainer.callbacks.max_trials 3"
    finders += " --trainer.callbacks+=LearningRateFinder --trainer.callbacks.num_training_steps 30"
    (found,) = run_many(table, [f"{job} {finders} --trainer.default_root_dir found"], home=home)
    assert found.code == 0, found.err
    folder = only_run(table / "found")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert not settings["trainer"]["callbacks"]
    size, lr = settings["data"]["batch_size"], settings["model"]["lr"]
    assert size != 64
    assert lr != 0.002
    assert f"from here on: --data.batch_size {size}\n" in found.err
    assert f"from here on: --model.lr {lr}\n" in found.err
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["lr"] == lr
    assert checkpoint["datamodule_hyper_parameters"]["batch_size"] == size
    (offline,) = (folder / "wandb").glob("offline-run-*")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(offline)]
    recorded = json.loads(subprocess.run(inspect, capture_output=True, env=environment(home)).stdout)[
        "config"
    ]
    recorded.pop("parameters")
    assert recorded == settings
    commands = [
        f"train.py --config {folder / 'config.yaml'} --trainer.default_root_dir again",
        f"train.py --resume {folder}",
        f"train.py --resume {folder} --trainer.max_epochs 9",
    ]
    before = (folder / "metrics.csv").read_bytes()
    again, finished, longer = run_many(table, commands, home=home)
    assert again.code == longer.code == 0, again.err + longer.err
    assert (only_run(table / "again") / "metrics.csv").read_bytes() == before
    assert "is finished" in finished.out
    assert "from here on" not in longer.err
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["lr"] == lr
    assert [path.name for path in folder.glob(".*")] == [".lock"]


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
        torch.testing.assert_close(wholes[name], value, atol=1e-6, rtol=0)
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

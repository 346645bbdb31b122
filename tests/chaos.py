"""Kill a training run at random moments, resume it until it is done, and compare it with one never killed.

`python tests/chaos.py --kills 50 [--processes 2] [--seed 0]` generates a project, prints a line for each
start and exits with 1 if anything came out different. SIGKILL, SIGTERM or SIGINT reaches the whole process
group, at any moment from the start of Python to the end. The next start finds what is there.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from project import start, start_python
from torch.utils._pytree import tree_flatten

JOB = "--model.width 4 --data.batch_size 16 --trainer.max_epochs 20 --trainer.limit_train_batches 6 "
JOB += "--trainer.limit_val_batches 2 --trainer.log_every_n_steps 2 --trainer.accelerator cpu"


def result(run: Path) -> dict:
    """Return all that must be the same however often a run was stopped."""
    found: dict = {"metrics.csv": (run / "metrics.csv").read_bytes()}
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
        keys = ["state_dict", "epoch", "global_step"]
        if name == "last.ckpt":
            keys += ["optimizer_states", "lr_schedulers"]
        for key in keys:
            found[f"{name} {key}"] = checkpoint[key]
    return found


def equal(a, b) -> bool:
    """Compare bit for bit, however deep."""
    leaves, structure = tree_flatten(a)
    others, other_structure = tree_flatten(b)
    if structure != other_structure:
        return False
    for leaf, other in zip(leaves, others, strict=True):
        if isinstance(leaf, torch.Tensor) and isinstance(other, torch.Tensor):
            same = torch.equal(leaf, other)
        else:
            same = leaf == other
        if not same:
            return False
    return True


@dataclass
class Start:
    """What came of one start of the training."""

    moment: str  # when it was killed
    signal: str  # "-": it was left alone
    code: int
    outcome: str = ""  # of a training that is done: "equal", or what is different


def chaos(
    project: Path, home: Path, kills: int, flags: str = "", seed: int = 0, forks: bool = False
) -> Iterator[Start]:
    """Yield each start of a training, until `kills` of them were killed and the last one is done.

    With `forks` Python has started, and has imported Lightning, before the first moment.
    """
    start_run = start if forks else start_python
    save_often(project)
    draw = random.Random(seed)
    job = f"train.py {JOB} {flags} --trainer.default_root_dir"
    began = time.monotonic()
    process = start_run(project, home, f"{job} unharmed")
    before_first_step = wait_for_training(process, project / "unharmed") - began
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    duration = time.monotonic() - began
    expected = result(trained(project / "unharmed"))

    killed = 0
    number = 0
    while killed < kills:
        root = project / f"chaos-{number}"
        number += 1
        done = False
        while not done:
            run = trained(root)
            command = f"{job} {root}"
            if run is not None:
                command = f"train.py --resume {run}"
            process = start_run(project, home, command)
            name = draw.choice(["SIGKILL", "SIGTERM", "SIGINT"])
            # One in four at any moment, the others while it trains, saves, validates or tests.
            if draw.random() < 0.25:
                seconds = draw.uniform(0, duration)
                moment = f"{seconds:.2f} s"
            else:
                seconds = draw.uniform(0, duration - before_first_step)
                moment = f"training + {seconds:.2f} s"
                wait_for_training(process, root)
            if killed == kills:
                seconds = 120
            try:
                output = process.communicate(timeout=seconds)[0]
                name = "-"
            except subprocess.TimeoutExpired:
                killed += 1
                os.killpg(process.pid, signal.Signals[name])
                output = end(process)
            assert process.returncode != 1, f"{name} after {moment}:\n{output}"
            done = process.returncode == 0
            outcome = ""
            if done:
                outcome = compared(result(trained(root)), expected)
            yield Start(moment, name, process.returncode, outcome)


def save_often(project: Path) -> None:
    """Let a project save as often as it has time for, not every 30 seconds, so that kills meet a save."""
    file = project / "my_project" / "harness" / "resume.py"
    text = file.read_text(encoding="utf-8")
    assert text.count("\nLEAST_SECONDS = 30 ") == 1
    file.write_text(text.replace("\nLEAST_SECONDS = 30 ", "\nLEAST_SECONDS = 0 "), encoding="utf-8")


def compared(found: dict, expected: dict) -> str:
    """Return "equal", or the names of what is different."""
    different = [name for name in expected if not equal(found[name], expected[name])]
    if different:
        return f"different: {', '.join(different)}"
    return "equal"


def wait_for_training(process: subprocess.Popen, root: Path) -> float:
    """Return when the settings were written, which every start does before its first step."""
    before = time.time()
    while process.poll() is None:
        run = trained(root)
        if run and (run / "config.yaml").stat().st_mtime >= before:
            break
        time.sleep(0.02)
    return time.monotonic()


def end(process: subprocess.Popen) -> str:
    """Return the output of a process that was told to end."""
    try:
        return process.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("a minute after the signal it is still there") from None


def trained(root: Path) -> Path | None:
    """Return the run that has begun to train; others were killed before they had settings."""
    for config in root.glob("*/config.yaml"):
        return config.parent
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    flags = ""
    if arguments.processes > 1:
        flags = f"--trainer.devices {arguments.processes} --trainer.strategy ddp"
    all_equal = True
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        project = generate(home)
        print(f"{'moment':<18} {'signal':<8} {'exit':>5}  result")
        for one in chaos(project, home, arguments.kills, flags, arguments.seed):
            print(f"{one.moment:<18} {one.signal:<8} {one.code:>5}  {one.outcome}", flush=True)
            if one.outcome not in ("", "equal"):
                all_equal = False
    sys.exit(not all_equal)


def generate(folder: Path) -> Path:
    """Generate the default project."""
    template = Path(__file__).resolve().parents[1]
    settings = folder / "cookiecutter.yaml"
    settings.write_text(f"replay_dir: {folder / 'replay'}\ncookiecutters_dir: {folder / 'templates'}\n")
    command = [
        sys.executable,
        "-m",
        "cookiecutter",
        str(template),
        "--no-input",
        "--config-file",
        str(settings),
    ]
    subprocess.run([*command, "--output-dir", str(folder), "--accept-hooks", "no"], check=True)
    return folder / "my-project"


if __name__ == "__main__":
    main()

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
from pathlib import Path

import torch
from project import environment
from torch.utils._pytree import tree_flatten

JOB = "--model.width 4 --data.batch_size 16 --trainer.max_epochs 30 --trainer.limit_train_batches 6 "
JOB += "--trainer.limit_val_batches 2 --trainer.log_every_n_steps 2 --trainer.accelerator cpu"


def result(run: Path) -> dict:
    """Return all that must be the same however often a run was stopped."""
    found: dict = {"metrics.csv": (run / "metrics.csv").read_bytes()}
    weights = ("state_dict", "epoch", "global_step")
    for name, keys in {
        "last.ckpt": (*weights, "optimizer_states", "lr_schedulers"),
        "best.ckpt": weights,
    }.items():
        checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
        for key in keys:
            found[f"{name} {key}"] = checkpoint[key]
    return found


def equal(a, b) -> bool:
    """Compare bit for bit, however deep."""
    leaves, spec = tree_flatten(a)
    others, other_spec = tree_flatten(b)
    return spec == other_spec and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y
        for x, y in zip(leaves, others, strict=True)
    )


def start(project: Path, home: Path, command: str, **options) -> subprocess.Popen:
    """Start a command in a process group of its own, so that a signal reaches it and all that it started."""
    return subprocess.Popen(
        [sys.executable, *command.split()],
        cwd=project,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def chaos(project: Path, home: Path, kills: int, flags: str = "", seed: int = 0):
    """Yield (moment, signal, exit code, outcome) of each start, until `kills` were killed and all is done."""
    draw = random.Random(seed)
    job = f"train.py {JOB} {flags} --trainer.default_root_dir"
    began = time.monotonic()
    process = start(project, home, f"{job} unharmed")
    steps_began = wait_for_training(process, project / "unharmed") - began
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    duration = time.monotonic() - began
    expected = result(trained(project / "unharmed"))

    killed = number = 0
    while killed < kills:
        root = project / f"chaos-{number}"
        code, number = None, number + 1
        while code != 0:
            run = trained(root)
            process = start(project, home, f"train.py --resume {run}" if run else f"{job} {root}")
            # One in four at any moment, the others while it trains, saves, validates or tests.
            anywhere = draw.random() < 0.25
            moment = draw.uniform(0, duration) if anywhere else draw.uniform(0, duration - steps_began)
            name = draw.choice(["SIGKILL", "SIGTERM", "SIGINT"])
            if not anywhere:
                wait_for_training(process, root)
            try:
                output = process.communicate(timeout=moment if killed < kills else 120)[0]
                name = "-"
            except subprocess.TimeoutExpired:
                killed += 1
                os.killpg(process.pid, signal.Signals[name])
                output = end(process)
            code = process.returncode
            assert code != 1, f"{name} after {moment:.2f} s:\n{output}"
            different = (
                [key for key, value in result(trained(root)).items() if not equal(value, expected[key])]
                if code == 0
                else []
            )
            outcome = f"different: {', '.join(different)}" if different else "equal" if code == 0 else ""
            yield f"{'' if anywhere else 'training + '}{moment:.2f} s", name, code, outcome


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
    return next((path.parent for path in root.glob("*/config.yaml")), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    flags = (
        f"--trainer.devices {arguments.processes} --trainer.strategy ddp" if arguments.processes > 1 else ""
    )
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        project = generate(Path(folder))
        print(f"{'moment':<18} {'signal':<8} {'exit':>5}  result")
        for moment, name, code, outcome in chaos(
            project, Path(folder), arguments.kills, flags, arguments.seed
        ):
            print(f"{moment:<18} {name:<8} {code:>5}  {outcome}", flush=True)
            different += outcome.startswith("different")
    sys.exit(different > 0)


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

"""Measure a generated project beside plain PyTorch and print one table: `make benchmark`. Needs no network.

`python benchmarks/run.py mlp start` measures only these of `CASES`.

The cases run as child processes. This one stays small: a child's peak memory starts from its parent's.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

from cookiecutter.main import cookiecutter

HERE = Path(__file__).resolve().parent
REPEATS = 5
BUDGET = 90  # seconds of a case: a busy machine gets fewer repeats
SIDES = "project", "bare", "settings", "defaults"  # of training.py
LOSSES = "train/loss", "val/loss"
PACKAGES = ("torch", "lightning", "torchmetrics", "wandb", "numpy")
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def render(folder: Path) -> tuple[Path, list[float]]:
    """Generate the default project in this process, without hooks; return it and the seconds of each time."""
    config = folder / "cookiecutter.yaml"
    config.write_text(f"replay_dir: {folder / 'replay'}\ncookiecutters_dir: {folder / 'templates'}\n")
    seconds = []
    for repeat in range(REPEATS):
        start = time.perf_counter()
        where = {"output_dir": str(folder / f"render{repeat}"), "config_file": str(config)}
        project = cookiecutter(
            str(HERE.parent),
            no_input=True,
            default_config=False,
            accept_hooks=False,
            extra_context={"project": "my-project"},
            **where,
        )
        seconds.append(time.perf_counter() - start)
    return Path(project), seconds


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(HERE), "TMPDIR": str(folder)}


def python(*arguments: object, cwd: Path) -> tuple[str, float, float]:
    """Run Python; return its standard output, the seconds it took and its peak memory in bytes."""
    command = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=cwd, env=environment(cwd), stdout=output, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{errors.read()}")
        return output.read(), seconds, usage.ru_maxrss * MAXRSS_UNIT


@contextlib.contextmanager
def side(case: str, project: Path, name: str) -> Iterator[Callable]:
    """Yield a function that lets one side of training.py train once, in a process of its own."""
    command = [sys.executable, str(HERE / "training.py"), case, str(project), name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=project, env=environment(project), stderr=errors, **pipes)

        def train(flags: str = "") -> dict | float:
            with contextlib.suppress(BrokenPipeError):
                print(flags, file=process.stdin, flush=True)
            for line in process.stdout:
                if line.startswith("result "):
                    return json.loads(line.removeprefix("result "))
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read()}")

        with process:  # its end is that of its standard input
            yield train


def in_turn(case: str, project: Path, names: Sequence[str] = SIDES) -> list[list[dict]]:
    """Let the sides train in turn; return what each has measured."""
    with contextlib.ExitStack() as stack:
        sides = []
        for name in names:
            sides.append(stack.enter_context(side(case, project, name)))
            sides[-1]("--trainer.max_epochs=1")  # warms up
        rounds, start = [], time.perf_counter()
        while len(rounds) < REPEATS and (not rounds or time.perf_counter() - start < BUDGET):
            rounds.append([train() for train in sides])
    return list(zip(*rounds, strict=True))


def default_training(project: Path) -> list[str]:
    """Run train.py as a user does: rows for its time, peak memory and test accuracy."""
    output, seconds, peak = python("train.py", cwd=project)
    accuracy = float(output.split("test/acc")[1].split()[0])
    return [
        row("`python train.py`, start to end", f"{seconds:.1f} s", *[""] * 6, "< 30 s"),
        row("its peak memory (largest process)", f"{peak / 1e9:.2f} GB", *[""] * 6, "< 1 GB"),
        row("its test accuracy", f"{accuracy:.4f}", *[""] * 6, "≥ 0.985"),
    ]


def training_phase(case: str, title: str, project: Path, *, goal: float) -> list[str]:
    """Time the training phase beside Lightning's bare loop and the hand-written one."""
    sides = in_turn(case, project)
    ours, _, same, _ = sides
    differs = max(abs(a[k] / b[k] - 1) for a, b in zip(ours, same, strict=True) for k in LOSSES)
    verdict = "the same" if differs < 1e-5 else f"{differs:.1e} apart"
    step, bare, other, usual = (
        f"{median(r['wall'] for r in results) / ours[0]['steps'] * 1e3:.2f} ms" for results in sides
    )
    loss, like, expected, close = (f"{results[-1]['val/loss']:.5f}" for results in sides)

    def times(kind: str) -> list[str]:
        seconds, *references = ([result[kind] for result in results] for results in sides)
        return [spread(seconds), *(c for each in references for c in (spread(each), ratio(seconds, each)))]

    return [
        row(f"{title}: training phase", *times("wall"), "bare ≤ 1.02"),
        row("its processor time", *times("cpu"), ""),
        row("its step, with its share of validation", step, bare, "", other, "", usual, "", ""),
        row("its last losses", loss, like, "", expected, verdict, close, "", "the same"),
    ]


def start_up(project: Path) -> list[str]:
    """Time from the start of the process to the first batch, beside importing Lightning and nothing else."""
    ours, bare = [], []
    for _ in range(REPEATS):
        start = time.time()
        output = python("train.py", "--trainer.callbacks+=callbacks.FirstStep", cwd=project)[0]
        ours.append(float(output.split("first step at ")[1].split()[0]) - start)
        start = time.time()
        output = python("-c", "import lightning, time; print(time.time())", cwd=project)[0]
        bare.append(float(output) - start)
    title = "process start to first step; beside `import lightning`"
    return [row(title, spread(ours), spread(bare), ratio(ours, bare), *[""] * 4, "≤ 1.3")]


def memory(project: Path) -> list[str]:
    """Train a small network for 10,000 steps."""
    flags = "--model.width=1 --trainer.max_epochs=-1 --trainer.max_steps=10000 --early_stopping.patience=9999"
    flags += " --trainer.callbacks+=callbacks.Memory --trainer.check_val_every_n_epoch=10"
    output = python("train.py", *flags.split(), cwd=project)[0]
    found = [int(line.split()[1]) for line in output.splitlines() if line.startswith("memory ")]
    shown = f"{found[0]} MB, {found[len(found) // 2]} MB, {found[-1]} MB"
    return [row("memory after 1000, 6000 and 10,000 steps", shown, *[""] * 6, "flat")]


def ratio(ours: Sequence[float], reference: Sequence[float]) -> str:
    """Return the median of the ratios of neighbours, which a slow minute hits alike."""
    return f"{median(a / b for a, b in zip(ours, reference, strict=True)):.2f}"


def spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f} × {len(seconds)})"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


CASES = {
    "train": default_training,
    "digits": partial(training_phase, "digits", "default job (digits)", goal=1.02),
    "mlp": partial(training_phase, "mlp", "small MLP, 55,000 images 28×28, batch 128", goal=1.02),
    "wide": partial(training_phase, "wide", "digits, network twice as wide", goal=1.02),
    "slow": partial(training_phase, "slow", "the network of the digits, 5,000 images 28×28", goal=1.02),
    "folder": partial(training_phase, "folder", "JPEG files in folders, 2 workers", goal=1.02),
    "start": start_up,
    "memory": memory,
}


def main() -> None:
    begin, load = time.perf_counter(), os.getloadavg()[0]
    chosen = sys.argv[1:] or list(CASES)
    if unknown := set(chosen) - CASES.keys():
        sys.exit(f"no case {', '.join(unknown)}; choose from {', '.join(CASES)}")
    references = "Lightning's bare loop", "by hand, the project's settings", "by hand, PyTorch's defaults"
    titles = [title for reference in references for title in (reference, "ratio")]
    print(row("measured", "generated project", *titles, "goal"), row(*["---"] * 9), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        project, rendering = render(Path(folder))
        print(row("rendering the default project, in process", spread(rendering), *[""] * 6, "< 0.2 s"))
        for case in chosen:
            print(*CASES[case](project), sep="\n", flush=True)
    print(f"\nMedian (lowest–highest × repeats), taken in turn; {time.strftime('%Y-%m-%d')}.")
    print(f"{machine()}, load before {load:.1f}, after {os.getloadavg()[0]:.1f}.")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES) + ".")
    print(f"{time.perf_counter() - begin:.0f} s in all.")


if __name__ == "__main__":
    main()

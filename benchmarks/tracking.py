"""What tracking adds to the default job: seconds at the start, per 1000 steps, for the test and at the end.

    python benchmarks/tracking.py [repetitions]

"nothing" is the same training without any logger or dashboard; the W&B server is the one of the tests.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from wandb_server import WandbServer  # noqa: E402

# Runs in the generated project: train.py with a clock, the first argument says whether anything is tracked.
JOB = """
import contextlib, json, sys, time
from pathlib import Path
from train import DataModule, Model, Training

tracked = sys.argv.pop(1) == "tracked"
cli = Training(Model, DataModule, Path.cwd())
trainer = cli.trainer
if not tracked:
    shown = "Monitor", "TestPictures"
    trainer.callbacks = [each for each in trainer.callbacks if type(each).__name__ not in shown]
clock = [time.perf_counter()]
with cli.recorded() if tracked else contextlib.nullcontext():
    clock.append(time.perf_counter())
    trainer.fit(cli.model, cli.datamodule)
    clock.append(time.perf_counter())
    trainer.test(cli.model, cli.datamodule, verbose=False)
    clock.append(time.perf_counter())
clock.append(time.perf_counter())
start, fit, test, end = (after - before for before, after in zip(clock, clock[1:]))
print(json.dumps({"start": start, "1000 steps": fit / trainer.global_step * 1000, "test": test, "end": end}))
"""


def measure(project: Path, tracked: bool, *flags: str, **variables: str) -> dict[str, float]:
    """Train once; return the seconds of each phase."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", JOB, "tracked" if tracked else "bare", *flags],
        cwd=project,
        env=environment | {"OMP_NUM_THREADS": "1", "HOME": str(project)} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, WandbServer() as server:
        project = Path(
            cookiecutter(str(ROOT), no_input=True, default_config=True, output_dir=folder, accept_hooks=False)
        )
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
        for _ in range(repetitions):
            runs = {
                "nothing": measure(project, False, "--trainer.logger", "false"),
                "metrics.csv": measure(project, True, "--trainer.logger", "false"),
                "W&B offline": measure(project, True, WANDB_MODE="offline"),
                "W&B online": measure(project, True, **online),
            }
            for name, seconds in runs.items():
                results.setdefault(name, []).append(seconds)
    phases = list(results["nothing"][0])
    print(
        f"{'seconds (fastest of ' + str(repetitions) + ')':24}" + "".join(f"{phase:>12}" for phase in phases)
    )
    for name, seconds in results.items():
        fastest = [min(each[phase] for each in seconds) for phase in phases]
        print(f"{name:24}" + "".join(f"{time:12.2f}" for time in fastest))


if __name__ == "__main__":
    main()

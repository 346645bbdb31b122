"""What it costs that two processes agree on stopping and saving: `python benchmarks/processes.py [REPEATS]`.

The blank project's default job on two processes of one thread each, in turn with a question at each step and
with one about each second, as harness/agreement.py does it. A step is timed from the hundredth to the last.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parent.parent
REPEATS = int(sys.argv[1]) if sys.argv[1:] else 3
SCRIPT = """
import os, sys
sys.path.insert(0, ".")
import train
from my_project.harness import agreement

agreement.SECONDS = float(os.environ["SECONDS_BETWEEN"])
train.main()
"""
FLAGS = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"),
    *("--trainer.max_epochs", "60", "--early_stopping.patience", "60", "--data.batch_size", "8"),
    *("--trainer.callbacks+=callbacks.Steps", "--trainer.enable_progress_bar", "false"),
]


def step(project: Path, seconds: float) -> float:
    """Train with a question after so many seconds; return µs a step."""
    variables = {
        "SECONDS_BETWEEN": str(seconds),
        "PYTHONPATH": str(ROOT / "benchmarks"),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "disabled",
    }
    done = subprocess.run(
        [sys.executable, "asked.py", *FLAGS],
        cwd=project,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return float(re.search(r"^step (\S+)", done.stdout, re.MULTILINE)[1])


def main() -> None:
    """Print µs a step of both, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        answers = {"project": "my-project", "task": "blank"}
        project = cookiecutter(
            str(ROOT), no_input=True, default_config=True, output_dir=folder, extra_context=answers
        )
        Path(project, "asked.py").write_text(SCRIPT, encoding="utf-8")
        pairs = [(step(Path(project), 0.0), step(Path(project), 1.0)) for _ in range(REPEATS)]
    each = statistics.median(pair[0] for pair in pairs)
    second = statistics.median(pair[1] for pair in pairs)
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    print("| a question | µs a step | ratio |\n| --- | --- | --- |")
    print(f"| at each step | {each:.0f} | 1 |\n| about each second | {second:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

"""Seconds from the start of a process to its first step, and memory, on files as large as people have them.

`python benchmarks/start.py [CASE...]` writes the files of each case into a temporary folder, trains on them
twice, continues, evaluates, and prints a table beside the data that the project comes with. Files are in the
system's memory when they are read, since they were written just before.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars
from PIL import Image
from tasks import project

# A callback of the run, in a file of its own: it notes in RESULT when the first batch comes, and the memory.
WATCH = """
import json, os, time
from pathlib import Path
from lightning import Callback

class Watch(Callback):
    def note(self, *arguments):
        seconds = time.time() - float(os.environ["START"])
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak = int(status["VmHWM"].split()[0]) / 1024
        file = Path(os.environ["RESULT"])
        if not file.exists():
            file.write_text(json.dumps({"seconds": seconds, "megabytes": peak}))

    on_train_batch_start = on_test_batch_start = note
"""
SHORT = [
    "--trainer.callbacks+=watch.Watch",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.logger=false",
]
ROWS = 1_000_000


def photos(folder: Path) -> list[str]:
    """Write 20,000 JPEGs of 500×375 in ten classes, as photos take up space."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (16, 12, 16, 3), dtype=np.uint8)
    images = []
    for pixels in coarse:
        image = Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC)
        noise = random.integers(-12, 13, (375, 500, 3))
        noisy = (np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8)
        images.append(Image.fromarray(noisy))
    first = []
    for place, image in enumerate(images):
        first.append(folder / f"{place}.jpg")
        image.save(first[-1], quality=85)
    contents = [file.read_bytes() for file in first]
    for file in first:
        file.unlink()
    for label in range(10):
        (folder / "photos" / f"class{label}").mkdir(parents=True)
    for number in range(20_000):
        file = folder / "photos" / f"class{number % 10}" / f"{number}.jpg"
        file.write_bytes(contents[number % len(contents)])
    return ["--data.path", str(folder / "photos")]


def table() -> polars.DataFrame:
    """Return a table of 20 columns of numbers and 3 of texts, and a label."""
    random = np.random.default_rng(0)
    columns: dict = {}
    for number in range(20):
        columns[f"x{number}"] = random.normal(size=ROWS).round(4)
    for number, count in enumerate([5, 50, 500]):
        names = np.array([f"name {place}" for place in range(count)])
        columns[f"c{number}"] = names[random.integers(count, size=ROWS)]
    columns["label"] = np.where(columns["x0"] + columns["x1"] > 0, "yes", "no")
    return polars.DataFrame(columns)


def csv(folder: Path) -> list[str]:
    """Write the table as CSV."""
    table().write_csv(folder / "table.csv")
    return ["--data.path", str(folder / "table.csv")]


def parquet(folder: Path) -> list[str]:
    """Write the table as Parquet."""
    table().write_parquet(folder / "table.parquet")
    return ["--data.path", str(folder / "table.parquet")]


def texts(folder: Path) -> list[str]:
    """Write texts of 100 characters with a label."""
    random = np.random.default_rng(0)
    letters = random.integers(97, 123, (ROWS, 100)).astype(np.uint8)
    letters[:, 9::10] = 32
    lines = letters.view("S100").ravel().astype(str)
    labels = np.where(random.integers(2, size=ROWS) > 0, "yes", "no")
    polars.DataFrame({"text": lines, "label": labels}).write_csv(folder / "texts.csv")
    return ["--data.path", str(folder / "texts.csv")]


# Name: task, what writes the files, seconds to reach on two cores.
CASES: dict[str, tuple[str, Callable, float]] = {
    "photos": ("image", photos, 6),
    "csv": ("tabular", csv, 7),
    "parquet": ("tabular", parquet, 6),
    "texts": ("text", texts, 6),
}


def measure(folder: Path, script: str, *flags: str) -> dict[str, float]:
    """Run a script of a project; return seconds until its first step, and the peak memory until then."""
    result = Path(tempfile.mkdtemp()) / "result.json"
    environment = {**os.environ, "RESULT": str(result), "START": str(time.time()), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, script, *flags],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(result.read_text())


def run_case(name: str, repeats: int = 3) -> None:
    """Print a row for each way to start."""
    task, write, goal = CASES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = project(task, Path(temporary))
        (folder / "watch.py").write_text(WATCH)
        flags = write(Path(temporary))
        steps = ["--trainer.max_steps", "2"]
        embedded = []
        first = []
        for _ in range(repeats):
            embedded.append(measure(folder, "train.py", *steps, *SHORT))
            first.append(measure(folder, "train.py", *flags, *steps, *SHORT))
        run = str(max((folder / "runs").glob("2*"), key=lambda path: path.stat().st_mtime))
        resumed = []
        evaluated = []
        for number in range(repeats):
            longer = ["--trainer.max_steps", str(4 + 2 * number), "--trainer.limit_val_batches", "1"]
            resumed.append(measure(folder, "train.py", "--resume", run, *longer))
            evaluated.append(measure(folder, "evaluate.py", run))
        for way, found in [
            ("its own data", embedded),
            ("these files", first),
            ("--resume", resumed),
            ("evaluate.py", evaluated),
        ]:
            seconds = [one["seconds"] for one in found]
            peak = max(one["megabytes"] for one in found)
            reference = statistics.median(one["seconds"] for one in embedded)
            middle = statistics.median(seconds)
            spread = f"{min(seconds):.1f}–{max(seconds):.1f} × {len(seconds)}"
            ratio = f"{middle / reference:.2f}"
            print(f"| {name} | {way} | {middle:.1f} s ({spread}) | {ratio} | {peak:.0f} MB | {goal} s |")


def main() -> None:
    """Print a table of all cases, or of those that are named."""
    print("| files | start | seconds to the first step | ratio | peak memory | goal |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in sys.argv[1:] or CASES:
        run_case(name)


if __name__ == "__main__":
    main()

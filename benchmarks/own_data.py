"""Train on a folder of many small images: seconds to the first step, and whether memory stays flat.

`python benchmarks/own_data.py [IMAGES]` makes IMAGES files (default 100,000) and trains for 300 steps.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tasks import project

WATCH = """
import os, sys, time
sys.path.insert(0, ".")
from lightning import Callback, Trainer
import train

def memory(pid="self"):
    fields = dict(line.split(":") for line in open(f"/proc/{pid}/smaps_rollup").read().splitlines()[1:])
    return int(fields["Pss"].split()[0]) / 1024

class Watch(Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step in (0, 50, 150, 299):
            children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
            others = [round(memory(pid)) for pid in children]
            seconds = time.time() - START
            print(f"step {trainer.global_step}: {seconds:.0f} s, {memory():.0f} MB, {others} MB", flush=True)

START = float(os.environ["START"])
init = Trainer.__init__
def watched(self, *args, **kwargs):
    kwargs["callbacks"] = [*kwargs["callbacks"], Watch()]
    init(self, *args, **kwargs)
Trainer.__init__ = watched
train.main()
"""


def write(folder: Path, count: int) -> int:
    """Write images of 32×32 pixels in ten classes, and return their bytes together as pixels."""
    random = np.random.default_rng(0)
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
    for i in range(count):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 10}" / f"{i}.png", compress_level=0)
    return count * 32 * 32 * 3


def main() -> None:
    """Print seconds and memory at a few steps, as the training process measures them."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        pixels = write(Path(folder, "images"), count)
        print(f"{count} images, {pixels / 2**20:.0f} MB of pixels", flush=True)
        place = project("image", Path(folder))
        (place / "watched.py").write_text(WATCH, encoding="utf-8")
        limits = "--trainer.max_steps 300 --trainer.limit_val_batches 2 --trainer.limit_test_batches 2"
        command = [sys.executable, "watched.py", "--data.path", f"{folder}/images", "--model.width", "4"]
        settings = {"WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore", "START": str(time.time())}
        subprocess.run([*command, *limits.split()], cwd=place, env=os.environ | settings, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"peak of the largest process, shared pages included: {peak:.0f} MB")


if __name__ == "__main__":
    main()

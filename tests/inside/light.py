"""Stands in for train.py where a test is about the search alone: it leaves what a run leaves, at once.

It has `epochs` values of val/loss, which fall to x², and takes `seconds` for each.
"""

import os
import sys
import time
from pathlib import Path

import yaml
from filelock import FileLock

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
if sys.argv[1] == "--resume":
    run = Path(sys.argv[2])
    flags = yaml.safe_load((run / "config.yaml").read_text())["flags"]
else:
    run = Path(__file__).parent / "runs" / os.environ["WANDB_RUN_ID"]
run.mkdir(parents=True, exist_ok=True)
with FileLock(run / ".lock", timeout=5):
    settings = {"checkpoint": {"monitor": "val/loss", "mode": "min"}, "flags": flags}
    settings["threads"] = os.environ.get("OMP_NUM_THREADS")
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    with (run / "starts").open("a") as file:
        print(" ".join(sys.argv[1:2]), file=file)
    x = float(flags["x"])
    if x > 100:
        sys.exit(f"error: x is too large ({x})")
    metrics = run / "metrics.csv"
    done = metrics.read_text().count("\n") if metrics.exists() else 0
    for epoch in range(done, int(flags.get("epochs", 1))):
        time.sleep(float(flags.get("seconds", 0)))
        with metrics.open("a") as file:
            print(f"{epoch},val/loss,{x * x + 1 / (epoch + 1)}", file=file)
    (run / "state.yaml").write_text("finished: true\n")

"""Run the scripts of a generated project for real: without network, account or terminal."""

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

# Where the machine allows it, a process that reaches for the network fails.
OFFLINE = ["unshare", "--map-root-user", "--net", "--"]
if shutil.which("unshare") is None or subprocess.run([*OFFLINE, "true"], capture_output=True).returncode != 0:
    OFFLINE = []
LOOPBACK = ["sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]  # torch.distributed talks to itself

TINY = "--model.width 4 --trainer.max_epochs 1 --trainer.limit_train_batches 4 --trainer.limit_val_batches 2"


@dataclass
class Done:
    """What a command left: its exit code and its output."""

    code: int
    out: str
    err: str


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a user who has just come to the machine, on one thread."""
    hidden = ("WANDB_", "GIT_", "PYTEST_", "COV_", "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def run(
    project: Path, command: str, *, home: Path, threads: int = 1, network: bool = False, timeout: int = 240
) -> Done:
    """Run `command`, which begins with the name of a script, in the folder of a project."""
    wall = [] if network or not OFFLINE else [*OFFLINE, *LOOPBACK]
    done = subprocess.run(
        [*wall, sys.executable, *command.split()],
        cwd=project,
        env=environment(home) | {"OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_many(project: Path, commands: list[str], *, home: Path) -> list[Done]:
    """Run commands one after the other in one process, because importing lightning takes seconds."""
    done = subprocess.run(
        [*OFFLINE, sys.executable, __file__, *commands],
        cwd=project,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    return [Done(**json.loads(line)) for line in done.stdout.splitlines()]


def _in_this_process(command: str) -> Done:
    sys.argv = command.split()
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as leaving:  # as Python itself: a text goes to standard error, with exit code 1
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            if isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)
        except BaseException:
            code = 1
            traceback.print_exc()
    return Done(code, out.getvalue(), err.getvalue())


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    for line in sys.argv[1:]:
        print(json.dumps(vars(_in_this_process(line))), flush=True)

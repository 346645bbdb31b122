"""Run the scripts of a generated project for real: without network, account or terminal."""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import logging
import os
import runpy
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

# Where the machine allows it, a process that reaches for the network fails.
OFFLINE = ["unshare", "--map-root-user", "--net", "--"]
if shutil.which("unshare") is None or subprocess.run([*OFFLINE, "true"], capture_output=True).returncode != 0:
    OFFLINE = []
LOOPBACK = ["sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]  # torch.distributed talks to itself

# What takes longest to import, and reads nothing of a user's when it is. Lightning comes before the rest.
PRELOADED = [
    "lightning.pytorch.cli",
    "torchmetrics.classification",
    "sklearn.datasets",
    "sklearn.model_selection",
    "wandb.apis.public",
]
FORKS = sys.platform == "linux"

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
    project: Path,
    command: str | list[str],
    *,
    home: Path,
    network: bool = False,
    timeout: int = 240,
    variables: dict[str, str] | None = None,
) -> Done:
    """Run `command`, which begins with the name of a script or `-m` and a module, in the folder of a project.

    Give a list where a word holds a space. W&B's own commands run in a new Python, all others in a fork
    of one that is warm.
    """
    settings = environment(home) | (variables or {})
    words = command.split() if isinstance(command, str) else command
    if words[:2] != ["-m", "wandb"]:
        return _run_job({"cwd": str(project), "env": settings, "words": words}, network, timeout)[0]
    done = subprocess.run(
        [*wall(network), sys.executable, *words],
        cwd=project,
        env=settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_many(
    project: Path, commands: list[str], *, home: Path, variables: dict[str, str] | None = None
) -> list[Done]:
    """Run commands one after the other in one process, because importing lightning takes seconds."""
    return run_in_turn([(project, command) for command in commands], home=home, variables=variables)


def run_in_turn(
    jobs: list[tuple[Path, str]],
    *,
    home: Path,
    variables: dict[str, str] | None = None,
    timeout: int = 560,
) -> list[Done]:
    """Run a command in each project, one after the other in one process.

    Each command imports its project anew, so projects of the same name do not meet, and files may have
    changed in between. What the libraries hold in memory stays.
    """
    settings = environment(home) | (variables or {})
    in_turn = [(str(project), command) for project, command in jobs]
    done, results = _run_job({"cwd": str(home), "env": settings, "in turn": in_turn}, False, timeout)
    assert done.code == 0, done.err
    return [Done(**json.loads(line)) for line in results.splitlines()]


def wall(network: bool) -> list[str]:
    """Return what goes before a command that must not reach the network."""
    return [] if network or not OFFLINE else [*OFFLINE, *LOOPBACK]


@functools.cache
def _server(network: bool) -> subprocess.Popen:
    """Start a Python that imports lightning once and forks for each job. It ends with this process."""
    home = tempfile.mkdtemp()
    process = subprocess.Popen(
        [*wall(network), sys.executable, __file__],
        env=environment(Path(home)),
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def end():
        process.stdin.close()
        process.wait()
        process.stdout.close()
        shutil.rmtree(home, ignore_errors=True)

    atexit.register(end)
    return process


def _run_job(job: dict, network: bool, timeout: float) -> tuple[Done, str]:
    """Do a job in a process of its own; return what it left and, of many commands, their results."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, name) for name in ("out", "err", "results")}
        for file in files.values():
            file.touch()
        text = json.dumps(job | {"files": list(map(str, files.values()))})
        code = (_in_fork if FORKS else _in_new_python)(text, network, timeout)
        out, err, results = (file.read_bytes().decode() for file in files.values())
        return Done(code, out, err), results


def _in_fork(job: str, network: bool, timeout: float) -> int:
    server = _server(network)
    server.stdin.write(job.encode() + b"\n")
    pid = int(server.stdout.readline())
    late = not select.select([server.stdout], [], [], timeout)[0]
    if late:
        os.kill(pid, signal.SIGKILL)
    code = int(server.stdout.readline())
    if late:
        raise subprocess.TimeoutExpired(job, timeout)
    return code


def _in_new_python(job: str, network: bool, timeout: float) -> int:
    return subprocess.run([*wall(network), sys.executable, __file__, job], timeout=timeout).returncode


def _serve() -> dict:
    """Fork for each job that comes in; return it in the new process."""
    for name in PRELOADED:
        importlib.import_module(name)
    media = Path(importlib.import_module("wandb.sdk.data_types._private").MEDIA_TMP.name)
    gc.freeze()  # or each fork looks at all of it once more as it ends, for a second
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        else:
            media.mkdir(exist_ok=True)  # wandb made it as it was imported; each fork removes it as it ends
            return json.loads(line)
    sys.exit()


def _do(job: dict) -> None:
    """Do a job in this process, which is its own."""
    out, err, results = job["files"]
    for number, file in enumerate([os.devnull, out, err]):
        os.dup2(os.open(file, os.O_RDWR), number)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    if "in turn" in job:
        with Path(results).open("w", encoding="utf-8") as file:
            for project, command in job["in turn"]:
                result = _in_this_process(project, command)
                print(json.dumps(vars(result)), file=file, flush=True)
        return
    sys.argv = job["words"]
    if sys.argv[0] == "-m":
        sys.path[0] = job["cwd"]
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


def _in_this_process(project: str, command: str) -> Done:
    """Run a script as a new Python would; return what it left."""
    os.chdir(project)
    sys.path[0] = project
    sys.argv = command.split()
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                handler.setStream(err)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as leaving:  # as Python itself: a text goes to standard error, with exit code 1
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            if isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)
        except BaseException:
            code = 1
            traceback.print_exc()
    _forget(Path(project))
    return Done(code, out.getvalue(), err.getvalue())


def _forget(project: Path) -> None:
    """Take the modules of a project out of memory, so that the next import reads files."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(project):
            del sys.modules[name]
    importlib.invalidate_caches()


if __name__ == "__main__":
    _do(json.loads(sys.argv[1]) if sys.argv[1:] else _serve())

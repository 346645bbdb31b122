"""Run the scripts of a generated project for real: without network, account or terminal."""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import io
import json
import logging
import multiprocessing.process
import os
import runpy
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

# Where the machine allows it, a process that reaches for the network fails.
OFFLINE = ["unshare", "--map-root-user", "--net", "--"]
if shutil.which("unshare") is None or subprocess.run([*OFFLINE, "true"], capture_output=True).returncode != 0:
    OFFLINE = []
IN_MOUNTS = ["unshare", "--map-root-user", "--mount", "--"]
HAS_MOUNT = (
    sys.platform == "linux" and not subprocess.run([*IN_MOUNTS, "true"], capture_output=True).returncode
)
LOOPBACK = ["sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]  # torch.distributed talks to itself

# What takes longest to import, and reads nothing of a user's when it is. Lightning comes before the rest.
PRELOADED = [
    "lightning.pytorch.cli",
    "torchmetrics.classification",
    "sklearn.datasets",
    "sklearn.model_selection",
    "wandb.apis.public",
    "matplotlib.backends.backend_agg",
    "polars",
    "PIL.Image",
]
FORKS = sys.platform == "linux"

# Whether runs in forks draw their pictures, which takes half of the time of a short one: see `no_pictures`.
PICTURES = True

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
    return kept | {
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "default",
        # W&B would read about all packages at each start, which takes a fifth of the time of a short run.
        "WANDB__SAVE_REQUIREMENTS": "false",
    }


def run(
    project: Path,
    command: str | list[str],
    *,
    home: Path,
    network: bool = False,
    timeout: int = 240,
    variables: dict[str, str] | None = None,
    disk: tuple[str, str] | None = None,
    ranks: bool = FORKS,
) -> Done:
    """Run `command`, which begins with the name of a script or `-m` and a module, in the folder of a project.

    Give a list where a word holds a space. W&B's own commands run in a new Python, all others in a fork
    of one that is warm. `disk` is a folder that is an empty disk for the command, and its size; it needs
    HAS_MOUNT. With `ranks` the second process that Lightning starts is such a fork, too.
    """
    settings = environment(home) | (variables or {})
    words = command.split() if isinstance(command, str) else command
    if words[:2] != ["-m", "wandb"]:
        job = {"cwd": str(project), "env": settings, "words": words, "disk": disk, "ranks": ranks}
        return _run_job(job, network, timeout)[0]
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


class Started:
    """A command that runs in a fork, in a process group of its own; to be used as a subprocess.Popen."""

    def __init__(self, job: dict):
        with tempfile.TemporaryDirectory() as folder:
            pipes = [str(Path(folder, name)) for name in ("output", "end")]
            ends = []
            for pipe in pipes:
                os.mkfifo(pipe)
                ends.append(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
            _, self.pid = _begin(job | {"pipes": pipes})
        for end in ends:
            os.set_blocking(end, True)
        self.stdout = os.fdopen(ends[0], encoding="utf-8")
        self.end = os.fdopen(ends[1])
        self.args = job["words"]
        self.returncode: int | None = None
        self.output = b""

    def __del__(self):
        self.stdout.close()
        self.end.close()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self.end.readline())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Return its output once all that it has started has ended."""
        over = time.monotonic() + (timeout or 1e6)
        while not self.stdout.closed:
            left = max(over - time.monotonic(), 0)
            if not select.select([self.stdout], [], [], left)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            more = os.read(self.stdout.fileno(), 2**16)
            self.output += more
            if not more:
                self.stdout.close()
        self.wait(max(over - time.monotonic(), 1))
        self.end.close()
        return self.output.decode(), None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start(
    project: Path, home: Path, command: str, variables: dict[str, str] | None = None
) -> Started | subprocess.Popen:
    """Start a command in a fork, which is in a process group of its own; the network is there.

    So a signal reaches it and all that it starts. Its errors are among its output.
    """
    if not FORKS:
        return start_python(project, home, command, variables)
    settings = environment(home) | (variables or {})
    return Started({"cwd": str(project), "env": settings, "words": command.split(), "ranks": True})


def start_python(
    project: Path, home: Path, command: str, variables: dict[str, str] | None = None
) -> subprocess.Popen:
    """Start a command in a new Python, and otherwise as `start` does."""
    return subprocess.Popen(
        [sys.executable, *command.split()],
        cwd=project,
        env=environment(home) | (variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@functools.cache
def _server() -> subprocess.Popen:
    """Start a Python that imports lightning once and forks for each job. It ends with this process."""
    home = tempfile.mkdtemp()
    process = subprocess.Popen(
        [sys.executable, __file__],
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
        job = job | {"files": list(map(str, files.values())), "wall": FORKS and not network}
        code = _in_fork(job, timeout) if FORKS else _in_new_python(job, network, timeout)
        out, err, results = (file.read_bytes().decode() for file in files.values())
        return Done(code, out, err), results


def _begin(job: dict) -> tuple[subprocess.Popen, int]:
    """Begin a job in a fork; return the server and the new process."""
    server = _server()
    server.stdin.write(json.dumps(job | {"pictures": PICTURES}).encode() + b"\n")
    return server, int(server.stdout.readline())


def _in_fork(job: dict, timeout: float) -> int:
    server, pid = _begin(job)
    late = not select.select([server.stdout], [], [], timeout)[0]
    if late:
        os.kill(pid, signal.SIGKILL)
    code = int(server.stdout.readline())
    if late:
        raise subprocess.TimeoutExpired(str(job), timeout)
    return code


def _in_new_python(job: dict, network: bool, timeout: float) -> int:
    command = [*wall(network), sys.executable, __file__, json.dumps(job)]
    return subprocess.run(command, timeout=timeout).returncode


def _serve() -> dict:
    """Fork for each job that comes in; return it in the new process."""
    for name in PRELOADED:
        importlib.import_module(name)
    # wandb made this folder as it was imported, and each fork would remove it as it ends, from under others.
    media = importlib.import_module("wandb.sdk.data_types._private").MEDIA_TMP
    atexit.unregister(media.cleanup)
    media.cleanup()
    Path(media.name).mkdir()
    gc.freeze()  # or each fork looks at all of it once more as it ends, for a second
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0 and "pipes" in job:
            pid = _keep(job)
        if pid == 0:
            return job
        if "pipes" not in job:
            print(pid, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    shutil.rmtree(media.name)
    sys.exit()


def _keep(job: dict) -> int:
    """Fork once more: return 0 in the new process, and in this one wait for its end and report it."""
    output, end = (os.open(pipe, os.O_WRONLY) for pipe in job["pipes"])
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(end)
        print(os.getpid(), flush=True)
        job["files"] = [output, output]
        return 0
    os.close(output)
    os.close(0)
    os.close(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(end, f"{code}\n".encode())
    os._exit(0)


def _do(job: dict) -> None:
    """Do a job in this process, which is its own."""
    out, err, *results = job["files"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate([out, err], start=1):
        os.dup2(file if isinstance(file, int) else os.open(file, os.O_RDWR), number)
    os.chdir(job["cwd"])
    multiprocessing.process.ORIGINAL_DIR = job["cwd"]  # where a process that is spawned looks for the script
    _enter(job.get("wall", False) and bool(OFFLINE), job.get("disk"))
    if not job.get("pictures", True):
        figures = importlib.import_module("matplotlib.figure")
        figures.Figure.savefig = _save_nothing
    if job.get("ranks"):
        job |= _second_process()
    os.environ.clear()
    os.environ.update(job["env"])
    if "in turn" in job:
        with Path(results[0]).open("w", encoding="utf-8") as file:
            for project, command in job["in turn"]:
                result = _in_this_process(project, command)
                print(json.dumps(vars(result)), file=file, flush=True)
        return
    sys.argv = job["words"]
    if sys.argv[0] == "-m":
        sys.path[0] = job["cwd"]
        del sys.argv[0]
        if sys.argv[0] == "pytest":
            # Of a plugin that this Python has imported already, as a new one would not have.
            sys.argv += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


def _save_nothing(figure, path: Path) -> None:
    """Make the file of a picture, but do not draw it."""
    path.touch()


def _second_process() -> dict:
    """Fork a process that waits for what Lightning starts as its second one, and let it start that.

    Returns:
        In the second process what it has to do, in the first nothing.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        group = os.getpgrp()
        os.setpgid(0, 0)  # what waits gets no signal
        with os.fdopen(read) as pipe:
            told = pipe.read()
        if not told:  # the first one has ended
            os._exit(0)
        os.setpgid(0, group)
        return json.loads(told)
    os.close(read)
    launcher = importlib.import_module("lightning.pytorch.strategies.launchers.subprocess_script")
    launcher.subprocess = SimpleNamespace(Popen=functools.partial(Second, pid, write))
    return {}


class Second:
    """The second process of a run; used as a subprocess.Popen."""

    def __init__(self, pid: int, write: int, command: list[str], *, env: dict[str, str], cwd: None):
        assert command[0] == sys.executable
        self.pid = pid
        self.returncode: int | None = None
        with os.fdopen(write, "w") as pipe:
            json.dump({"env": env, "words": command[1:]}, pipe)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _enter(wall: bool, disk: list[str] | None) -> None:
    """Do what `unshare --map-root-user` does: give this process a network without others, a small disk."""
    if not wall and not disk:
        return
    user, group = os.getuid(), os.getgid()
    new_user, new_net, new_mounts = 0x10000000, 0x40000000, 0x00020000  # as in sched.h
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_user | (new_net if wall else 0) | (new_mounts if disk else 0)) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if wall:
        subprocess.run([*LOOPBACK, "true"], check=True)
    if disk:
        folder, size = disk
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


def _in_this_process(project: str, command: str) -> Done:
    """Run a script as a new Python would; return what it left."""
    os.chdir(project)
    sys.path[0] = project
    sys.argv = shlex.split(command)
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

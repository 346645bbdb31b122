"""Faults are injected into real runs: each ends in one clear line, and what was trained is kept."""

import hashlib
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch
from chaos import JOB, equal, result, save_often, trained, wait_for_training
from project import HAS_MOUNT, Done, run, run_many, start, start_python
from test_command_line import Hostile

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    """Return a project that saves as often as it has time for, not every 30 seconds."""
    folder = bake(accept_hooks=False)
    save_often(folder)
    return folder


@pytest.fixture(scope="module")
def unharmed(project, home) -> dict:
    """Return the result of the job that was never stopped."""
    done = run(project, f"train.py {JOB} --trainer.default_root_dir unharmed", home=home)
    assert done.code == 0, done.err
    return result(trained(project / "unharmed"))


@pytest.fixture(scope="module")
def stopped(project, home) -> tuple[Path, str]:
    """Return the run that SIGTERM stopped while it trained, and what it printed."""
    process = start(project, home, f"train.py {JOB} --trainer.default_root_dir stopped")
    wait_for_an_epoch(process, project / "stopped")
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    return trained(project / "stopped"), output


def wait_for_an_epoch(process: subprocess.Popen, root: Path) -> None:
    """Return when the only run in a folder has its first best checkpoint."""
    while process.poll() is None and not list(root.glob("*/checkpoints/best.ckpt")):
        time.sleep(0.02)


@pytest.fixture
def copy(stopped):
    """Return the stopped run's folder, in its first state."""
    folder = stopped[0]
    first = folder.with_name("first-state")
    if not first.exists():
        shutil.copytree(folder, first)
    shutil.rmtree(folder)
    shutil.copytree(first, folder)
    return folder


def error(done: Done) -> str:
    """Return the one line of an error."""
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return line


def files(folder: Path) -> dict[str, str]:
    """Return a checksum of each file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_sigterm_ends_with_a_checkpoint_143_and_the_command_to_go_on(stopped, project, home, unharmed):
    folder, output = stopped
    assert "Traceback" not in output
    (command,) = re.findall(r"continue: python (train\.py --resume \S+)", output)
    step = int(re.search(r"stopped at step (\d+)", output)[1])
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    shutil.copytree(folder, folder.with_name("first-state"))
    done = run(project, command, home=home)
    assert done.code == 0, done.err
    assert equal(result(folder), unharmed)


def test_ctrl_c_ends_with_a_checkpoint_and_130_and_takes_the_workers_along(project, home):
    process = start(project, home, f"train.py {JOB} --data.num_workers 2 --trainer.default_root_dir workers")
    wait_for_an_epoch(process, project / "workers")
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "continue: python train.py --resume workers/" in output
    with pytest.raises(ProcessLookupError):  # the group is empty
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_ctrl_c_while_lightning_sets_up_ends_with_130(bake, home, stage):
    """Lightning would make a KeyboardInterrupt of it, and of that exit code 1."""
    project = bake(accept_hooks=False)
    data = project / "my_project" / "data.py"
    before = "    def setup(self, stage: str) -> None:\n"
    text = data.read_text()
    assert text.count(before) == 1
    interrupt = f"        if stage == '{stage}':\n            signal.raise_signal(signal.SIGINT)\n"
    documented = re.sub(rf'({re.escape(before)}        """.*"""\n)', rf"\1{interrupt}", text)
    data.write_text("import signal\n" + documented)
    done = run(project, f"train.py {JOB} --trainer.max_epochs 1", home=home)
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert ("continue: python train.py --resume runs/" in done.err) == (stage == "test")
    assert (project / "runs").exists() == (stage == "test")


def test_ctrl_c_during_the_imports_prints_no_traceback(bake, home):
    project = bake(accept_hooks=False)
    (project / "wandb.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    process = start_python(project, home, "train.py")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGINT  # 130 in a shell
    assert output == ""


def test_a_second_ctrl_c_acts_at_once(bake, home):
    project = bake(accept_hooks=False)
    model = project / "my_project" / "model.py"
    step = "        loss, _ = self._step(batch, self.train_metrics)\n"
    assert step in model.read_text()
    model.write_text("import time\n" + model.read_text().replace(step, f"{step}        time.sleep(60)\n"))
    process = start(project, home, f"train.py {JOB} --trainer.num_sanity_val_steps 0")
    wait_for_training(process, project / "runs")
    time.sleep(2)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None, "the first one waits for the step"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT  # 130 in a shell
    assert time.monotonic() - began < 10


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(copy, project, home, unharmed):
    truncate(copy / "checkpoints" / "last.ckpt")
    (done,) = run_many(project, [f"train.py --resume {copy}"], home=home)
    assert done.code == 0, done.err
    assert "last.ckpt is damaged" in done.err
    assert "previous.ckpt is used" in done.err
    assert equal(result(copy), unharmed)


def test_every_kind_of_damage_is_noticed(copy, project, home, tmp_path):
    whole = (copy / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "other").write_text("not a checkpoint")
    with zipfile.ZipFile(tmp_path / "whole") as archive:
        records = [record for record in archive.infolist() if "/data/" in record.filename]
    draw = random.Random(0)
    for number in range(60):
        (tmp_path / f"cut-{number}").write_bytes(whole[: draw.randrange(len(whole))])
        record, flipped = draw.choice(records), bytearray(whole)
        name, extra = struct.unpack_from("<HH", whole, record.header_offset + 26)  # their lengths
        place = record.header_offset + 30 + name + extra + draw.randrange(record.file_size)
        flipped[place] ^= 1 << draw.randrange(8)
        (tmp_path / f"flipped-{number}").write_bytes(flipped)
    script = tmp_path / "check.py"
    script.write_text(
        "import pathlib, sys; sys.path.insert(0, '.')\n"
        "from my_project.harness.checkpoints import is_whole\n"
        f"print(*sorted(p.name for p in pathlib.Path({str(tmp_path)!r}).iterdir() if is_whole(p)))\n"
    )
    assert run(project, str(script), home=home).out.split() == ["whole"]


def test_two_damaged_checkpoints_are_refused_and_left_alone(copy, project, home):
    for name in ("last", "previous"):
        truncate(copy / "checkpoints" / f"{name}.ckpt")
    before = files(copy)
    line = error(run_many(project, [f"train.py --resume {copy}"], home=home)[0])
    assert "last.ckpt and " in line
    assert "start a new run with the same settings: --config" in line
    assert files(copy) == before


# A changed setting, and what the one line says of it.
REFUSED = {
    "--model.lr 0.1": ["--model.lr is 0.003 in", "cannot change it (got 0.1)", "--model.init_from stopped/"],
    "--model.width 8": ["--model.width is 4 in", "(got 8)"],
    "--data.split_seed 1": ["--data.split_seed is 0 in", "(got 1)"],
    "--data.batch_size 8": ["--data.batch_size is 16 in", "(got 8)"],
    "--seed_everything 7": ["--seed_everything is 0 in", "(got 7)"],
    "--trainer.gradient_clip_val 1": ["--trainer.gradient_clip_val is None in", "(got 1)"],
    "--checkpoint.monitor val/acc": ["--checkpoint.monitor is val/loss in", "(got val/acc)"],
    "--trainer.callbacks+=Timer": ["--trainer.callbacks is None in"],
}
ALLOWED = "--early_stopping.patience 98 --stuck_after 99 --data.num_workers 1 --tracking.notes x"


def test_another_training_is_refused_and_does_no_harm(copy, project, home, unharmed):
    resume = f"train.py --resume {copy}"
    before = files(copy)
    recorded = files(copy.parent / "wandb")
    refused = run_many(project, [f"{resume} {flag}" for flag in REFUSED], home=home)
    for done, words in zip(refused, REFUSED.values(), strict=True):
        assert all(word in error(done) for word in words), done.err
    assert files(copy) == before
    assert files(copy.parent / "wandb") == recorded
    (done,) = run_many(project, [f"{resume} {ALLOWED}"], home=home)
    assert done.code == 0, done.err
    assert "stuck_after: 99" in (copy / "config.yaml").read_text()
    assert equal(result(copy), unharmed)


CHANGED_DATA = {
    "other images": "return pixels[:, None] // 2, list(map(str, found.target))",
    "fewer images": "return pixels[:1700, None], list(map(str, found.target))[:1700]",
}


@pytest.mark.parametrize("name", CHANGED_DATA)
def test_other_data_are_refused(copy, project, home, name):
    """The settings are those of the run, but what they name is not."""
    data = project / "my_project" / "data.py"
    text = data.read_text()
    there = "return pixels[:, None], list(map(str, found.target))"
    assert there in text
    before = files(copy)
    data.write_text(text.replace(there, CHANGED_DATA[name]))
    (done,) = run_many(project, [f"train.py --resume {copy}"], home=home)
    data.write_text(text)
    assert re.search("the data, their split, or the code|the data or their split changed", error(done))
    assert files(copy) == before


def test_another_number_of_processes_is_refused(copy, project, home):
    flags = "--trainer.devices 2 --trainer.strategy ddp"
    done = run(project, f"train.py --resume {copy} {flags}", home=home, network=True, timeout=120)
    assert done.code == 1
    line = "this run was started with 1 process(es); resume it with --trainer.devices 1 (got 2)"
    assert line in done.err
    assert "Traceback" not in done.err


def test_a_hostile_checkpoint_is_refused(copy, project, home):
    last = copy / "checkpoints" / "last.ckpt"
    torch.save(torch.load(last, weights_only=True) | {"more": Hostile()}, last)
    line = error(run_many(project, [f"train.py --resume {copy}"], home=home)[0])
    assert "more than plain values" in line
    assert not (project / "pwned").exists()


def test_a_second_process_is_refused(project, home, copy):
    holder = (
        "import sys, time, pathlib; sys.path.insert(0, '.')\n"
        "from my_project.harness.folder import RunFolder\n"
        f"folder = RunFolder(pathlib.Path({str(copy)!r})); folder.claim()\n"
        "print('locked', flush=True); time.sleep(60)\n"
    )
    (project / "holder.py").write_text(holder)
    process = start(project, home, "holder.py")
    assert process.stdout.readline() == "locked\n"
    before = files(copy)
    refused = run_many(project, [f"train.py --resume {copy}"], home=home)[0]
    assert "another process is training" in error(refused)
    assert files(copy) == before
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    done = run_many(project, [f"train.py --resume {copy}"], home=home)[0]
    assert done.code == 0, f"a killed process leaves no lock behind\n{done.err}"


# Trains while the disk fills up, then goes on when there is room; each of them in a process of its own.
FILLS_UP = """
import os
import runpy
import shutil
import sys
import time
from pathlib import Path


def start(*words):
    pid = os.fork()
    if pid == 0:
        sys.argv = ["train.py", *words]
        runpy.run_path("train.py", run_name="__main__")
        sys.exit()
    return pid


def code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


first = start(*sys.argv[1:])
while not list(Path("small").glob("*/checkpoints/previous.ckpt")):
    time.sleep(0.02)
try:
    with Path("small/filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
except OSError:
    pass
print("first", code(first))
Path("small/filler").unlink()
(run,) = Path("small").glob("20*")
print("second", code(start("--resume", str(run))))
shutil.copytree("small", "full")
"""
UNTRACKED = {"WANDB_MODE": "disabled"}


@pytest.mark.skipif(not HAS_MOUNT, reason="needs to mount a small disk")
def test_too_little_disk_for_two_checkpoints_is_refused(project, home):
    (project / "small").mkdir(exist_ok=True)
    command = f"train.py {JOB} --model.width 64 --trainer.default_root_dir small"
    done = run(project, command, home=home, variables=UNTRACKED, disk=("small", "2m"))
    assert re.search(r"\d MB are free in .*, but two checkpoints need \d+ MB", error(done))


@pytest.mark.skipif(not HAS_MOUNT, reason="needs to mount a small disk")
def test_a_disk_that_fills_up_keeps_the_checkpoint_and_the_run_goes_on_when_there_is_room(
    project, home, unharmed
):
    (project / "small").mkdir(exist_ok=True)
    (project / "fills_up.py").write_text(FILLS_UP)
    command = f"fills_up.py {JOB} --trainer.default_root_dir small"
    done = run(project, command, home=home, variables=UNTRACKED, disk=("small", "1m"))
    assert "first 1" in done.out, done.err
    assert "second 0" in done.out, done.err
    assert "Traceback" not in done.err
    assert re.search(r"error: (cannot write .* 0 MB are free|the disk( of .*)? is full)", done.err), done.err
    assert equal(result(trained(project / "full")), unharmed)


def test_nan_never_overwrites_a_good_checkpoint_and_its_operation_is_found(bake, home):
    project = bake(accept_hooks=False)
    model = project / "my_project" / "model.py"
    mean, spoilt = "return losses.mean(), scores", "losses = losses * (-losses[0].detach()).log()\n"
    changed = f"if self.global_step == 40:\n            {spoilt}        {mean}"
    assert mean in model.read_text()
    model.write_text(model.read_text().replace(mean, changed))
    (done,) = run_many(project, [f"train.py {JOB}"], home=home)
    line = error(done)
    step = int(re.search(r"not finite at step (\d+)", line)[1])
    assert step > 40
    (command,) = re.findall(r"python (train\.py --resume \S+ --trainer.detect_anomaly true)", line)
    checkpoints = list(project.glob("runs/*/checkpoints/*.ckpt"))
    assert checkpoints
    for path in checkpoints:
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values()), path
    (found,) = run_many(project, [command], home=home)
    assert "MulBackward0" in found.err
    assert "model.py" in found.err


def test_a_run_whose_best_checkpoint_is_gone_uses_the_newest(copy, project, home):
    (copy / "checkpoints" / "best.ckpt").unlink()
    (done,) = run_many(project, [f"evaluate.py {copy}"], home=home)
    assert done.code == 0, done.err
    assert "test/acc" in done.out


def test_rows_of_the_metrics_that_a_power_cut_spoilt_do_not_stop_a_run(copy, project, home, unharmed):
    """Rows after the checkpoint are written again; those before it are lost, and it says so."""
    metrics = copy / "metrics.csv"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + b"99999,val/lo")
    (done,) = run_many(project, [f"train.py --resume {copy}"], home=home)
    assert done.code == 0, done.err
    assert equal(result(copy), unharmed)

    first = copy.with_name("first-state")
    shutil.rmtree(copy)
    shutil.copytree(first, copy)
    metrics.write_bytes(whole[:-5])
    (done,) = run_many(project, [f"train.py --resume {copy}"], home=home)
    assert done.code == 0, done.err
    assert "metrics.csv has lost rows" in done.err
    rows = [line.split(",") for line in metrics.read_text().splitlines()]
    assert all(len(row) == 3 and float(row[2]) is not None for row in rows[1:])
    assert equal(result(copy)["last.ckpt state_dict"], unharmed["last.ckpt state_dict"])


def test_a_run_whose_folder_was_moved_keeps_its_best_checkpoint(project, home):
    """The best is the first here, so a worse one must not take its place."""
    first_is_best = "--checkpoint.mode max --early_stopping.patience 99 --trainer.max_epochs"
    run_many(project, [f"train.py {JOB} --trainer.default_root_dir moving {first_is_best} 3"], home=home)
    folder = trained(project / "moving")
    best = files(folder)["checkpoints/best.ckpt"]
    moved = folder.rename(project / "moved")
    (done,) = run_many(project, [f"train.py --resume {moved} --trainer.max_epochs 5"], home=home)
    assert done.code == 0, done.err
    assert "epoch 4 " in done.err
    assert files(moved)["checkpoints/best.ckpt"] == best


def test_a_new_run_does_not_take_the_folder_of_another(copy, project, home):
    before = files(copy)
    variables = {"WANDB_RUN_ID": copy.name}
    job = f"train.py {JOB} --trainer.default_root_dir stopped"
    (refused,) = run_many(project, [job], home=home, variables=variables)
    assert f"--resume stopped/{copy.name}" in error(refused)
    assert files(copy) == before


def test_ctrl_c_in_a_validation_is_answered_at_once_and_is_not_lost(bake, home):
    project = bake(accept_hooks=False)
    model = project / "my_project" / "model.py"
    step = "        self._step(batch, self.val_metrics)\n"
    assert step in model.read_text()
    last = "(self.trainer.current_epoch, batch_idx) == (2, 0)"
    interrupt = "            signal.raise_signal(2)\n            print('goes on', file=sys.stderr)\n"
    kill = f"        if {last}:\n{interrupt}"
    model.write_text("import signal, sys\n" + model.read_text().replace(step, kill + step))
    done = run(project, f"train.py {JOB} --trainer.max_epochs 3", home=home)
    assert done.code == 130, done.err
    assert re.search(
        r"^stopping: .*\n(.*\n)*goes on\n(.*\n)*stopped at step 18; continue: ", done.err, re.MULTILINE
    )
    model.write_text(model.read_text().replace(kill, ""))
    (again,) = run_many(project, [f"train.py --resume {trained(project / 'runs')}"], home=home)
    assert again.code == 0, again.err
    assert "test/acc" in again.out


# A callback whose state is no plain value: weights_only would not load it, or it cannot be saved at all.
CALLBACK = """
from pathlib import Path
from lightning import Callback

class NotPlain(Callback):
    def state_dict(self):
        return {"path": Path("a")}

class NotSaved(Callback):
    def state_dict(self):
        return {"function": lambda: 1}
"""


@pytest.mark.parametrize("name", ["NotPlain", "NotSaved"])
def test_a_state_that_could_not_be_loaded_is_refused_before_the_first_step(bake, home, name):
    project = bake(accept_hooks=False)
    (project / "spoilt.py").write_text(CALLBACK)
    (done,) = run_many(project, [f"train.py {JOB} --trainer.callbacks spoilt.{name}"], home=home)
    assert re.search("plain values|cannot be saved", error(done))
    assert list(project.glob("runs/*")) == []


# Each step as if the clock stood still but for the saving, which takes the given seconds.
PAUSES = """
import sys
from types import SimpleNamespace
sys.path.insert(0, ".")
from my_project.harness import resume

clock = SimpleNamespace(now=0.0)
resume.time = SimpleNamespace(monotonic=lambda: clock.now)
for seconds in (0.001, 0.5, 10):
    def save(*args, **kwargs):
        clock.now += seconds
    strategy = SimpleNamespace(reduce_boolean_decision=lambda due, all: due)
    trainer = SimpleNamespace(strategy=strategy, save_checkpoint=save)
    signals = SimpleNamespace(received=0)
    folder = SimpleNamespace(path=resume.Path("run"))
    saving = resume.Resume(folder, "", None, signals, None, False)
    saving.save(trainer, 0)
    print(round(saving.next_save - clock.now))
"""


def test_a_run_is_saved_at_most_every_30_seconds_and_at_least_every_10_minutes(bake, home):
    project = bake(accept_hooks=False)
    (project / "pauses.py").write_text(PAUSES)
    done = run(project, "pauses.py", home=home)
    assert done.out.split() == ["30", "100", "600"], done.err


# main() as a notebook calls it, then in a thread.
CALLED = """
import signal, sys, threading
sys.path.insert(0, ".")
import train

def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

before = handlers()
train.main()
print("given back", handlers() == before)
thread = threading.Thread(target=train.main)
thread.start()
thread.join()
"""


def test_a_notebook_gets_its_signals_back_and_a_thread_can_train(bake, home):
    project = bake(accept_hooks=False)
    (project / "called.py").write_text(CALLED)
    done = run(project, f"called.py {JOB} --trainer.max_epochs 1", home=home)
    assert done.code == 0, done.err
    assert "given back True" in done.out
    assert done.out.count("test/acc") == 2
    assert "Traceback" not in done.err


def test_a_checkpoint_from_within_torch_compile_fits(copy, project, home, unharmed):
    """torch.compile(module) puts `_orig_mod.` into the names of its weights."""
    last = copy / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    weights = {}
    for name, value in checkpoint["state_dict"].items():
        weights[name.replace("network.", "network._orig_mod.")] = value
    torch.save(checkpoint | {"state_dict": weights}, last)
    shutil.copy(last, copy / "checkpoints" / "best.ckpt")
    evaluated, resumed = run_many(project, [f"evaluate.py {copy}", f"train.py --resume {copy}"], home=home)
    assert evaluated.code == 0, evaluated.err
    assert resumed.code == 0, resumed.err
    assert equal(result(copy)["last.ckpt state_dict"], unharmed["last.ckpt state_dict"])


def test_no_batch_at_all_is_an_error_not_a_trained_model(bake, home):
    project = bake(accept_hooks=False)
    data = project / "my_project" / "data.py"
    text = re.sub(r"drop_last=drops_last\([^)]*\)", "drop_last=True", data.read_text())
    assert "drop_last=True" in text
    data.write_text(text)
    (done,) = run_many(project, ["train.py --data.batch_size 5000"], home=home)
    line = error(done)
    assert "there is no batch to train on: 1257 examples" in line
    assert "batch_size 5000, drop_last True" in line
    assert not (project / "runs").exists()

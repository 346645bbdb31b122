"""Faults are injected into real runs: each ends in one clear line, and what was trained is kept."""

import hashlib
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from chaos import JOB, equal, result, start, trained, wait_for_training
from project import Done, environment, run, run_many
from test_command_line import Hostile

pytestmark = pytest.mark.slow

IN_SMALL_DISK = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
HAS_MOUNT = (
    sys.platform == "linux" and not subprocess.run([*IN_SMALL_DISK, "true"], capture_output=True).returncode
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    return bake(accept_hooks=False)


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
    wait_for_training(process, project / "stopped")
    time.sleep(1)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    return trained(project / "stopped"), output


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
    (command,) = re.findall(r"go on: python (train\.py --resume \S+)", output)
    step = int(re.search(r"stopped at step (\d+)", output)[1])
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    shutil.copytree(folder, folder.with_name("first-state"))
    done = run(project, command, home=home)
    assert done.code == 0, done.err
    assert equal(result(folder), unharmed)


def test_ctrl_c_ends_with_a_checkpoint_and_130_and_takes_the_workers_along(project, home):
    process = start(project, home, f"train.py {JOB} --data.num_workers 2 --trainer.default_root_dir workers")
    wait_for_training(process, project / "workers")
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "go on: python train.py --resume workers/" in output
    with pytest.raises(ProcessLookupError):  # the group is empty
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_ctrl_c_while_lightning_sets_up_ends_with_130(bake, home, stage):
    """Lightning would make a KeyboardInterrupt of it, and of that exit code 1."""
    project = bake(accept_hooks=False)
    data = project / "my_project" / "harness" / "loading.py"
    before = "    def setup(self, stage: str) -> None:\n"
    text = data.read_text()
    assert text.count(before) == 1
    interrupt = f"        __import__('os').kill(__import__('os').getpid(), 2 * (stage == '{stage}'))\n"
    data.write_text(text.replace(before, before + interrupt))
    process = start(project, home, f"train.py {JOB} --trainer.max_epochs 1")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert ("go on: python train.py --resume runs/" in output) == (stage == "test")


def test_a_second_ctrl_c_acts_at_once(bake, home):
    project = bake(accept_hooks=False)
    data = project / "my_project" / "data.py"
    text = data.read_text()
    slow = "        import time\n\n        time.sleep(60)\n        rows = torch.tensor(indices)"
    data.write_text(text.replace("        rows = torch.tensor(indices)", slow))
    process = start(project, home, f"train.py {JOB} --trainer.num_sanity_val_steps 0")
    wait_for_training(process, project / "runs")
    time.sleep(0.5)
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
        "from my_project.harness.run import is_whole\n"
        f"print(*sorted(p.name for p in pathlib.Path({str(tmp_path)!r}).iterdir() if is_whole(p)))\n"
    )
    assert run(project, str(script), home=home).out.split() == ["whole"]


def test_two_damaged_checkpoints_are_refused_and_left_alone(copy, project, home):
    for name in ("last", "previous"):
        truncate(copy / "checkpoints" / f"{name}.ckpt")
    before = files(copy)
    line = error(run_many(project, [f"train.py --resume {copy}"], home=home)[0])
    assert "last.ckpt and " in line
    assert "start a new run with --config" in line
    assert files(copy) == before


REFUSED = {
    "--data.split_seed 1": ["the data or their split are not what they were"],
    "--data.batch_size 8": ["the data or their split are not what they were"],
    "--model.width 8": ["the checkpoint", "does not fit", "size mismatch"],
    "--trainer.max_epochs 1": ["max_epochs=1"],
}


def test_what_does_not_fit_the_run_is_refused_and_does_no_harm(copy, project, home, unharmed):
    resume = f"train.py --resume {copy}"
    settings = (copy / "config.yaml").read_text()
    *refused, plain = run_many(project, [*(f"{resume} {flag}" for flag in REFUSED), resume], home=home)
    for done, words in zip(refused, REFUSED.values(), strict=True):
        assert all(word in error(done) for word in words), done.err
    assert (copy / "config.yaml").read_text() == settings
    assert plain.code == 0, plain.err
    assert equal(result(copy), unharmed)


def test_another_number_of_processes_is_refused(copy, project, home):
    flags = "--trainer.devices 2 --trainer.strategy ddp"
    done = run(project, f"train.py --resume {copy} {flags}", home=home, network=True, timeout=120)
    assert done.code == 1
    assert "1 processes, not 2" in done.err
    assert "Traceback" not in done.err


def test_hostile_checkpoints_and_addresses_are_refused(copy, project, home):
    last = copy / "checkpoints" / "last.ckpt"
    torch.save(torch.load(last, weights_only=True) | {"more": Hostile()}, last)
    commands = [
        f"train.py --resume {copy}",
        "train.py --resume http://localhost/runs/1",
        "evaluate.py http://localhost/best.ckpt",
        "predict.py https://localhost/best.ckpt image.png",
    ]
    lines = [error(done) for done in run_many(project, commands, home=home)]
    assert "more than plain values" in lines[0]
    assert "not the folder of a run" in lines[1]
    assert all("there is no checkpoint" in line for line in lines[2:])
    assert not (project / "pwned").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything(project, home):
    (done,) = run_many(project, ["train.py --trainer.default_root_dir config.yaml/runs"], home=home)
    assert "cannot write to" in error(done)


def test_a_second_process_is_refused(project, home, copy):
    holder = (
        "import sys, time, pathlib; sys.path.insert(0, '.')\n"
        "from my_project.harness.run import claimed\n"
        f"with claimed(pathlib.Path({str(copy)!r})): print('locked', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=project, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        before = files(copy)
        refused = run_many(project, [f"train.py --resume {copy}"], home=home)[0]
        assert "another process is training" in error(refused)
        assert files(copy) == before
        process.kill()
    done = run_many(project, [f"train.py --resume {copy}"], home=home)[0]
    assert done.code == 0, f"a killed process leaves no lock behind\n{done.err}"


def in_small_disk(project: Path, home: Path, size: str, script: str) -> Done:
    """Run a shell script in the project's folder, where the folder `small` is a disk of that size."""
    (project / "small").mkdir(exist_ok=True)
    done = subprocess.run(
        [
            *IN_SMALL_DISK,
            f'python() {{ "$PYTHON" "$@"; }}; mount -t tmpfs -o size={size} tmpfs small && {script}',
        ],
        cwd=project,
        env=environment(home) | {"PYTHON": sys.executable, "WANDB_MODE": "disabled"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.skipif(not HAS_MOUNT, reason="needs to mount a small disk")
def test_too_little_disk_for_two_checkpoints_is_refused(project, home):
    done = in_small_disk(
        project, home, "2m", f"python train.py {JOB} --model.width 64 --trainer.default_root_dir small"
    )
    assert re.search(r"\d MB are free in .*, two checkpoints need \d+ MB", error(done))


@pytest.mark.skipif(not HAS_MOUNT, reason="needs to mount a small disk")
def test_a_disk_that_fills_up_keeps_the_checkpoint_and_the_run_goes_on_when_there_is_room(
    project, home, unharmed
):
    script = (
        f"(python train.py {JOB} --trainer.default_root_dir small & "
        "while ! [ -e small/*/checkpoints/previous.ckpt ]; do sleep 0.02; done; "
        "cat /dev/zero > small/filler 2>/dev/null; wait $!); echo first $?; rm small/filler; "
        "python train.py --resume small/20*; echo second $?; cp -r small full"
    )
    done = in_small_disk(project, home, "1m", script)
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
    checkpoints = list(next((project / "runs").iterdir()).glob("checkpoints/*.ckpt"))
    assert checkpoints
    for path in checkpoints:
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values()), path
    (found,) = run_many(project, [command], home=home)
    assert "MulBackward0" in found.err
    assert "model.py" in found.err


def test_a_finished_run_is_left_as_it_is_until_it_may_train_longer(project, home):
    job = f"train.py {JOB} --trainer.default_root_dir finished --trainer.max_epochs"
    run_many(project, [f"{job} 2"], home=home)
    folder = trained(project / "finished")
    before = files(folder)
    (again,) = run_many(project, [f"train.py --resume {folder}"], home=home)
    assert again.code == 0
    assert "is finished; to train on, give a larger --trainer.max_epochs" in again.out
    assert files(folder) == before
    more = f"train.py --resume {folder} --trainer.max_epochs 3"
    other, longer = run_many(project, [f"{more} --data.test_share 0.3", more], home=home)
    assert "the data or their split are not what they were" in error(other)
    assert longer.code == 0, longer.err
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 18
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert sum(",epoch,2" in row for row in rows) > 0
    assert sum(",test/acc," in row for row in rows) == 1


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


def test_ctrl_c_in_the_last_validation_is_not_lost(bake, home):
    project = bake(accept_hooks=False)
    model = project / "my_project" / "model.py"
    step = "        self._step(batch, self.val_metrics)\n"
    assert step in model.read_text()
    last = "(self.trainer.current_epoch, batch_idx) == (29, 0)"
    kill = f"        if {last}:\n            signal.raise_signal(2)\n"
    model.write_text("import signal\n" + model.read_text().replace(step, kill + step))
    done = run(project, f"train.py {JOB}", home=home)
    assert done.code == 130, done.err
    assert "go on: python train.py --resume" in done.err
    model.write_text(model.read_text().replace(kill, ""))
    (again,) = run_many(project, [f"train.py --resume {trained(project / 'runs')}"], home=home)
    assert again.code == 0, again.err
    assert "test/acc" in again.out


def test_an_early_stopped_run_stays_stopped(project, home):
    flags = "--early_stopping.patience 1 --early_stopping.min_delta 9 --trainer.default_root_dir early"
    run_many(project, [f"train.py {JOB} {flags}"], home=home)
    folder = trained(project / "early")
    before = files(folder)
    again, longer = run_many(
        project, [f"train.py --resume {folder}{more}" for more in ("", " --trainer.max_epochs 99")], home=home
    )
    assert "is finished" in again.out
    assert longer.code == 0, longer.err
    after = files(folder)
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv"):
        assert after[name] == before[name]

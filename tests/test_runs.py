"""runs.py: the states of real runs, a thousand of them in two seconds, and folders that are no runs."""

import csv
import io
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from PIL import Image
from project import TINY, Done, environment, run, run_many

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

FEW = f"{TINY} --trainer.limit_test_batches 2 --trainer.log_every_n_steps 1"
DISABLED = {"WANDB_MODE": "disabled"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(bake, home) -> Path:
    """Return a project with real runs: two finished, one stopped early, one failed, one killed."""
    project = bake(accept_hooks=False)
    root = project / "runs"
    groups = "--tracking.group pair"
    commands = [
        f"train.py {FEW} --model.lr 0.01 {groups}",
        f"train.py {FEW} --model.lr 0.02 {groups}",
        f"train.py {FEW} --model.lr 0 --model.warmup 0 --trainer.max_epochs 9 --early_stopping.patience 1",
        f"train.py {FEW} --model.lr 1e30 --trainer.max_epochs 9 --trainer.detect_anomaly true",
    ]
    names = ["first", "second", "early", "failed"]
    for name, command in zip(names, commands, strict=True):
        (done,) = run_many(project, [command], home=home, variables={**DISABLED, "WANDB_RUN_ID": name})
        assert done.code == int(name == "failed"), done.err
    kill_in_the_middle(project, home)
    assert {path.name for path in root.iterdir()} >= {*names, "killed"}
    return project


def kill_in_the_middle(project: Path, home: Path) -> None:
    """Train a run called "killed", and kill it in its third epoch or later."""
    flags = f"{FEW} --trainer.max_epochs 900 --early_stopping.patience 900".split()
    process = subprocess.Popen(
        [sys.executable, "train.py", *flags],
        cwd=project,
        env=environment(home) | {**DISABLED, "WANDB_RUN_ID": "killed"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = project / "runs" / "killed" / "metrics.csv"
    end = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("val/loss") < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    rows = table(project, home, "--filter state=running")
    assert [row["id"] for row in rows] == ["killed"]
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    with FileLock(metrics.with_name(".lock"), timeout=20):  # until its workers have gone as well
        pass


def runs(project: Path, home: Path, flags: str = "") -> Done:
    """Run runs.py as a user does: it starts so fast that a fork would be slower."""
    command = [sys.executable, "runs.py", *flags.split()]
    done = subprocess.run(command, cwd=project, env=environment(home), capture_output=True, encoding="utf-8")
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def table(project: Path, home: Path, flags: str = "") -> list[dict[str, str]]:
    """Return what `runs.py --csv` prints."""
    done = runs(project, home, f"--csv {flags}")
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.out)))


def metrics_of(project: Path, name: str) -> dict[str, list[float]]:
    """Return the values of each metric of a run."""
    found: dict[str, list[float]] = {}
    with (project / "runs" / name / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["name"], []).append(float(row["value"]))
    return found


def test_states_times_settings_and_metrics_of_real_runs(trained, home):
    rows = table(trained, home)
    assert [row["id"] for row in rows] == ["killed", "failed", "early", "second", "first"]
    states = {row["id"]: row["state"] for row in rows}
    assert (states["first"], states["second"]) == ("finished", "finished")
    epochs = len(metrics_of(trained, "early")["val/loss"])
    assert epochs < 9
    assert states["early"] == f"stopped early at epoch {epochs - 1}"
    assert states["failed"].startswith("failed: RuntimeError: ")
    with (trained / "runs" / "killed" / "metrics.csv").open() as file:
        last_step = max(int(row["step"]) for row in csv.DictReader(file))
    assert states["killed"] == f"killed at step {last_step}"
    different = set(rows[0]) - {"id", "created", "state", "seconds"}
    assert different == {
        *("trainer.max_epochs", "trainer.detect_anomaly", "early_stopping.patience"),
        *("model.lr", "model.warmup", "tracking.group"),
        *("val/loss", "test/loss", "test/acc"),
    }
    for row in rows:
        measured = metrics_of(trained, row["id"])
        if row["id"] != "failed":
            assert float(row["val/loss"]) == min(measured["val/loss"])
            assert 0 < float(row["seconds"]) < 200
        if row["id"] in ("first", "second", "early"):
            assert float(row["test/acc"]) == measured["test/acc"][0]


def test_the_table_is_for_people(trained, home):
    out = runs(trained, home).out.splitlines()
    assert out[0].split()[:4] == ["id", "age", "state", "trained"]
    assert len(out) == 6
    (first,) = [line for line in out if line.startswith("first")]
    assert re.search(r"^first +\d+ (s|min)  finished +\d+ s  .* 0\.0100 ", first)
    assert max(len(line) for line in out) < 240


def test_choosing_sorting_and_columns(trained, home):
    def ids(flags: str) -> list[str]:
        return [row["id"] for row in table(trained, home, flags)]

    assert ids("--last 2") == ["killed", "failed"]
    assert ids("first sec") == ["second", "first"]
    assert ids("--filter model.lr=1e-2") == ["first"]
    assert ids("--filter state=finished --sort model.lr") == ["first", "second"]
    losses = {row["id"]: float(row["val/loss"]) for row in table(trained, home) if row["val/loss"]}
    assert ids("--best") == [min(losses, key=losses.get)]
    by_accuracy = table(trained, home, "--sort test/acc --columns id test/acc train/lr")
    accuracies = [float(row["test/acc"]) for row in by_accuracy if row["test/acc"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(accuracies) == 3
    assert by_accuracy[-1]["test/acc"] == ""
    assert list(by_accuracy[0]) == ["id", "test/acc", "train/lr"]
    assert "sorted by test/acc, largest first" in runs(trained, home, "--sort test/acc").out
    assert "sorted by val/loss, smallest first" in runs(trained, home, "--best").out


def test_mistakes_are_one_line(trained, home):
    expected = {
        "--sort test/accuracy": "test/accuracy is neither a setting nor a metric of these runs; metrics: ",
        "--filter model.lr": "--filter takes NAME=VALUE, such as model.lr=0.01 (got model.lr)",
        "--columns model.learning_rate": "model.learning_rate is neither a setting nor a metric",
        "--last 0": "--last must be 1 or more (got 0)",
        "nothing": "no run begins or ends with nothing in",
        "f": "several runs begin or end with f in",
        "--group folds": "--group folds is neither a setting nor a group of these runs; groups: pair",
    }
    for flags, line in expected.items():
        done = runs(trained, home, flags)
        assert done.code == 1, flags
        assert done.err.startswith(f"error: {line}"), done.err
        assert len(done.err) <= 400
    assert runs(trained, home, "--filter model.lr=7").code == 0


def test_groups_have_mean_and_deviation(trained, home):
    done = runs(trained, home, "--group pair --csv")
    (row,) = csv.DictReader(io.StringIO(done.out))
    losses = [min(metrics_of(trained, name)["val/loss"]) for name in ("first", "second")]
    mean = sum(losses) / 2
    assert (row["tracking.group"], row["runs"]) == ("pair", "2")
    assert float(row["val/loss"]) == pytest.approx(mean)
    assert float(row["val/loss ±"]) == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)
    by_rate = runs(trained, home, "--group model.lr --csv")
    assert len(by_rate.out.splitlines()) == 4
    assert "killed is left out of its group: killed at step" in by_rate.err


def test_a_picture_of_two_runs(trained, home, pictures):
    done = runs(trained, home, "first early --plot")
    assert "picture: runs/compare.png" in done.out
    with Image.open(trained / "runs" / "compare.png") as picture:
        assert picture.width > 800


def test_scripts_get_a_data_frame(trained, home):
    code = "from my_project.harness.runs import table\nframe = table('runs').set_index('id')\n"
    code += (
        "print(frame['model.lr']['second'], frame['val/loss'].idxmin(), frame.created.dtype, len(frame))\n"
    )
    (trained / "use_table.py").write_text(code)
    done = run(trained, "use_table.py", home=home)
    assert done.code == 0, done.err
    best = table(trained, home, "--best")[0]["id"]
    assert done.out.startswith(f"0.02 {best} datetime64")


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """Return a project with its own runs, which may be spoilt."""
    shutil.copytree(trained, tmp_path / "project")
    return tmp_path / "project"


def test_broken_and_foreign_folders_are_one_line_each(copy, home):
    root = copy / "runs"
    (root / "wandb").mkdir(exist_ok=True)
    (root / "notes.txt").write_text("mine")
    (root / "pictures").mkdir()
    (root / "search-x").mkdir()
    (root / "search-x" / "search.yaml").write_text("{}")
    for name, content in {"a": b"a: [", "b": b"- 1\n", "c": b"\xff\xfe\x00", "d": b"text", "e": b""}.items():
        (root / name).mkdir()
        (root / name / "config.yaml").write_bytes(content)
    (root / "early" / "state.yaml").write_bytes(b"\xff: [")
    (root / "first" / "metrics.csv").write_bytes(b"step,name,value\n3,val/loss,0.5\n\xff\x00,\n4,val/loss")
    (root / "second" / "metrics.csv").unlink()
    done = runs(copy, home)
    assert done.code == 0
    problems = done.err.splitlines()
    assert [line.split()[0] for line in problems] == [f"runs/{name}" for name in [*"abcd", "pictures"]]
    assert "runs/pictures is not a run: it has no config.yaml" in problems
    shown = {line.split()[0]: line for line in done.out.splitlines()}
    assert shown.keys() == {"id", "first", "second", "early", "failed", "killed", "e"}
    assert "0.5000" in shown["first"]
    assert "killed at step" in shown["early"]  # as far as one can tell


def test_what_can_be_deleted_is_shown_and_deleted_only_with_yes(copy, home):
    root = copy / "runs"
    shutil.rmtree(root / "wandb", ignore_errors=True)
    (root / "stillborn" / "checkpoints").mkdir(parents=True)
    (root / "stillborn" / ".lock").touch()
    (root / "pictures" / "checkpoints").mkdir(parents=True)
    (root / "pictures" / "mine.png").touch()
    shutil.copytree(root / "killed", root / "start")
    (root / "start" / "metrics.csv").unlink()
    shutil.copytree(root / "first", root / "busy")
    (root / "busy" / "state.yaml").write_text("finished: false\n")
    before = set(root.rglob("*"))
    with FileLock(root / "busy" / ".lock"):
        shown = runs(copy, home, "--prune")
        assert "nothing was deleted; --yes deletes it" in shown.out
        assert set(root.rglob("*")) == before
        assert runs(copy, home, "--prune --yes").code == 0
    gone = {str(path.relative_to(root)) for path in before - set(root.rglob("*"))}
    finished = ("first", "second", "early")
    kept = [path for path in gone if path.split("/")[0] not in ("stillborn", "start")]
    assert {path.split("/")[0] for path in gone} == {"stillborn", "start", *finished}
    assert {path.split("/", 1)[1] for path in kept} <= {f"checkpoints/{n}.ckpt" for n in ("last", "previous")}
    assert (root / "killed" / "checkpoints" / "last.ckpt").exists()
    assert all((root / name / "checkpoints" / "best.ckpt").exists() for name in finished)
    longer = run(copy, "train.py --resume runs/first --trainer.max_epochs 5", home=home, variables=DISABLED)
    assert longer.code == 1
    assert "has no last.ckpt to continue from" in longer.err
    assert (root / "first" / "metrics.csv").exists()
    assert "0.0 MB  in all" in runs(copy, home, "--prune").out


def test_a_start_with_the_id_of_another_leaves_its_folder_alone(copy, home):
    """Both may begin in the same second: the one that comes second fails, and removes nothing."""
    (copy / "runs" / "twin" / "checkpoints").mkdir(parents=True)
    with FileLock(copy / "runs" / "twin" / ".lock"):
        done = run(copy, f"train.py {FEW}", home=home, variables={**DISABLED, "WANDB_RUN_ID": "twin"})
    assert done.code == 1
    assert "another process is training" in done.err
    assert (copy / "runs" / "twin" / "checkpoints").is_dir()


def test_a_resumed_run_adds_up_its_time(copy, home):
    folder = copy / "runs" / "killed"
    state = yaml.safe_load((folder / "state.yaml").read_text())
    (folder / "state.yaml").write_text(yaml.safe_dump(state | {"seconds": 3600.0}))
    done = run(copy, "train.py --resume runs/killed --trainer.max_epochs 5", home=home, variables=DISABLED)
    assert done.code == 0, done.err
    state = yaml.safe_load((folder / "state.yaml").read_text())
    assert state["since"] is None
    assert 3600 < state["seconds"] < 4000
    assert "  finished  1 h 0 min  " in runs(copy, home, "killed").out


@pytest.mark.parametrize("script", ["runs.py", "search.py"])
def test_it_starts_without_what_takes_seconds_to_import(trained, home, script):
    hide = "import sys, runpy; sys.argv = sys.argv[1:]\n"
    hide += "for name in ('torch', 'lightning', 'wandb', 'pandas', 'matplotlib', 'optuna', 'numpy'):\n"
    hide += "    sys.modules[name] = None\n"
    hide += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", hide, script, *([] if script == "runs.py" else ["--help"])]
    done = subprocess.run(command, cwd=trained, env=environment(home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("killed at step" if script == "runs.py" else "--trials N") in done.stdout


def test_a_thousand_runs_take_less_than_two_seconds(copy, home):
    root = copy / "runs"
    settings = (root / "first" / "config.yaml").read_text()
    assert settings.count("\n  lr: 0.01\n") == 1
    state = (root / "first" / "state.yaml").read_text()
    rows = ["step,name,value"]
    for step in range(400):
        rows.append(f"{step},{'val/loss' if step % 20 == 0 else 'train/lr'},{1 / (step + 1)}")
    for number in range(1000):
        folder = root / f"run-{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(settings.replace("  lr: 0.01\n", f"  lr: {number}.5\n"))
        (folder / "state.yaml").write_text(state if number % 2 else "finished: false\n")
        (folder / ".lock").touch()
        (folder / "metrics.csv").write_text("\n".join([*rows, f"400,test/acc,{number}", ""]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "runs.py", "--sort", "test/acc"]
    done = subprocess.run(command, cwd=copy, env=environment(home), capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1007
    assert done.stdout.splitlines()[2].startswith("run-999 ")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 2  # of a core: other tests run beside this one

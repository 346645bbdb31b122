"""What is recorded of a run, what W&B shows of it, that the same run goes on, sweeps, and other loggers."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml
from project import TINY, environment, run, start
from wandb_server import Run, WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

STEP = "trainer/global_step"
OFFLINE = {"WANDB_MODE": "offline"}
EPOCHS = 40  # of a run that is killed


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    return bake()


def login(server: WandbServer) -> dict[str, str]:
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}


def call(project: Path, home: Path, command: str, variables: dict[str, str], code: int = 0) -> str:
    """Run a command in the project; return all its output."""
    program = f"-m {command}" if command.startswith("wandb") else command
    variables = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"} | variables
    done = run(project, program, home=home, network=True, timeout=120, variables=variables)
    assert done.code == code, done.out + done.err
    return done.err + done.out


def runs(project: Path) -> set[Path]:
    """Return the folders of the project's runs; `runs/wandb` has W&B's files of all of them."""
    return {file.parent for file in project.glob("runs/*/config.yaml")}


def recordings(folder: Path) -> list[Path]:
    """Return the directories in which W&B has recorded a run."""
    return list((folder.parent / "wandb").glob(f"*run-*-{folder.name}"))


def test_records_of_ordinary_lightning_code(project, home, monkeypatch):
    monkeypatch.setattr("project.PICTURES", True)  # it looks at some
    shutil.copy(Path(__file__).parent / "inside" / "test_records.py", project / "tests")
    done = run(project, "-m pytest -q tests/test_records.py", home=home)
    assert done.code == 0, done.out + done.err


@pytest.fixture(scope="module")
def online(project, home) -> tuple[WandbServer, Run, str]:
    """Train with everything that can be asked for; return the server, its run and what was printed."""
    (project / "network.txt").write_text("not committed")
    subprocess.run(["git", "add", "network.txt"], cwd=project, check=True)
    chosen = "--tracking.group g --tracking.job_type j --tracking.notes n --tracking.tags [t,u]"
    flags = f"--trainer.max_epochs 13 --trainer.log_every_n_steps 2 --tracking.log_model true {chosen}"
    with WandbServer() as server:
        output = call(project, home, f"train.py {TINY} {flags} --tracking.watch true", login(server))
        ((_, record),) = server.runs.items()
        return server, record, output


def test_all_metrics_share_one_step_axis(online):
    names = Counter(name for line in online[1].history for name in line if not name.startswith("_"))
    assert all(STEP in line for line in online[1].history)
    expected = ["train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds"]
    expected += ["time/samples_per_second", "test/loss", "test/acc"]
    assert [names[name] for name in expected] == [13, 13, 13, 13, 13, 13, 1, 1]
    assert [names[name] for name in ["train/lr", "train/grad_norm", "train/loss_step"]] == [26, 26, 26]
    axes = json.loads(online[1].settings["config"])["_wandb"]["value"]["m"]
    assert {axis.get("1") or axis.get("2") for axis in axes} == {STEP, "*", "val/loss"}


def test_what_belongs_to_a_step_is_one_row(online):
    """So one metric can be drawn over another: the speed of an epoch beside its metrics."""
    rows = [line for line in online[1].history if "train/loss" in line]
    assert all("time/epoch_seconds" in line for line in rows)
    (row,) = [line for line in online[1].history if "test/loss" in line]
    assert {"test/examples", "test/classes", "test/acc"} <= row.keys()


def test_the_summary_has_best_and_last_of_what_is_monitored(online):
    losses = [line["val/loss"] for line in online[1].history if "val/loss" in line]
    assert online[1].summary["val/loss"] == {"min": min(losses), "last": losses[-1]}


def test_confusions_classes_and_mistakes(online):
    server, record, _ = online
    tables = {
        name.split("/")[-1].split("_")[0]: json.loads(data)
        for name, data in record.files.items()
        if name.endswith(".table.json")
    }
    assert sum(count for *_, count in tables["confusion"]["data"]) == 360
    assert tables["classes"]["columns"] == ["class", "precision", "recall", "examples"]
    assert [row[0] for row in tables["classes"]["data"]] == list("0123456789")
    rows = tables["examples"]["data"]
    mistakes = [target != prediction for _, target, prediction, _ in rows]
    assert mistakes == sorted(mistakes, reverse=True)
    sure = [confidence for _, target, prediction, confidence in rows if target != prediction]
    unsure = [confidence for _, target, prediction, confidence in rows if target == prediction]
    assert sure == sorted(sure, reverse=True)
    assert unsure == sorted(unsure)
    assert sum(name.startswith("media/images/") for name in server.artifacts) >= 45
    assert record.summary["test/examples"]["nrows"] == 50


def test_settings_code_and_checkpoint(online, project):
    server, record, _ = online
    (folder,) = runs(project)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: record.config[key] for key in settings} == settings
    assert record.config["parameters"] == 1938
    assert not [key for key in record.config if "." in key or "/" in key]
    assert {"model.py", "harness/tracking.py"} <= server.artifacts.keys()
    assert record.files["code/train.py"] == (project / "train.py").read_bytes()
    aliases = {a["artifactTypeName"]: {x["alias"] for x in a["aliases"]} for a in record.artifacts}
    assert aliases["model"] == {"best", "latest"}
    assert server.artifacts["model.ckpt"] == (folder / "checkpoints" / "best.ckpt").read_bytes()
    assert {key: record.settings[key] for key in ["groupName", "jobType", "notes", "tags"]} == {
        "groupName": "g",
        "jobType": "j",
        "notes": "n",
        "tags": ["t", "u"],
    }
    assert any(name.startswith("gradients/") for line in record.history for name in line)


def test_the_state_of_the_repository(online, project):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True).stdout
    assert json.loads(online[1].files["wandb-metadata.json"])["git"]["commit"] == commit.strip()
    assert b"not committed" in online[1].files["diff.patch"]


def test_by_default_no_checkpoint_is_uploaded_and_a_crash_is_told(project, home):
    flags = "--model.lr 1e30 --trainer.detect_anomaly true --trainer.log_every_n_steps 1"
    with WandbServer() as server:
        output = call(project, home, f"train.py {TINY} {flags}", login(server), code=1)
        ((_, record),) = server.runs.items()
    assert "Traceback" in output
    assert record.exit_codes == [1]
    (alert,) = record.alerts
    assert alert["severity"] == "ERROR"
    assert "RuntimeError" in alert["text"]
    assert "model" not in {artifact["artifactTypeName"] for artifact in record.artifacts}


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_start_that_fails_before_the_first_step_leaves_nothing(project, home, mode):
    """With a wrong setting W&B is not even opened; in the first step, the run was opened a moment before."""
    before = set(project.glob("runs/*")), set(project.glob("runs/wandb/*run-*"))
    with WandbServer() as server:
        variables = login(server) if mode == "online" else OFFLINE
        call(project, home, "train.py --data.batch_size -1", variables, code=1)
        assert list(server.runs) == []
        output = call(project, home, "train.py --model.width 0", variables, code=1)
    assert "Traceback" in output or "error: " in output
    after = set(project.glob("runs/*")), set(project.glob("runs/wandb/*run-*"))
    assert after[0] - before[0] <= {project / "runs" / "wandb"}
    assert after[1] == before[1]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_is_not_shown_as_finished(project, home, signum, code):
    flags = f"train.py {TINY} --trainer.max_epochs 5000 --early_stopping.patience 5000"
    with WandbServer() as server:
        process = start(project, home, flags, login(server))
        next(line for line in process.stdout if line.startswith("epoch 3 "))
        process.send_signal(signum)
        process.communicate(timeout=60)
        ((_, record),) = server.runs.items()
    assert process.returncode == code
    assert record.exit_codes == [code]
    assert record.alerts == []


def kill_while_training(project: Path, home: Path, variables: dict[str, str]) -> Path:
    """Train, kill it in the middle of its 11th epoch or a later one, return the run's folder."""
    before = runs(project)
    flags = f"--trainer.max_epochs {EPOCHS} --early_stopping.patience 99 --trainer.log_every_n_steps 1"
    process = start(project, home, f"train.py {TINY} {flags}", variables)
    next(line for line in process.stdout if line.startswith("epoch 9 "))
    (folder,) = runs(project) - before
    while True:
        process.send_signal(signal.SIGSTOP)
        if "train/loss_step" in (folder / "metrics.csv").read_text().splitlines()[-1]:
            break  # in the middle of an epoch: the steps since the last checkpoint will be repeated
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    time.sleep(1)  # W&B writes what it has been given every 0.2 s
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    return folder


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_killed_run_goes_on_as_the_same_run(project, home, mode):
    with WandbServer() as server:
        variables = login(server) if mode == "online" else OFFLINE
        folder = kill_while_training(project, home, variables)
        if mode == "online":
            killed = server.runs[folder.name]
            assert killed.exit_codes == []  # so W&B shows it as crashed
            config = killed.config
        call(project, home, f"train.py --resume runs/{folder.name}", variables)
        if mode == "offline":
            both = " ".join(str(path) for path in sorted(recordings(folder)))
            call(project, home, f"wandb sync {both}", login(server))
    record = server.runs[folder.name]
    assert set(server.runs) == {folder.name}
    values: dict[tuple[int, str], float] = {}
    for line in record.history:
        for name in line.keys() - {STEP}:
            if not name.startswith(("_", "time/")):
                same = values.setdefault((line[STEP], name), line[name])
                assert line[name] == same, (line[STEP], name)  # what was repeated draws the same points
    rows = pd.read_csv(folder / "metrics.csv")
    assert set(zip(rows["step"], rows["name"], strict=True)) <= values.keys()
    assert len([step for step, name in values if name == "val/loss"]) == EPOCHS
    assert record.exit_codes[-1] == 0
    if mode == "online":
        assert record.config["model"] == config["model"]


def test_a_sweep(project, home):
    sweep = yaml.safe_load((project / "sweep.yaml").read_text())
    help_text = run(project, "train.py --help", home=home).out
    assert [name for name in sweep["parameters"] if f"--{name} " not in help_text] == []
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    small = {"trainer.max_epochs": {"value": 1}, "trainer.limit_train_batches": {"value": 2}}
    nested = {"model": {"parameters": {"lr": {"values": ["1e-2"]}, "dropout": {"value": 0.0}}}}
    grid = {"method": "grid", "parameters": {**nested, "model.width": {"values": [4, 6]}, **small}}
    (project / "sweep.yaml").write_text(yaml.safe_dump(sweep | grid, sort_keys=False))
    before = runs(project)
    with WandbServer() as server:
        output = call(project, home, "wandb sweep sweep.yaml", login(server))
        agent = re.search(r"wandb agent \S+$", output, re.MULTILINE)[0]
        assert agent.split("/")[1] == project.name
        call(project, home, agent, login(server))
    assert len(server.runs) == 2
    for name, width in zip(server.runs, [4, 6], strict=True):
        record = server.runs[name]
        assert record.exit_codes == [0]
        assert record.settings["sweep"] == "sweep0"
        assert record.config["model"]["width"] == record.config["model.width"] == width
        assert any("val/loss" in line for line in record.history)
        settings = yaml.safe_load((project / "runs" / name / "config.yaml").read_text())
        assert settings["model"]["width"] == width
    there = runs(project) - before
    done = subprocess.run(
        [sys.executable, "search.py", "sweep.yaml", "--trials", "20", "--jobs", "2"],
        cwd=project,
        env=environment(home) | OFFLINE,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    here = runs(project) - before - there
    assert settings_of(here) == settings_of(there)
    assert all(len(recordings(folder)) == 1 for folder in here)


def settings_of(folders: set[Path]) -> list[str]:
    """Return the settings of runs, but for the name of the sweep, in an order of their own."""
    found = []
    for folder in folders:
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings["tracking"] |= {"group": None, "tags": None}
        found.append(yaml.safe_dump(settings))
    return sorted(found)


@pytest.mark.parametrize(
    ("logger", "row"),
    [
        ("CSVLogger", r"CSVLogger +runs/\S+/lightning_logs/version_0"),
        ("false", r"metrics +runs/\S+/metrics.csv"),
    ],
)
def test_other_loggers(project, home, logger, row):
    before = runs(project)
    done = run(project, f"train.py {TINY} --trainer.logger {logger}", home=home)
    assert done.code == 0, done.err
    (folder,) = runs(project) - before
    assert re.search(f"^{row}$", done.out, re.MULTILINE)
    assert "wandb" not in done.out.lower()
    assert recordings(folder) == []
    assert "test/acc" in (folder / "metrics.csv").read_text()
    assert (folder / "lightning_logs" / "version_0" / "metrics.csv").exists() == (logger == "CSVLogger")


def test_a_logger_that_is_not_installed(project, home):
    done = run(project, f"train.py {TINY} --trainer.logger TensorBoardLogger", home=home)
    assert done.code == 1
    assert "error: 'lightning.pytorch.loggers.TensorBoardLogger': Neither" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err

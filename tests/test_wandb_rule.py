"""W&B never prompts, hangs or stops a training, and loses nothing: nine situations, each a real run."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import TINY, environment, run
from sklearn.datasets import load_digits
from wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

KEY = "k" * 40
NOBODY = "http://127.0.0.1:9"  # a port on which nothing listens
MOST = 75.0  # seconds: 30 until the training starts, 30 after it, and the run itself


@pytest.fixture(scope="module")
def project(bake) -> Path:
    return bake(accept_hooks=False)


def runs(project: Path) -> set[Path]:
    """Return the folders of the project's runs; `runs/wandb` has W&B's files of all of them."""
    return {file.parent for file in project.glob("runs/*/config.yaml")}


def train(project: Path, home: Path, *flags: str, **variables: str) -> tuple[str, Path]:
    """Run train.py as a user would; return its output and the run's folder. It may take MOST seconds."""
    before = runs(project)
    command = " ".join(["train.py", TINY, "--trainer.log_every_n_steps 2", *flags])
    done = run(project, command, home=home, network=True, timeout=MOST, variables=variables)
    assert done.code == 0, done.out + done.err
    (folder,) = runs(project) - before
    return done.out + done.err, folder


def wandb(project: Path, home: Path, command: str, server: WandbServer | None = None) -> str:
    """Run a command of W&B's in the project, logged in to the server."""
    login = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY} if server else {}
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=project,
        env=environment(home) | login,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def logged(folder: Path) -> set[tuple[int, str, float]]:
    """Return step, name and value of each row of a run's metrics.csv."""
    rows = set()
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.add((int(row["step"]), row["name"], float(row["value"])))
    return rows


def in_history(history: list[dict]) -> set[tuple[int, str, float]]:
    """Return step, name and value of each number that the server has."""
    rows = set()
    for line in history:
        for name, value in line.items():
            if isinstance(value, int | float):
                rows.add((line.get("trainer/global_step"), name, value))
    return rows


def on_disk(project: Path, home: Path, folder: Path) -> list[dict]:
    """Return the lines of history that W&B's own reader finds in the directory of the run."""
    (recorded,) = recordings(folder)
    lines = wandb(project, home, f"wandb leet inspect --json {recorded}").splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if record["type"] == "history"]


def recordings(folder: Path) -> list[Path]:
    """Return the directories in which W&B has recorded a run."""
    return list((folder.parent / "wandb").glob(f"*run-*-{folder.name}"))


def assert_sync_delivers_all(project: Path, home: Path, output: str, folder: Path) -> None:
    """Run the command of the closing box against a server that works, and find there what was logged."""
    command = re.search(r"^upload +(wandb sync .*)$", output, re.MULTILINE)[1]
    with WandbServer() as server:
        wandb(project, home, command, server)
        record = server.runs[folder.name]
        assert logged(folder) <= in_history(record.history)
        assert len(record.history) == len(on_disk(project, home, folder))
        assert "test/examples" in record.summary


def test_wandb_dir_is_respected(project, tmp_path):
    elsewhere = tmp_path / "scratch"
    elsewhere.mkdir()
    output, folder = train(project, tmp_path, WANDB_MODE="offline", WANDB_DIR=str(elsewhere))
    assert recordings(folder) == []
    assert len(list((elsewhere / "wandb").glob(f"offline-run-*-{folder.name}"))) == 1
    assert re.search(rf"^charts +wandb leet {elsewhere}/wandb$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "W&B is offline: not logged in"),
        ({"WANDB_API_KEY": "short"}, "W&B is offline: "),
        ({"WANDB_API_KEY": KEY, "WANDB_BASE_URL": NOBODY}, "W&B is offline: "),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": NOBODY}, "set by WANDB_MODE"),
    ],
    ids=["no key", "key too short", "no server", "WANDB_MODE=offline"],
)
def test_a_run_that_cannot_go_online_is_recorded(project, tmp_path, variables, said):
    output, folder = train(project, tmp_path, **variables)
    assert said in output
    assert_sync_delivers_all(project, tmp_path, output, folder)


def test_a_server_that_refuses_the_key(project, tmp_path):
    with WandbServer(refuse=True) as server:
        output, folder = train(project, tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert "W&B is offline: " in output
    assert_sync_delivers_all(project, tmp_path, output, folder)


def test_a_server_that_dies_while_the_run_trains(project, tmp_path):
    flags = ["--trainer.max_epochs", "20"]
    with WandbServer(dies_after="CommitArtifact") as server:
        output, folder = train(project, tmp_path, *flags, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
        assert server.dead
        assert server.runs[folder.name].history == []
    assert "W&B is online: logged in" in output
    assert "--include-online" in output
    assert_sync_delivers_all(project, tmp_path, output, folder)


def test_a_login_puts_the_run_online(project, tmp_path):
    with WandbServer() as server:
        output, folder = train(project, tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
        record = server.runs[folder.name]
    assert re.search(rf"^charts +{server.url}", output, re.MULTILINE)
    assert "upload" not in output
    assert record.exit_codes == [0]
    assert logged(folder) <= in_history(record.history)


def test_disabled_records_nothing(project, tmp_path):
    output, folder = train(project, tmp_path, WANDB_MODE="disabled")
    assert "W&B is disabled: set by WANDB_MODE" in output
    assert "wandb leet" not in output
    assert recordings(folder) == []
    assert "test/acc" in {name for _, name, _ in logged(folder)}


def test_two_processes_make_one_run_online(project, tmp_path):
    flags = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    flags += ["--data.test_share", "0.197"]  # 355 images: one of them twice in two processes
    with WandbServer() as server:
        output, folder = train(project, tmp_path, *flags, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
        assert set(server.runs) == {folder.name}
        record = server.runs[folder.name]
    assert output.count("W&B is ") == 1
    assert logged(folder) <= in_history(record.history)
    matrix = json.loads(next(data for name, data in record.files.items() if "confusion_matrix" in name))
    assert sum(count for *_, count in matrix["data"]) == 355
    labels = {}
    digits = load_digits()
    for image, label in zip(digits.images, digits.target, strict=True):
        labels[np.uint8(image / 16 * 255 + 0.5).tobytes()] = label
    for image, target, *_ in json.loads(server.artifacts["test/examples.table.json"])["data"]:
        pixels = np.array(Image.open(io.BytesIO(server.artifacts[image["path"]])))
        assert str(labels[pixels.tobytes()]) == target

"""The default job, for real: no network, no account, no terminal, standard input closed."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from project import TINY, environment, run, run_many

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    return bake()


@pytest.fixture(scope="module")
def trained(project, home):
    """Train the default project; return the finished process."""
    done = run(project, "train.py", home=home)
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def folder(trained, project) -> Path:
    """Return the folder of the run that `trained` made."""
    (config,) = (project / "runs").glob("*/config.yaml")
    return config.parent


def logged(folder: Path) -> dict[str, float]:
    """Return the last value of each metric."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def test_the_model_is_good(trained, folder):
    assert logged(folder)["test/acc"] >= 0.985
    shown = float(re.search(r"^test/acc +(\S+)$", trained.out, re.MULTILINE).group(1))
    assert shown == pytest.approx(logged(folder)["test/acc"], abs=5e-5)


def test_output_says_what_happened_and_what_comes_next(trained, folder):
    run_id = folder.name
    for line in (
        "W&B is offline: not logged in",
        f"checkpoint     runs/{run_id}/checkpoints/best.ckpt",
        "charts         wandb leet runs/wandb",
        f"resume         python train.py --resume runs/{run_id}",
        f"evaluate       python evaluate.py runs/{run_id}",
        f"predict        python predict.py runs/{run_id} INPUT...",
        f"export         python export.py runs/{run_id}",
        f"fine-tune      python train.py --config experiments/finetune.yaml --model.init_from runs/{run_id}",
    ):
        assert line in trained.out
    upload = rf"^upload         wandb sync runs/wandb/offline-run-\d+_\d+-{run_id}$"
    assert re.search(upload, trained.out, re.MULTILINE)
    assert re.search(r"^parameters     \d\d,\d{3}$", trained.out, re.MULTILINE)
    assert len(re.findall(r"^epoch \d+ .*train/acc.*val/loss", trained.err, re.MULTILINE)) == 20


def test_output_has_no_warning(trained):
    warned = [line for line in trained.err.splitlines() if "Warning: " in line]
    # lightning 2.6 on newer torch and jsonargparse; wandb leaves a temporary folder to Python
    expected = ("LeafSpec", "JsonargparseDeprecationWarning", "Implicitly cleaning up")
    assert [line for line in warned if not any(word in line for word in expected)] == []


def test_a_run_is_one_folder(folder, project, home):
    names = {path.name for path in folder.iterdir()}
    pictures = {"learning_curves.png", "confusion_matrix.png", "examples.png"}
    assert names - {".lock"} == {
        "config.yaml",
        "data.txt",
        "checkpoints",
        "metrics.csv",
        "state.yaml",
        *pictures,
    }
    assert {path.name for path in (project / "runs").iterdir()} == {folder.name, "wandb"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt"}
    status = subprocess.run(
        ["git", "status", "--porcelain", "--ignored"], cwd=project, capture_output=True, text=True, check=True
    )
    changed = {line.split(maxsplit=1)[1] for line in status.stdout.splitlines()}
    assert {path for path in changed if "__pycache__" not in path} == {"runs/"}
    caches = {"wandb", "matplotlib"}  # of libraries
    outside = [path for path in home.rglob("*") if path.is_file() and not caches & set(path.parts)]
    assert outside == []


def test_everything_is_logged_once_an_epoch(folder):
    rows = pd.read_csv(folder / "metrics.csv")
    assert list(rows.columns) == ["step", "name", "value"]
    counts = rows["name"].value_counts()
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert counts[name] == 20
    assert counts["test/loss"] == counts["test/acc"] == 1
    assert counts["train/lr"] == counts["train/loss_step"] == 380 // 10
    table = rows.pivot(index="step", columns="name", values="value")  # no step has a name twice
    assert table["epoch"].dropna().is_monotonic_increasing


def test_wandb_has_the_metrics_and_the_whole_config_once(folder, home):
    (offline,) = (folder.parent / "wandb").glob(f"offline-run-*-{folder.name}")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(offline)]
    done = subprocess.run(inspect, capture_output=True, text=True, env=environment(home), timeout=60)
    recorded = json.loads(done.stdout)
    assert recorded["config"].pop("parameters") > 50_000
    assert recorded["config"] == yaml.safe_load((folder / "config.yaml").read_text())
    metrics = logged(folder)
    summary = recorded["summary"]
    summary["val/loss"] = summary["val/loss"]["last"]
    assert {name: summary[name] for name in metrics} == pytest.approx(metrics)


def test_checkpoint_loads_with_nothing_else_at_hand(folder, project, home, tmp_path):
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint = torch.load(folder / "checkpoints" / name, weights_only=True)
        assert checkpoint["hyper_parameters"]["width"] == 24
    script = tmp_path / "load.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(project)!r})\n"
        "from my_project.model import Model\n"
        f"model = Model.load_from_checkpoint({str(folder / 'checkpoints' / 'best.ckpt')!r})\n"
        "print(model.hparams.classes)\n"
    )
    done = run(tmp_path, str(script), home=home)
    assert done.out == f"{[str(digit) for digit in range(10)]}\n", done.err


def test_evaluate_and_predict_agree_with_training(folder, project, home, tmp_path):
    """Written as PNG files, the test images get the accuracy that training logged."""
    images = tmp_path / "images"
    images.mkdir()
    script = tmp_path / "write.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(project)!r})\n"
        "from PIL import Image\n"
        "from my_project.data import DataModule\n"
        "data = DataModule()\n"
        "data.setup('test')\n"
        "for i, (image, label) in enumerate(data.test_set):\n"
        f"    Image.fromarray(image[0].numpy()).save(f'{images}/{{i}}-{{label}}.png')\n"
    )
    run_id = f"runs/{folder.name}"
    written, evaluated, predicted, to_file = run_many(
        project,
        [
            str(script),
            f"evaluate.py {run_id}",
            f"predict.py {run_id} {images}",
            f"predict.py {run_id}/checkpoints/last.ckpt {images} --output {tmp_path / 'last.csv'}",
        ],
        home=home,
    )
    assert [done.code for done in (written, evaluated, predicted, to_file)] == [0] * 4, predicted.err
    accuracy = logged(folder)["test/acc"]
    assert str(accuracy)[:8] in evaluated.out
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360
    assert rows[0].keys() == {"file", "prediction", "probability"}
    right = sum(Path(row["file"]).stem.endswith(f"-{row['prediction']}") for row in rows)
    assert right / len(rows) == pytest.approx(accuracy)
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    assert len((tmp_path / "last.csv").read_text().splitlines()) == 361


def test_predict_refuses_what_it_cannot_read(folder, project, home):
    (project / "runs" / "note.txt").write_text("no image")
    (project / "runs" / "none").mkdir()
    run_id = f"runs/{folder.name}"
    commands = [
        f"predict.py {run_id} runs/{name} --output out.csv" for name in ("note.txt", "none", "nowhere")
    ]
    for done in run_many(project, commands, home=home):
        assert done.code == 1
        assert re.search("^error: .*runs/(note.txt|none|nowhere)", done.err.splitlines()[-1])
        assert "Traceback" not in done.err
    assert not (project / "out.csv").exists()


def test_checkpoint_of_another_network_is_named(folder, bake, home):
    other = bake(accept_hooks=False)
    network = other / "my_project" / "network.py"
    network.write_text(network.read_text().replace("nn.Linear(width, num_classes)", "nn.Linear(width, 7)"))
    checkpoint = folder / "checkpoints" / "best.ckpt"
    done = run(other, f"evaluate.py {checkpoint}", home=home)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"error: {checkpoint} does not fit Model, whose code")
    assert "Traceback" not in done.err


def test_settings_of_a_run_repeat_it(project, home):
    settings = "--model.lr 0.01 --data.batch_size 32 --trainer.max_epochs 3 --tracking.notes one"
    runs = []
    for command in (f"train.py {TINY} {settings}", "train.py --config {}/config.yaml"):
        before = set((project / "runs").glob("*/config.yaml"))
        done = run(project, command.format(*runs), home=home)
        assert done.code == 0, done.err
        (new,) = set((project / "runs").glob("*/config.yaml")) - before
        runs.append(new.parent)
    assert (runs[1] / "metrics.csv").read_bytes() == (runs[0] / "metrics.csv").read_bytes()
    assert (runs[1] / "config.yaml").read_bytes() == (runs[0] / "config.yaml").read_bytes()


def test_resume_goes_on_in_the_same_folder(bake, home):
    project = bake(accept_hooks=False)
    first = run(project, f"train.py {TINY}", home=home)
    assert first.code == 0, first.err
    (config,) = (project / "runs").glob("*/config.yaml")
    folder = config.parent
    done = run(project, f"train.py --resume runs/{folder.name} --trainer.max_epochs 2", home=home)
    assert done.code == 0, done.err
    assert {path.name for path in (project / "runs").iterdir()} == {folder.name, "wandb"}
    assert yaml.safe_load(config.read_text())["trainer"]["max_epochs"] == 2
    assert logged(folder)["epoch"] == 2
    recorded = list((project / "runs" / "wandb").glob("offline-run-*"))
    assert len(recorded) == 2
    assert all(path.name.endswith(folder.name) for path in recorded)


# Validates and tests the best checkpoint of a run with nothing but Lightning.
MEASURE = """
import sys
sys.path.insert(0, ".")
from lightning import Trainer
from my_project.data import DataModule
from my_project.model import Model

model = Model.load_from_checkpoint(f"{sys.argv[1]}/checkpoints/best.ckpt", weights_only=True)
trainer = Trainer(limit_val_batches=2, logger=False, enable_progress_bar=False, accelerator="cpu")
print(trainer.validate(model, DataModule(), verbose=False)[0]["val/loss"])
print(trainer.test(model, DataModule(), verbose=False)[0]["test/loss"])
"""
AVERAGES = {
    "EMAWeightAveraging": "--trainer.callbacks.init_args.decay 0.8",
    "StochasticWeightAveraging": "--trainer.callbacks.swa_lrs 0.01 --trainer.callbacks.swa_epoch_start 2",
}


def test_the_best_checkpoint_holds_the_averaged_weights_that_were_validated(bake, home):
    """It is what train.py tests, too. SWA averages at the end: its result is validated last."""
    project = bake(accept_hooks=False)
    (project / "measure.py").write_text(MEASURE)
    commands = []
    for callback, flags in AVERAGES.items():
        root = f"--trainer.default_root_dir {callback}"
        longer = "--trainer.max_epochs 4 --trainer.limit_train_batches 8"
        commands.append(f"train.py {TINY} {longer} {root} --trainer.callbacks {callback} {flags}")
        commands.append(f"measure.py {callback}/run")
    variables = {"WANDB_RUN_ID": "run", "WANDB_MODE": "disabled"}
    done = run_many(project, commands, home=home, variables=variables)
    assert [each.code for each in done] == [0] * 4, [each.err for each in done]
    for callback, measured in zip(AVERAGES, done[1::2], strict=True):
        rows = pd.read_csv(project / callback / "run" / "metrics.csv")
        losses = rows[rows["name"] == "val/loss"]["value"]
        expected = losses.min() if callback == "EMAWeightAveraging" else losses.iloc[-1]
        tested = logged(project / callback / "run")["test/loss"]
        found = [float(line) for line in measured.out.split()[-2:]]
        assert found == pytest.approx([expected, tested], rel=1e-6)


def test_the_project_can_be_installed(bake, home, tmp_path):
    """Only the package is installed: experiments/, tests/ and runs/ are not packages of anyone."""
    project = bake(accept_hooks=False)
    (project / "runs").mkdir()
    (project / "tools").mkdir()
    install = ["-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index"]
    target = ["--quiet", "--target", str(tmp_path / "installed"), "."]
    done = subprocess.run(
        [sys.executable, *install, *target],
        cwd=project,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    installed = tmp_path / "installed"
    assert (installed / "my_project" / "harness" / "settings.py").exists()
    folders = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert folders == {"my_project"}

"""Settings reach what they name; a mistake in them gets one clear line and leaves nothing behind."""

import re
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from project import TINY, run, run_many

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

# Command, and what its one line must say.
MISTAKES = {
    "train.py --model.widht 5": ["unknown setting --model.widht", "--model.width"],
    "train.py --lr 0.1": ["unknown setting --lr", "--model.lr"],
    "train.py --trainer.max_epoch 3": ["unknown setting", "--trainer.max_epochs"],
    "train.py --nonsense 3": ["unknown setting --nonsense", "--help_all"],
    "train.py nonsense": ["unknown setting nonsense"],
    "train.py --trainer.max_epochs abc": ["trainer.max_epochs: abc is not allowed", "int or null"],
    "train.py --data.batch_size 2.5": ["data.batch_size: 2.5 is not allowed", "int"],
    "train.py --model.lr null": ["model.lr: None is not allowed", "float"],
    "train.py --trainer.max_epochs": ["--trainer.max_epochs", "expected one argument"],
    "train.py --trainer.precision 7": [
        "trainer.precision: 7 is not allowed; expected 64, 32, 16 or",
        "bf16-",
    ],
    "train.py --trainer.profiler nonsense": ["profiler", "simple"],
    "train.py --trainer.callbacks+=Nonsense": ["trainer.callbacks: Nonsense is not allowed", "class"],
    "train.py --trainer.strategy nonsense": ["nonsense", "ddp"],
    "train.py --trainer.accelerator gpu": ["gpu", "accelerator"],
    "train.py --trainer.devices 0": ["devices", "0"],
    "train.py --checkpoint.mode best": ["mode", "best", "min"],
    "train.py --early_stopping.monitor val/acc": ["early_stopping.monitor", "give --checkpoint.monitor"],
    "train.py --model.classes [a]": ["model.classes cannot be given", "taken from the data"],
    "train.py --data.batch_size 0": ["data.batch_size must be at least 1 (got 0)"],
    "train.py --data.drop_last true --data.batch_size 5000": ["no training batch", "batch_size is 5000"],
    "train.py --data.val_share 0.9": ["data.val_share + data.test_share", "below 1", "(got 0.9 and 0.2)"],
    "train.py --trainer.callbacks+=DeviceStatsMonitor": ["psutil", "install"],
    "train.py --trainer.max_epochs 0": ["trainer.max_epochs must be above 0", "evaluate.py"],
    "train.py --trainer.max_epochs -1": ["schedule", "trainer.max_steps", "trainer.max_epochs is -1"],
    "train.py --trainer.limit_train_batches 0": ["trainer.limit_train_batches must be above 0 (got 0)"],
    "train.py --trainer.val_check_interval 99": ["val_check_interval", "99", "batches (19)"],
    "train.py --trainer.default_root_dir config.yaml/runs": ["cannot write to", "config.yaml/runs"],
    "train.py --config nowhere.yaml": ["nowhere.yaml", "No such file"],
    "train.py --config broken.yaml": ["broken.yaml", "line 3"],
    "train.py --config text.yaml": ["text.yaml holds no settings"],
    "train.py --config latin1.yaml": ["latin1.yaml", "utf-8"],
    "train.py --config unknown.yaml": ["model.widht (unknown.yaml, line 3)", "model.width"],
    "train.py --config mistyped.yaml": ["trainer.max_epochs (mistyped.yaml, line 2): many", "int"],
    "train.py --config .": ["cannot read", "directory"],
    "train.py --resume": ["--resume", "expected one argument"],
    "train.py --resume nowhere": ["nowhere is not the folder of a run"],
    "train.py --resume experiments": ["experiments is not the folder of a run"],
    "train.py --resume http://localhost/runs/1": ["not the folder of a run"],
    "evaluate.py": ["name a run", "evaluate.py runs/<id>"],
    "evaluate.py nowhere": ["there is no checkpoint nowhere"],
    "evaluate.py empty_run": ["there is no checkpoint in", "before its first step"],
    "evaluate.py config.yaml": ["config.yaml is not a checkpoint"],
    "evaluate.py hostile.ckpt": ["hostile.ckpt holds more than plain values"],
    "evaluate.py bomb.ckpt": ["bomb.ckpt is not a checkpoint"],
    "predict.py nowhere image.png": ["there is no checkpoint nowhere"],
    "predict.py hostile.ckpt image.png": ["hostile.ckpt holds more than plain values"],
    "export.py hostile.ckpt": ["hostile.ckpt holds more than plain values"],
    "export.py nowhere": ["there is no checkpoint nowhere"],
    "export.py http://localhost/best.ckpt": ["there is no checkpoint http:"],
    "train.py --model.init_from hostile.ckpt": ["hostile.ckpt holds more than plain values"],
    "train.py --model.init_from bomb.ckpt": ["bomb.ckpt is not a checkpoint"],
    "train.py --model.init_from nowhere": ["there is no checkpoint nowhere"],
    "train.py --model.init_from https://localhost/a.ckpt": ["there is no checkpoint https:"],
    "train.py --model.init_from https://localhost/a.safetensors": ["https://localhost", "no such file"],
    "train.py --model.init_from broken.safetensors": ["broken.safetensors is no safetensors file"],
    "train.py --model.init_from other.ckpt": [
        "no weights of --model.init_from other.ckpt fit",
        "conv.weight [3, 3]",
        "network.",
    ],
    "train.py --model.init_from list.ckpt": ["list.ckpt holds no weights"],
}


class Hostile:
    """Make a folder when it is unpickled."""

    def __reduce__(self):
        return Path.mkdir, (Path("pwned"),)


@pytest.fixture(scope="module")
def project(bake) -> Path:
    folder = bake(accept_hooks=False)
    (folder / "broken.yaml").write_text("trainer:\n  max_epochs: 3\n max_steps: 4\n")
    (folder / "text.yaml").write_text("just text\n")
    (folder / "latin1.yaml").write_bytes(b"# caf\xe9\n")
    (folder / "unknown.yaml").write_text("model:\n  width: 3\n  widht: 4\n")
    (folder / "mistyped.yaml").write_text("trainer:\n  max_epochs: many\n")
    (folder / "empty_run").mkdir()
    (folder / "empty_run" / "config.yaml").write_text((folder / "config.yaml").read_text())
    torch.save({"state_dict": {}, "hyper_parameters": Hostile()}, folder / "hostile.ckpt")
    torch.save({"conv.weight": torch.zeros(3, 3)}, folder / "other.ckpt")
    torch.save([torch.zeros(3)], folder / "list.ckpt")
    (folder / "broken.safetensors").write_bytes(b"no weights")
    with zipfile.ZipFile(folder / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", bytes(50 << 20))
    return folder


@pytest.fixture(scope="module")
def answers(project, tmp_path_factory) -> dict:
    """Run all the mistakes."""
    done = run_many(project, list(MISTAKES), home=tmp_path_factory.mktemp("home"))
    assert not (project / "runs").exists(), "a start that fails before its first step leaves nothing"
    return dict(zip(MISTAKES, done, strict=True))


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_clear_line(answers, command):
    done = answers[command]
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 1
    assert "Traceback" not in done.err
    assert len(lines) == 1, done.err
    for words in MISTAKES[command]:
        assert words in lines[0]


def test_a_hostile_checkpoint_runs_nothing(answers, project):
    assert answers["evaluate.py hostile.ckpt"].code == 1
    assert not (project / "pwned").exists()


def test_a_mistake_ends_the_process_with_1(project, tmp_path):
    done = run(project, "train.py --model.widht 5", home=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: unknown setting --model.widht; did you mean --model.width?\n"


def test_settings_come_from_file_then_layer_then_flag(project, tmp_path):
    (project / "layer.yaml").write_text("model:\n  width: 5\n  dropout: 0.5\ntrainer:\n  max_epochs: 3\n")
    print_config = "train.py --config layer.yaml --model.dropout 0.25 --print_config"
    experiments = sorted((project / "experiments").glob("*.yaml"))
    assert experiments
    commands = [print_config, *(f"train.py --config {path} --print_config" for path in experiments)]
    layered, *others = run_many(project, commands, home=tmp_path)
    settings = yaml.safe_load(layered.out)
    assert settings["model"] | {"width": 5, "dropout": 0.25, "lr": 0.003} == settings["model"]
    assert settings["trainer"]["max_epochs"] == 3
    assert settings["trainer"]["log_every_n_steps"] == 10
    assert settings["tracking"]["project"] == "my-project"
    assert all(done.code == 0 and yaml.safe_load(done.out) for done in others)


def test_help_names_every_kind_of_setting(project, tmp_path):
    scripts = ["train.py", "evaluate.py", "predict.py", "export.py"]
    for done in run_many(project, [f"{script} --help" for script in scripts], home=tmp_path):
        assert done.code == 0
        for setting in (
            "--config",
            "--model.width 24",
            "--data.batch_size null",
            "--trainer.accelerator auto",
        ):
            assert setting in done.out
        lines = done.out.splitlines()
        assert len(lines) <= 100, "two screens of fifty lines"
        assert max(map(len, lines)) <= 110
        assert "--help_all" in done.out


def test_help_knows_the_settings_of_its_tables(project, tmp_path):
    """Each setting that help.py names is one, and `--help_all` has all others."""
    tables = (project / "my_project" / "harness" / "help.py").read_text(encoding="utf-8")
    named = set(re.findall(r'"((?:trainer|checkpoint|early_stopping|tracking)\.[a-z_]+)\+?":', tables))
    short, whole, changed = run_many(
        project,
        ["train.py --help", "train.py --help_all", "train.py --model.width 7 -h"],
        home=tmp_path,
    )
    assert len(named) > 20
    assert [name for name in named if f"--{name}" not in whole.out] == []
    assert "--trainer.barebones" not in short.out
    assert "--trainer.barebones" in whole.out
    assert "--model.width 7" in changed.out


def test_settings_of_the_project_are_found_from_any_folder(project, tmp_path):
    done = run(tmp_path, f"{project}/train.py --print_config", home=tmp_path)
    assert yaml.safe_load(done.out)["tracking"]["project"] == "my-project"


# Flags, and what the output must say.
TRAINER_FLAGS = {
    "--trainer.fast_dev_run true": "",
    "--trainer.limit_val_batches 0": "nothing was validated: the newest checkpoint is kept",
    "--trainer.check_val_every_n_epoch 2": "nothing was validated: the newest checkpoint is kept",
    "--trainer.overfit_batches 2": "",
    "--trainer.max_steps 3": "",
    "--trainer.max_time 00:00:01:00": "",
    "--trainer.val_check_interval 2": "",
    "--trainer.num_sanity_val_steps 0": "",
    "--trainer.enable_progress_bar false": "",
    "--trainer.enable_model_summary false": "",
    "--trainer.deterministic true": "",
    "--trainer.precision bf16-mixed": "",
    "--trainer.profiler simple": "",
    "--trainer.gradient_clip_val 1.0": "",
    "--trainer.accumulate_grad_batches 2": "",
    "--checkpoint.monitor train/acc --checkpoint.mode max": "",
    "--checkpoint.monitor val/nonsense": "checkpoint.monitor is val/nonsense, which the model has not logged",
    "--checkpoint.monitor null": "",
    "--checkpoint.save_top_k 3 --checkpoint.save_last true": "",
    "--data.num_workers 1": "",
    "--trainer.callbacks Timer": "",
    "--trainer.callbacks LearningRateMonitor": "",
    "--trainer.callbacks RichProgressBar": "RichProgressBar needs a terminal",
    "--trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.01": "",
}


@pytest.fixture(scope="module")
def with_flags(project, tmp_path_factory) -> dict:
    """Train with each of the flags; return the finished commands."""
    home = tmp_path_factory.mktemp("home")
    commands = []
    for number, flags in enumerate(TRAINER_FLAGS):
        commands.append(f"train.py {TINY} {flags} --trainer.default_root_dir flags/{number}")
    return dict(zip(TRAINER_FLAGS, run_many(project, commands, home=home), strict=True))


@pytest.mark.parametrize("flags", TRAINER_FLAGS)
def test_flags_of_the_trainer_work(with_flags, flags):
    done = with_flags[flags]
    assert done.code == 0, done.out + done.err
    assert "test/acc" in done.out
    assert TRAINER_FLAGS[flags] in done.err


def test_the_settings_of_a_run_with_callbacks_can_be_read_again(with_flags, project, tmp_path):
    """Some callbacks have defaults that are objects, for which YAML has no word."""
    commands = []
    for number, flags in enumerate(with_flags):
        if "callbacks" in flags:
            (run_folder,) = (project / "flags" / str(number)).glob("*/config.yaml")
            commands.append(f"train.py --resume {run_folder.parent} --trainer.max_epochs 3")
    for done in run_many(project, commands, home=tmp_path):
        assert done.code == 0, done.err
        assert "\nepoch 2 " in done.err
        assert "Unable to serialize" not in done.err


def test_more_than_one_checkpoint_can_be_kept(with_flags, project):
    place = list(TRAINER_FLAGS).index("--checkpoint.save_top_k 3 --checkpoint.save_last true")
    (folder,) = (project / "flags" / str(place)).glob("*/checkpoints")
    names = {path.name for path in folder.iterdir()}
    assert {"best.ckpt", "last.ckpt"} < names
    assert torch.load(folder / "best.ckpt", weights_only=True)["global_step"] == 4

"""Settings reach what they name; a mistake in them gets one clear line and leaves nothing behind."""

import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from project import TINY, run, run_many

pytestmark = pytest.mark.slow

# Command, and what its one line must say.
MISTAKES = {
    "train.py --model.widht 5": ["unknown setting --model.widht", "--model.width"],
    "train.py --lr 0.1": ["unknown setting --lr", "--model.lr"],
    "train.py --trainer.max_epoch 3": ["unknown setting", "--trainer.max_epochs"],
    "train.py --nonsense 3": ["unknown setting --nonsense", "--help"],
    "train.py nonsense": ["unknown setting nonsense"],
    "train.py --trainer.max_epochs abc": ["trainer.max_epochs: abc is not allowed", "int or null"],
    "train.py --data.batch_size 2.5": ["data.batch_size: 2.5 is not allowed", "int"],
    "train.py --model.lr null": ["model.lr: None is not allowed", "float"],
    "train.py --trainer.max_epochs": ["--trainer.max_epochs", "expected one argument"],
    "train.py --trainer.precision 7": ["trainer.precision: 7 is not allowed", "bf16-mixed"],
    "train.py --trainer.profiler nonsense": ["profiler", "simple"],
    "train.py --trainer.callbacks+=Nonsense": ["trainer.callbacks: Nonsense is not allowed", "class"],
    "train.py --trainer.strategy nonsense": ["nonsense", "ddp"],
    "train.py --trainer.accelerator gpu": ["gpu", "accelerator"],
    "train.py --trainer.devices 0": ["devices", "0"],
    "train.py --checkpoint.mode best": ["mode", "best", "min"],
    "train.py --checkpoint.monitor val/nonsense": ["val/nonsense is never logged", "val/loss", "val/acc"],
    "train.py --checkpoint.monitor null": ["None is never logged", "val/loss"],
    "train.py --early_stopping.monitor val/acc": ["early_stopping.monitor", "checkpoint.monitor"],
    "train.py --model.classes [a]": ["model.classes", "data.classes"],
    "train.py --data.batch_size 0": ["data", "batch_size=0"],
    "train.py --trainer.callbacks+=DeviceStatsMonitor": ["psutil", "install"],
    "train.py --data.val_share 0.9": ["val_share 0.9", "test_share 0.2"],
    "train.py --checkpoint.save_top_k 3": ["best.ckpt and last.ckpt", "save_top_k 1 or 0"],
    "train.py --checkpoint.save_last true": ["best.ckpt and last.ckpt", "no save_last"],
    "train.py --trainer.max_epochs -1": ["needs an end", "trainer.max_steps"],
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
    "evaluate.py nowhere": ["there is no checkpoint nowhere"],
    "evaluate.py empty_run": ["there is no checkpoint", "best.ckpt"],
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
    "train.py --model.init_from https://localhost/a.safetensors": ["there is no file https://localhost"],
    "train.py --model.init_from broken.safetensors": ["broken.safetensors is no safetensors file"],
    "train.py --model.init_from other.ckpt": [
        "other.ckpt",
        "no weights fit",
        "conv.weight [3, 3]",
        "network.",
    ],
    "train.py --model.init_from list.ckpt": ["list.ckpt holds", "no weights"],
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
    return dict(
        zip(MISTAKES, run_many(project, list(MISTAKES), home=tmp_path_factory.mktemp("home")), strict=True)
    )


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_clear_line(answers, command):
    done = answers[command]
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code != 0
    assert "Traceback" not in done.err
    assert len(lines) == 1, done.err
    for words in MISTAKES[command]:
        assert words in lines[0]


def test_a_mistake_in_the_settings_leaves_no_run(answers, project):
    known_in_fit = ("val/nonsense", "monitor null", "batch_size 0", "DeviceStatsMonitor", "max_epochs -1")
    runs = list((project / "runs").glob("*"))
    assert len(runs) == sum(command.endswith(known_in_fit) for command in MISTAKES)


def test_a_hostile_checkpoint_runs_nothing(answers, project):
    assert answers["evaluate.py hostile.ckpt"].code == 1
    assert not (project / "pwned").exists()


def test_a_mistake_ends_the_process_with_1(project, tmp_path):
    done = run(project, "train.py --model.widht 5", home=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: unknown setting --model.widht; did you mean --model.width?\n"


def test_a_bug_keeps_its_traceback(bake, tmp_path):
    project = bake(accept_hooks=False)
    network = project / "my_project" / "network.py"
    network.write_text(network.read_text().replace("self.backbone(images", "self.spine(images"))
    done = run(project, "train.py", home=tmp_path)
    assert done.code == 1
    assert "AttributeError: 'Network' object has no attribute 'spine'" in done.err


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
    (done,) = run_many(project, ["train.py --help"], home=tmp_path)
    assert done.code == 0
    for setting in (
        "--resume",
        "--config",
        "--model.width",
        "--data.batch_size",
        "--tracking.tags",
        "--trainer.devices",
    ):
        assert setting in done.out


def test_settings_of_the_project_are_found_from_any_folder(project, tmp_path):
    done = run(tmp_path, f"{project}/train.py --print_config", home=tmp_path)
    assert yaml.safe_load(done.out)["tracking"]["project"] == "my-project"


TRAINER_FLAGS = [
    "--trainer.fast_dev_run true",
    "--trainer.limit_val_batches 0",
    "--trainer.check_val_every_n_epoch 2",
    "--trainer.overfit_batches 2",
    "--trainer.max_steps 3",
    "--trainer.max_time 00:00:01:00",
    "--trainer.val_check_interval 2",
    "--trainer.num_sanity_val_steps 0",
    "--trainer.enable_progress_bar false",
    "--trainer.enable_model_summary false",
    "--trainer.deterministic true",
    "--trainer.precision bf16-mixed",
    "--trainer.profiler simple",
    "--trainer.gradient_clip_val 1.0",
    "--trainer.accumulate_grad_batches 2",
    "--checkpoint.monitor train/acc --checkpoint.mode max",
    "--data.num_workers 1",
]


def test_flags_of_the_trainer_work(project, tmp_path):
    commands = [f"train.py {TINY} {flags}" for flags in TRAINER_FLAGS]
    done = run_many(project, commands, home=tmp_path)
    for command, result in zip(commands, done, strict=True):
        assert result.code == 0, f"{command}\n{result.err}"
        assert "test/acc" in result.out, command

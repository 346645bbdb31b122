"""A model starts from the weights of another: what is taken over, what is frozen, what comes of it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image
from project import Done, run_many
from sklearn.datasets import load_digits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

SEEDS = range(4)  # of the ten labelled examples of a class, and of all else
LAYER = "--config experiments/finetune.yaml"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    """Bake a project with digits 0 to 4 in `low`, and 5 to 9 in `high-SEED`, ten of each to train on."""
    project = bake(accept_hooks=False)
    digits = load_digits()
    images = (digits.images / 16 * 255).round().astype(np.uint8)

    def save(folder: str, label: int, indices) -> None:
        (project / folder / str(label)).mkdir(parents=True)
        for i in indices:
            Image.fromarray(images[i]).save(project / folder / str(label) / f"{i}.png")

    for label in range(10):
        found = np.flatnonzero(digits.target == label)
        if label < 5:
            save("low", label, found)
            continue
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(found)
            for name, part in {"train": order[:10], "val": order[10:20], "test": order[20:]}.items():
                save(f"high-{seed}/{name}", label, part)
    return project


def train(data: str, to: str, flags: str = "", epochs: int = 15) -> str:
    """Return the command that trains on `data` and leaves its run in the folder `to`."""
    small = "--data.num_workers 0 --data.batch_size 10 --trainer.enable_model_summary false"
    where = f"--data.path {data} --trainer.default_root_dir {to}"
    return f"train.py {where} --trainer.max_epochs {epochs} {small} {flags}"


def run_of(folder: Path) -> Path:
    """Return the only run in a folder of runs, where W&B keeps its files as well."""
    (config,) = folder.glob("*/config.yaml")
    return config.parent


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def pretrained(project, home) -> Path:
    """Return the run that learned digits 0 to 4."""
    (done,) = run_many(project, [train("low", "pretrained", "--data.batch_size 64", epochs=20)], home=home)
    assert done.code == 0, done.err
    return run_of(project / "pretrained")


def test_fine_tuning_beats_training_from_scratch(project, pretrained, home):
    """On digits it has never seen, with ten labels of each."""
    flags = {"scratch": "", "tuned": f"{LAYER} --model.init_from {pretrained}"}
    commands = [
        train(f"high-{seed}", f"{name}-{seed}", f"{start} --seed_everything {seed}")
        for name, start in flags.items()
        for seed in SEEDS
    ]
    accuracies = [accuracy(done) for done in run_many(project, commands, home=home)]
    scratch, tuned = accuracies[: len(SEEDS)], accuracies[len(SEEDS) :]
    assert mean(tuned) > mean(scratch), (scratch, tuned)


def accuracy(done: Done) -> float:
    assert done.code == 0, done.err
    return float(re.search(r"^test/acc +(\S+)$", done.out, re.MULTILINE)[1])


def test_what_is_loaded_is_said_and_the_backbone_is_frozen_first(project, pretrained, home):
    init = f"--model.init_from {pretrained}"
    wide = f"--model.init_from {pretrained}/checkpoints/best.ckpt --model.dropout 0"
    others, same, frozen, thawed = run_many(
        project,
        [
            train("high-0", "others", f"{init} --model.lr 0", epochs=1),
            train("low", "same", f"{wide} --trainer.limit_train_batches 1 --model.lr 0", epochs=1),
            train("high-0", "frozen", f"{LAYER} {init}", epochs=2),
            train("high-0", "thawed", f"{LAYER} {init}", epochs=3),
        ],
        home=home,
    )
    for done in (others, same, frozen, thawed):
        assert done.code == 0, done.err

    head = ["network.head.1.weight", "network.head.1.bias"]
    shapes = "network.head.1.weight [5, 48], network.head.1.bias [5]"  # as many classes, but others
    for line in (
        f"Weights from {pretrained}, for other classes",
        "  loaded:  network.backbone (38 tensors)",
        f"  skipped: {shapes}",
        f"  new:     {shapes}",
    ):
        assert line in others.err
    assert "  loaded:  network.backbone (38 tensors), network.head (2 tensors)" in same.err
    assert "  skipped: nothing" in same.err
    assert "  new:     nothing" in same.err

    source = weights(pretrained, "best")
    learned = [name for name in source if not re.search(r"running_|num_batches", name)]
    equal = {}
    for name in ("others", "same", "frozen", "thawed"):
        found = weights(run_of(project / name))
        equal[name] = {key for key in found if torch.equal(found[key], source[key])}
    assert set(learned) - equal["others"] == set(head)
    assert set(learned) <= equal["same"]
    convolutions = {name for name in source if source[name].ndim > 2 and "backbone" in name}
    assert len(convolutions) > 5
    assert convolutions <= equal["frozen"]
    assert not convolutions & equal["thawed"]

    rows = [line.split(",") for line in (run_of(project / "thawed") / "metrics.csv").read_text().splitlines()]
    fast, slow = (
        [float(value) for _, name, value in rows if name == group] for group in ("train/lr", "train/lr1")
    )
    assert slow == pytest.approx([0.3 * rate for rate in fast])
    assert max(fast) > 0


def test_a_run_does_not_need_what_it_started_from(project, pretrained, home):
    """Neither its checkpoint nor going on with it; and only what fits is taken over."""
    copy = project / "copy.ckpt"
    shutil.copy(pretrained / "checkpoints" / "best.ckpt", copy)
    flags = f"--model.init_from {copy} --model.label_smoothing 0"
    (first,) = run_many(project, [train("high-1", "alone", flags, epochs=1)], home=home)
    assert first.code == 0, first.err
    copy.unlink()
    run = run_of(project / "alone")
    assert str(copy) in (run / "config.yaml").read_text()
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert "init_from" not in checkpoint["hyper_parameters"]
    resumed, evaluated, narrow = run_many(
        project,
        [
            f"train.py --resume {run} --trainer.max_epochs 2",
            f"evaluate.py {run}",
            train("high-1", "narrow", f"--model.init_from {pretrained} --model.width 8", epochs=1),
        ],
        home=home,
    )
    assert resumed.code == 0, resumed.err
    assert "Weights from" not in resumed.err
    assert evaluated.code == 0, evaluated.err
    assert narrow.code == 1
    assert "no weights of --model.init_from" in narrow.err
    assert "Traceback" not in narrow.err


def under_other_names(source: Path, target: Path, rename: Callable[[str], str]) -> Path:
    """Write a copy of a checkpoint whose weights have other names."""
    checkpoint = torch.load(source, weights_only=True)
    names = checkpoint["state_dict"]
    checkpoint["state_dict"] = {rename(name): value for name, value in names.items()}
    torch.save(checkpoint, target)
    return target


RENAMED = {
    "compiled": lambda name: name.replace("network.", "network._orig_mod."),
    "bare": lambda name: name.removeprefix("network."),
    "wrapped": lambda name: f"model.{name}",
}


def test_weights_are_found_under_other_names(project, pretrained, home):
    """As torch.compile has changed them, and with a prefix more or less."""
    best = pretrained / "checkpoints" / "best.ckpt"
    commands = [f"evaluate.py {pretrained}"]
    for kind, rename in RENAMED.items():
        file = under_other_names(best, project / f"{kind}.ckpt", rename)
        commands.append(train("low", kind, f"--model.init_from {file} --trainer.limit_train_batches 1", 1))
        commands.append(f"evaluate.py {file} --data.path low")
    expected, *others = run_many(project, commands, home=home)
    assert expected.code == 0, expected.err
    for started, evaluated in zip(others[::2], others[1::2], strict=True):
        assert started.code == 0, started.err
        assert "  skipped: nothing" in started.err
        assert "  new:     nothing" in started.err
        assert "  renamed: " in started.err
        assert evaluated.out == expected.out, evaluated.err


def test_freezing_works_with_any_schedule_and_says_what_it_needs(project, pretrained, home):
    other = project.parent / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("runs", "scratch*", "tuned*"))
    model = other / "my_project" / "model.py"
    text = model.read_text()
    schedule = (
        "torch.optim.lr_scheduler.SequentialLR(optimizer, [torch.optim.lr_scheduler.LinearLR(optimizer), "
        "torch.optim.lr_scheduler.ConstantLR(optimizer)], [5])"
    )
    assert text.count("torch.optim.lr_scheduler.LambdaLR(optimizer, factor)") == 1
    model.write_text(text.replace("torch.optim.lr_scheduler.LambdaLR(optimizer, factor)", schedule))
    command = train("high-0", "sequential", f"{LAYER} --model.init_from {pretrained}", epochs=3)
    (done,) = run_many(other, [command], home=home)
    assert done.code == 0, done.err
    before, after = weights(pretrained, "best"), weights(run_of(other / "sequential"))
    name = "network.backbone.0.0.weight"
    assert not torch.equal(before[name], after[name])

    model.write_text(text.replace("self._parameter_groups()", "self.network.head.parameters()"))
    (left_out,) = run_many(other, [train("high-0", "left-out", LAYER, epochs=1)], home=home)
    assert left_out.code == 1
    assert "configure_optimizers leaves out network.backbone." in left_out.err
    assert "Traceback" not in left_out.err

    model.write_text(text)
    network = other / "my_project" / "network.py"
    network.write_text(network.read_text().replace("self.backbone", "self.trunk"))
    (missing,) = run_many(other, [train("high-0", "trunk", f"{LAYER} --model.backbone_lr 1", 1)], home=home)
    assert missing.code == 1
    assert "FreezeBackbone needs Model.network.backbone" in missing.err
    assert "Traceback" not in missing.err

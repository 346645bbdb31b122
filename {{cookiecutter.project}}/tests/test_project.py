"""What must stay true of any model and any data: plain Lightning code of yours passes as it is.

It takes seconds, on a CPU, without network. What your code has no hooks for is skipped.
"""

import functools
import signal
import sys
from pathlib import Path
from statistics import mean

import pytest
import torch
from lightning import Trainer

import evaluate
import train

DEBUG = Path(train.__file__).with_name("experiments") / "debug.yaml"

# What libraries warn of in your code is no reason for these tests to fail.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open no W&B run."""
    monkeypatch.setenv("WANDB_MODE", "disabled")


def call(script, *arguments: str | Path) -> int | str | None:
    """Run a script as its command does; return its exit code, 0 or None if all is well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
        try:
            script.main()
        except SystemExit as end:
            return end.code
    return 0


def debug_run(root: Path, *settings: str) -> tuple[int | str | None, Path]:
    """Train on a few batches of two epochs; return the exit code and the run's folder."""
    flags = ["--config", str(DEBUG), "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", *settings]
    code = call(train, *flags, "--trainer.default_root_dir", root)
    runs = [path.parent for path in root.glob("*/config.yaml")]
    assert len(runs) == 1, f"exit code {code}"
    return code, runs[0]


def load(run: Path, name: str) -> dict:
    """Load a checkpoint that holds nothing but plain values."""
    return torch.load(run / "checkpoints" / name, weights_only=True, map_location="cpu")


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list:
    """Return a list that gets the metrics of each test that is run from now on."""
    found = []
    test = Trainer.test

    @functools.wraps(test)
    def recording(*args, **kwargs):
        metrics = test(*args, **kwargs)
        found.append(metrics)
        return metrics

    monkeypatch.setattr(Trainer, "test", recording)
    return found


def test_it_trains_and_evaluates_to_the_same_metrics(tmp_path: Path, tested: list):
    code, run = debug_run(tmp_path)
    assert not code
    for checkpoint in (run / "checkpoints").glob("*.ckpt"):
        assert "state_dict" in load(run, checkpoint.name)
    if not tested:
        pytest.skip("there is no test_step, or nothing to test on")
    assert not call(evaluate, run)
    first, again = tested
    assert len(again) == len(first)
    for metrics, same in zip(first, again, strict=True):
        assert same == pytest.approx(metrics, rel=1e-6)


def test_it_is_stopped_and_resumes_as_if_it_had_never_been(tmp_path: Path, monkeypatch):
    code, whole = debug_run(tmp_path / "whole")
    assert not code

    hook = train.Model.on_train_batch_start
    begun = []

    def stop_in_second_batch(*args, **kwargs):
        begun.append(args)
        if len(begun) == 2:
            signal.raise_signal(signal.SIGTERM)
        return hook(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(train.Model, "on_train_batch_start", stop_in_second_batch)
        code, stopped = debug_run(tmp_path / "stopped")
    assert code == 128 + signal.SIGTERM
    assert not call(train, "--resume", stopped)

    expected = load(whole, "last.ckpt")
    found = load(stopped, "last.ckpt")
    assert found["global_step"] == expected["global_step"]
    weights = expected["state_dict"]
    different = [name for name in weights if not torch.equal(weights[name], found["state_dict"][name])]
    assert different == [], "something that your code draws or keeps is not in its checkpoint"


def test_it_learns_a_few_batches_by_heart(tmp_path: Path, monkeypatch):
    step = train.Model.training_step
    losses = []

    @functools.wraps(step)
    def recording(*args, **kwargs):
        output = step(*args, **kwargs)
        loss = output
        if isinstance(output, dict):
            loss = output.get("loss")
        if loss is not None:
            losses.append(loss.item())
        return output

    monkeypatch.setattr(train.Model, "training_step", recording)
    few = ["--trainer.overfit_batches", "3", "--trainer.max_epochs", "12"]
    code, _ = debug_run(tmp_path, *few, "--trainer.detect_anomaly", "false")
    assert not code
    if not losses:
        pytest.skip("training_step returns no loss")
    quarter = max(1, len(losses) // 4)
    first = mean(losses[:quarter])
    last = mean(losses[-quarter:])
    assert last < first - 0.01 * abs(first), "the loss does not fall"

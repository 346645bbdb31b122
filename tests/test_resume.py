"""A run goes on bit for bit, from the checkpoint before any of its steps; brute_force.py has the cases."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from project import environment

pytestmark = pytest.mark.slow

# How many steps each case has, and so checkpoints to go on from.
POINTS = {
    "default": 12,
    "augmentation": 12,
    "workers": 12,
    "plateau": 9,  # steps of two batches
    "plateau_rare_validation": 20,
    "validation_within": 12,
    "validation_always": 12,
    "max_steps": 10,
    "early_stop": 12,  # of 36
    "one_batch_epochs": 5,
    "average": 12,
    "logged": 12,
    "finetuning": 12,
}


@pytest.fixture(scope="module")
def answers(bake, tmp_path_factory) -> dict[str, dict]:
    """Run all cases in one process."""
    script = Path(__file__).with_name("brute_force.py")
    done = subprocess.run(
        [sys.executable, script, *POINTS, "ordinary_loader"],
        cwd=bake(accept_hooks=False),
        env=environment(tmp_path_factory.mktemp("home")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    return {answer.pop("case"): answer for answer in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("case", POINTS)
def test_every_step_is_a_point_to_go_on_from(answers, case):
    assert answers[case]["different"] == []
    assert answers[case]["points"] == POINTS[case]


def test_with_an_ordinary_loader_every_point_is_different(answers):
    assert len(answers["ordinary_loader"]["different"]) == answers["ordinary_loader"]["points"] == 12


def test_the_number_of_workers_changes_nothing(answers):
    assert (
        answers["workers"]["weights"] == answers["augmentation"]["weights"] != answers["default"]["weights"]
    )

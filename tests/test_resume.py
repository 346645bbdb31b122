"""A run goes on bit for bit, from the checkpoint before any of its steps; brute_force.py has the cases."""

import json
import socket
from pathlib import Path

import pytest
from project import run, start

pytestmark = pytest.mark.slow

# How many checkpoints to go on from each case has: one before each optimizer step, without the validation
# that stops early. Two epochs of three batches make six.
POINTS = {
    "shipped": 6,
    "finetuning": 9,
    "classifier": 9,
    "workers": 9,
    "plateau": 6,  # steps of two batches, of which five make an epoch
    "plateau_rare_validation": 12,
    "validation_within": 6,
    "validation_always": 6,
    "max_steps": 7,
    "early_stop": 6,  # of 27
    "one_batch_epochs": 5,
    "average": 6,
    "stochastic_average": 10,  # the last in the epoch that Lightning adds to measure the batch norm
    "accumulation_scheduler": 5,
    "second_checkpoint": 6,
    "own_loader": 6,
    "own_loader_workers": 6,
    "sampler_without_length": 6,
    "batch_sampler_without_length": 6,
    "whole_batches": 6,
    "single_items": 6,
    "stream": 12,
    "stream_workers": 6,
    "stream_with_length": 12,
    "stream_too_long": 12,
    "stream_with_state": 12,
    "stream_of_batches": 6,
    "on_device": 9,
    "on_device_stream": 12,
    "combined": 10,
    "combined_workers": 10,
    "combined_max_size": 10,
    "lists": 6,
    "language": 6,
    "own_batch": 6,
    "gan": 6,
    "own_accumulation": 9,
    "skipped_steps": 6,
    "reloaded": 15,
    "boring": 6,
    "boring_own_loaders": 6,
    "boring_manual": 6,
    "demo": 6,
    "transformer": 6,
    "unusual_weights": 6,
}
SCRIPT = str(Path(__file__).with_name("brute_force.py"))
# The same with two processes, each with half of the batches where the data are dealt out to them.
POINTS_OF_TWO = {
    "shipped": 6,
    "classifier": 9,
    "plateau": 4,
    "stream": 12,
    "combined": 6,
    "language": 4,
    "own_accumulation": 6,
}
# In the added epoch StochasticWeightAveraging has taken its scheduler away; no step needs it any more.
KNOWN = {"stochastic_average": [[9, ["last.ckpt callbacks", "last.ckpt lr_schedulers"]]]}


@pytest.fixture(scope="module")
def answers(bake, tmp_path_factory) -> dict[str, dict]:
    """Run all cases in one process."""
    return brute_force(
        bake(accept_hooks=False), [*POINTS, "ordinary_loader"], tmp_path_factory.mktemp("home")
    )


def brute_force(project: Path, cases: list[str], home: Path) -> dict[str, dict]:
    """Return what brute_force.py found in each case."""
    done = run(project, [SCRIPT, *cases], home=home, timeout=560)
    assert done.code == 0, done.err
    return read_answers(done.out)


def read_answers(lines: str) -> dict[str, dict]:
    """Return what brute_force.py printed, by case."""
    answers = {}
    for line in lines.splitlines():
        if line.startswith("{"):
            answer = json.loads(line)
            answers[answer["case"]] = answer
    return answers


@pytest.mark.parametrize("case", POINTS)
def test_every_step_is_a_point_to_go_on_from(answers, case):
    assert "error" not in answers[case], answers[case]["error"]
    assert answers[case]["different"] == KNOWN.get(case, [])
    assert answers[case]["points"] == POINTS[case]


def test_with_an_ordinary_loader_every_point_is_different(answers):
    """The negative control: the comparison sees what the machinery is there to prevent."""
    different = answers["ordinary_loader"]["different"]
    assert len(different) == answers["ordinary_loader"]["points"] == 9
    for _, names in different:
        assert "last.ckpt state_dict" in names


def test_the_number_of_workers_changes_nothing(answers):
    assert answers["workers"]["weights"] == answers["classifier"]["weights"]
    assert answers["combined_workers"]["weights"] == answers["combined"]["weights"]


def test_sounds_are_changed_in_the_same_way_again(bake, tmp_path):
    """As the images of "shipped" are: data.py changes both in `on_after_batch_transfer`."""
    found = brute_force(bake(accept_hooks=False, task="audio"), ["shipped"], tmp_path)["shipped"]
    assert found.get("different") == [], found
    assert found["points"] == POINTS["shipped"]


@pytest.fixture(scope="module")
def answers_of_two(bake, tmp_path_factory) -> dict[str, dict]:
    """Run cases with two processes, which train together again and again."""
    project = bake(accept_hooks=False)
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ROOT": str(tmp_path_factory.mktemp("runs")),
    }
    both = []
    for rank in range(2):
        variables = together | {"LOCAL_RANK": str(rank)}
        both.append(start(project, home, " ".join([SCRIPT, *POINTS_OF_TWO]), variables))
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    return read_answers(outputs[0])


@pytest.mark.parametrize("case", POINTS_OF_TWO)
def test_every_step_of_two_processes_is_a_point_to_go_on_from(answers_of_two, case):
    answer = answers_of_two[case]
    assert "error" not in answer, answer["error"]
    assert answer["different"] == []
    assert answer["points"] == POINTS_OF_TWO[case]

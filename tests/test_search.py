"""Searches: the format of W&B, kills between and within trials, several processes, trials that end early.

Where a test is about the search alone, `inside/light.py` stands in for train.py.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from project import TINY, environment, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

FEW = f"{TINY} --trainer.limit_test_batches 2 --trainer.log_every_n_steps 1"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def project(bake) -> Path:
    project = bake(accept_hooks=False)
    shutil.copy(Path(__file__).parent / "inside" / "light.py", project)
    return project


@pytest.fixture
def runs(project) -> Path:
    """Return an empty folder of runs."""
    shutil.rmtree(project / "runs", ignore_errors=True)
    return project / "runs"


@pytest.fixture(scope="module")
def sweeps(project):
    """Return the module that reads sweep files, as search.py has it: without PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["search.py"])
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.syspath_prepend(str(project))
        import my_project.harness.optimize
        import my_project.harness.sweep

        assert "my_project.harness.training" not in sys.modules
        yield my_project.harness
        for name in [name for name in sys.modules if name.split(".")[0] == "my_project"]:
            del sys.modules[name]


def write(project: Path, name: str, **content) -> str:
    """Write a sweep file, of light.py where it says nothing else."""
    sweep = {"program": "light.py", "method": "grid", "metric": {"name": "val/loss"}, **content}
    (project / name).write_text(yaml.safe_dump(sweep))
    return name


def start(project: Path, home: Path, command: str) -> subprocess.Popen:
    """Start a search in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "search.py", *command.split()],
        cwd=project,
        env=environment(home) | {"WANDB_MODE": "disabled"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def search(project: Path, home: Path, command: str, code: int = 0) -> str:
    """Search until the end; return what was printed."""
    process = start(project, home, command)
    out = process.communicate(timeout=200)[0]
    assert process.returncode == code, out
    assert "Traceback" not in out
    return out


def compare(project: Path, home: Path, flags: str) -> str:
    """Return what runs.py prints."""
    command = [sys.executable, "runs.py", *flags.split()]
    return subprocess.check_output(command, cwd=project, env=environment(home), text=True)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def settings(runs: Path) -> list[dict]:
    """Return the settings of each run of light.py, in the order of their trials."""
    files = sorted(runs.glob("*/config.yaml"), key=lambda file: int(file.parent.name.rpartition("-")[2]))
    return [yaml.safe_load(file.read_text()) for file in files]


# The format


EVERYTHING = """
program: light.py
method: random
name: every feature
description: All that is honoured.
project: other
run_cap: 3
metric: {name: val/loss, goal: minimize, target: -1}
early_terminate: {type: hyperband, max_iter: 27, s: 2, eta: 3, strict: true}
command: ["${env}", "${interpreter}", "${program}", --seconds=0, "${args}"]
parameters:
  x: {min: 0.0, max: 1e-1}
  value: {value: null}
  values: {values: [a, 1e-4, [8, 4], true]}
  weighed: {values: [1, 2], probabilities: [0.9, 0.1]}
  integer: {min: 1, max: 3}
  model:
    parameters:
      lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
      network: {parameters: {width: {distribution: q_uniform, min: 0, max: 64, q: 16}}}
  l: {distribution: log_uniform, min: -2, max: 2}
  q_l: {distribution: q_log_uniform, min: 0, max: 5, q: 2}
  q_v: {distribution: q_log_uniform_values, min: 1, max: 100, q: 0.5}
  i: {distribution: inv_log_uniform, min: 0, max: 3}
  i_v: {distribution: inv_log_uniform_values, min: 0.01, max: 1}
  n: {distribution: normal, mu: 10, sigma: 2}
  q_n: {distribution: q_normal, mu: 10, sigma: 5, q: 5}
  l_n: {distribution: log_normal, mu: 1}
  q_l_n: {distribution: q_log_normal, mu: 3}
  c: {distribution: constant, value: 7}
  u: {distribution: uniform, min: 2, max: 3}
  iu: {distribution: int_uniform, min: 2, max: 3}
"""


def test_a_sweep_with_every_feature(project, home, runs):
    (project / "everything.yaml").write_text(EVERYTHING)
    search(project, home, "everything.yaml")
    tried = settings(runs)
    assert len(tried) == 3
    for one in tried:
        flags = one["flags"]
        assert flags["value"] == "null"
        assert flags["values"] in ("a", "0.0001", "[8, 4]", "true")
        assert 1e-4 <= float(flags["model.lr"]) <= 0.1
        assert flags["model.network.width"] in ("0", "16", "32", "48", "64")
        assert flags["seconds"] == "0"
        assert flags["tracking.project"] == "other"
        assert flags["tracking.group"] == "every-feature"
    again = search(project, home, "everything.yaml --trials 5")
    assert "run_cap in everything.yaml allows 3 trials (got --trials 5)" in again
    assert len(settings(runs)) == 3
    shutil.rmtree(runs)
    search(project, home, "everything.yaml")
    assert settings(runs) == tried, "what is drawn depends on the name and the number of the trial"


def test_the_distributions_are_those_of_wandb(sweeps, project):
    """Median and bounds of what is drawn, as their formulas give them."""
    (project / "everything.yaml").write_text(EVERYTHING)
    sweep = sweeps.sweep.read_sweep(project / "everything.yaml")
    generator = random.Random(0)
    expected = {
        "x": (0.05, 0, 0.1),
        "model.lr": (10**-2.5, 1e-4, 0.1),
        "model.network.width": (32, 0, 64),
        "l": (1, 2.718**-2, 2.7183**2),
        "q_l": (12, 0, 148),
        "q_v": (10, 1, 100),
        "i": (2.718**-1.5, 2.718**-3, 1),
        "i_v": (0.1, 0.01, 1),
        "n": (10, 1, 19),
        "q_n": (10, -15, 35),
        "l_n": (2.718, 0, 300),
        "q_l_n": (20, 0, 3000),
        "u": (2.5, 2, 3),
        "integer": (2, 1, 3),
    }
    for name, (median, low, high) in expected.items():
        parameter = sweep.parameters[name]
        values = [parameter.value(parameter.draw(generator)) for _ in range(3000)]
        assert statistics.median(values) == pytest.approx(median, rel=0.12), name
        assert low - 1e-3 * abs(low) <= min(values), name
        assert max(values) <= high + 1e-3 * abs(high), name
    weighed = sweep.parameters["weighed"]
    counts = Counter(weighed.value(weighed.draw(generator)) for _ in range(1000))
    assert counts[1] == pytest.approx(900, abs=40)
    assert {type(sweep.parameters[name].value(0.4)) for name in ("q_l", "q_n", "iu")} == {int}


RANDOM = "method: random\nmetric: {name: val/loss}\nrun_cap: 2\n"
GRID = "method: grid\n"
WRONG = {
    "method: best\nparameters: {x: {value: 1}}": "method must be one of grid, random, bayes (got best)",
    "method: grid": "parameters",
    "parameters: {x: {value: 1}}": "method must be one of",
    "just text": "is no sweep file",
    "a: [": "cannot be read as YAML",
    GRID + "parameters: {x: {min: 0.0, max: 1.0}}": "a grid has no end with distribution uniform",
    GRID + "parameters: {x: {values: []}}": "x: values must be a list of at least one value (got [])",
    GRID + "parameters: {x: 3}": "x: give value, values, or min and max (got 3)",
    GRID + "controller: {type: local}\nparameters: {x: {value: 1}}": "does not know controller",
    GRID + "parameters: {x: {value: 1}}\ncommand: ['${args_json}']": "does not know ${args_json}",
    RANDOM + "parameters: {x: {distribution: beta, a: 1}}": "x: search.py does not know distribution beta",
    RANDOM + "parameters: {x: {min: 0, max: 9, q: 3}}": "x: q is not possible; possible: max, min; q needs",
    RANDOM + "parameters: {x: {distribution: normal, min: 0}}": "x: min is not possible with distribution",
    RANDOM + "parameters: {x: {min: 3, max: 1}}": "x: min must not be above max (got 3 and 1)",
    RANDOM + "parameters: {x: {min: 3}}": "x: max is missing",
    RANDOM + "parameters: {x: {min: a, max: 2}}": "x: min must be a number (got a)",
    RANDOM + "parameters: {x: {values: [1, 2], probabilities: [1]}}": "x: probabilities must be 2 numbers",
    RANDOM + "parameters: {x: {distribution: log_uniform_values, min: 0, max: 1}}": "must be above 0 (got 0)",
    RANDOM + "parameters: {x: {distribution: log_uniform, min: 32, max: 4096}}": "are exponents",
    RANDOM + "parameters: {x: {value: 1}}\nearly_terminate: {type: envelope}": "type: hyperband",
    RANDOM + "parameters: {x: {value: 1}}\nearly_terminate: {type: hyperband, s: 2}": "needs min_iter",
    RANDOM + "parameters: {x: {value: 1}}\nearly_terminate: {type: hyperband, eta: 0}": "(got 0)",
    "method: random\nmetric: {name: a, impute: best}\nparameters: {x: {value: 1}}": "metric: impute is not",
    "method: random\nmetric: {name: a, goal: up}\nparameters: {x: {value: 1}}": "(got up)",
    "method: bayes\nparameters: {x: {value: 1}}": "method bayes needs a metric",
    GRID + "run_cap: 0\nparameters: {x: {value: 1}}": "run_cap must be a number of trials above 0 (got 0)",
}


def test_what_cannot_be_done_is_refused_in_a_line(sweeps, project):
    for text, expected in WRONG.items():
        (project / "wrong.yaml").write_text(text)
        with pytest.raises(sweeps.errors.UserError) as error:
            sweeps.sweep.read_sweep(project / "wrong.yaml")
        assert expected in str(error.value), text
        assert len(str(error.value)) <= 400


def test_bayes_comes_nearer_than_chance(sweeps, project):
    """Of the same number of trials, those that Optuna proposes are better."""
    content = {"min": -1.0, "max": 1.0}
    name = write(project, "bayes.yaml", method="bayes", parameters={"x": content, "y": content})
    sweep = sweeps.sweep.read_sweep(project / name)

    def loss(points):
        return (points["x"] - 0.3) ** 2 + (points["y"] - 0.8) ** 2

    class Tried:
        def __init__(self, points):
            self.points = points
            self.end = "finished"

    proposed = []
    for seed in range(40):
        values = [[loss(trial.points)] for trial in proposed]
        proposed.append(Tried(sweeps.optimize.propose(sweep, False, proposed, values, seed)))
    later = [loss(trial.points) for trial in proposed[20:]]
    first = [loss(trial.points) for trial in proposed[:10]]
    assert statistics.median(later) < statistics.median(first) / 2


# The search


def test_bayes_with_a_picture_and_the_best_command(project, home, runs, pictures):
    parameters = {"x": {"min": 0.0, "max": 2.0}, "seconds": {"values": [0, 0.001]}}
    name = write(project, "b.yaml", method="bayes", parameters=parameters)
    out = search(project, home, f"{name} --trials 5 --jobs 2 --epochs=2")
    assert out.count("\ntrial ") == 5
    losses = []
    for file in runs.glob("2*/metrics.csv"):
        losses += [float(line.split(",")[2]) for line in file.read_text().splitlines()]
    assert len(losses) == 10
    assert f"best {min(losses):.4f}"[:9] in out
    (command,) = [line for line in out.splitlines() if line.startswith("train it again")]
    assert "light.py --epochs=2 --seconds=" in command
    assert (runs / "search-b" / "search.png").read_bytes()[1:4] == b"PNG"
    assert {one["threads"] for one in settings(runs)} == {"1"}


def test_hyperband_ends_trials_early(project, home, runs):
    parameters = {"x": {"values": [0, 0.1, 3, 4]}, "epochs": {"value": 20}, "seconds": {"value": 0.05}}
    rule = {"type": "hyperband", "min_iter": 3, "eta": 2}
    name = write(project, "h.yaml", parameters=parameters, early_terminate=rule)
    out = search(project, home, name)
    assert out.count("(ended after") == 2
    rows = [len((run / "metrics.csv").read_text().splitlines()) for run in sorted(runs.glob("2*"))]
    assert rows[:2] == [20, 20]
    assert max(rows[2:]) < 20
    assert compare(project, home, "").count("pruned at step") == 2


def test_several_processes_share_a_search(project, home, runs):
    parameters = {"x": {"values": list(range(8))}, "seconds": {"value": 0.2}}
    name = write(project, "shared.yaml", parameters=parameters)
    processes = [start(project, home, f"{name} --jobs 2"), start(project, home, name)]
    trained = []
    for process in processes:
        out = process.communicate(timeout=100)[0]
        assert process.returncode == 0, out
        trained.append([line for line in out.splitlines() if line.startswith("trial ")])
    assert all(trained)
    assert len(trained[0]) + len(trained[1]) == 8
    assert [one["flags"]["x"] for one in settings(runs)] == list("01234567")
    assert [file.read_text() for file in runs.glob("*/starts")] == ["--tracking.group=shared\n"] * 8


@pytest.mark.parametrize("whom", ["search", "both"])
def test_a_killed_search_goes_on(project, home, runs, whom):
    """The trial that was trained is continued, or waited for if only the search was killed."""
    parameters = {"x": {"values": [1, 2, 3]}, "epochs": {"value": 10}, "seconds": {"value": 0.1}}
    name = write(project, "killed.yaml", parameters=parameters)
    process = start(project, home, name)
    second = runs / "search-killed" / "trials" / "00001.yaml"
    wait_for(lambda: second.exists() and len(list(runs.glob("2*-1/metrics.csv"))) == 1)
    if whom == "both":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
    out = search(project, home, name)
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("trial")] == [
        "trial 1",
        "trial 2",
    ]
    assert [one["flags"]["x"] for one in settings(runs)] == list("123")
    starts = [(run / "starts").read_text().split() for run in sorted(runs.glob("2*"))]
    assert [len(one) for one in starts] == [1, 2 if whom == "both" else 1, 1]
    assert all(len((run / "metrics.csv").read_text().splitlines()) == 10 for run in runs.glob("2*"))
    assert "trial" not in [line.split()[0] for line in search(project, home, name).splitlines()]


def test_ctrl_c_ends_the_trials_and_the_same_command_goes_on(project, home, runs):
    parameters = {"x": {"values": [1, 2]}, "epochs": {"value": 30}, "seconds": {"value": 0.1}}
    name = write(project, "c.yaml", parameters=parameters)
    process = start(project, home, f"{name} --jobs 2")
    wait_for(lambda: len(list(runs.glob("2*/metrics.csv"))) == 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert all(len(file.read_text().splitlines()) < 30 for file in runs.glob("2*/metrics.csv"))
    search(project, home, name)
    assert len(settings(runs)) == 2


def test_a_trial_that_fails_costs_one_and_three_in_a_row_end_the_search(project, home, runs):
    out = search(project, home, write(project, "f.yaml", parameters={"x": {"values": [1, 500, 2]}}))
    assert "trial 1: x=500  failed: x is too large (500.0)" in out
    assert out.count("val/loss 2") >= 1
    out = search(project, home, write(project, "g.yaml", parameters={"x": {"min": 200, "max": 299}}), code=1)
    last = out.splitlines()[-1]
    assert last.startswith("error: 3 trials in a row failed; the last: x is too large (202.0)")
    assert len(last) <= 400


def test_another_sweep_under_the_same_name_is_refused(project, home, runs):
    name = write(project, "s.yaml", parameters={"x": {"values": [1]}})
    search(project, home, name)
    out = search(project, home, f"{name} --epochs=3", code=1)
    assert "began with no settings (got --epochs=3); give the same, or --name NEW" in out
    write(project, name, parameters={"x": {"values": [2]}})
    out = search(project, home, name, code=1)
    assert "the search s began with another sweep file: parameters changed; give --name NEW" in out
    search(project, home, f"{name} --name other")
    assert len(list(runs.glob("2*/config.yaml"))) == 2
    write(project, name, parameters={"x": {"values": [2]}}, metric={"name": "val/acc", "goal": "maximize"})
    out = search(project, home, f"{name} --name third", code=1)
    assert "has no val/acc, which the search needs; it has val/loss: name one of these as metric" in out


def test_without_optuna_one_line_says_what_to_install(project, home, runs):
    hide = "import sys; sys.modules['optuna'] = None; sys.argv = sys.argv[1:]; "
    hide += "import runpy; runpy.run_path('search.py', run_name='__main__')"
    parameters = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}
    for method, code in [("bayes", 1), ("random", 0)]:
        name = write(project, f"{method}.yaml", method=method, parameters=parameters)
        command = [sys.executable, "-c", hide, "search.py", name, "--trials", "5"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment(home))
        assert done.returncode == code, done.stdout + done.stderr
        assert "Optuna is not installed: pip install optuna" in (done.stderr if code else done.stdout)
        assert "Traceback" not in done.stderr


# With train.py


def test_folds_killed_in_the_middle_are_as_if_nothing_had_been(project, home, runs):
    """Kill search and trial within the first fold: it ends with weights and metrics of an ordinary run."""
    flags = f"{FEW} --trainer.max_epochs 12 --early_stopping.patience 20"
    command = f"folds.yaml --trials 2 {flags}"
    process = start(project, home, command)

    def is_trained() -> bool:
        files = list(runs.glob("2*-folds-0/metrics.csv"))
        return bool(files) and files[0].read_text().count("val/loss") >= 3

    wait_for(is_trained, 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (killed,) = runs.glob("2*-folds-0")
    assert "killed at step" in compare(project, home, "")
    search(project, home, command)
    done = run(project, f"train.py {flags} --data.num_folds 5 --data.fold 0", home=home)
    assert done.code == 0, done.err
    (ordinary,) = [path for path in runs.glob("2*") if "folds" not in path.name]
    assert (killed / "metrics.csv").read_bytes() == (ordinary / "metrics.csv").read_bytes()
    weights, expected = (
        torch.load(path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for path in (killed, ordinary)
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    group = compare(project, home, "--group folds --csv").splitlines()
    names, values = (line.split(",") for line in group)
    row = dict(zip(names, values, strict=True))
    assert (row["tracking.group"], row["runs"]) == ("folds", "2")
    assert float(row["val/loss"]) > 0
    assert float(row["val/loss ±"]) > 0

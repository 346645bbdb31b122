"""What experiments/gpu.yaml asks for, as far as a CPU can tell: benchmarks/gpu.py measures it on a GPU."""

import platform
import re
import subprocess
import sys

import pytest
import torch
from project import TINY, environment, run, run_many

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

# Trains in the folder of a project with flags, and prints in which batches a number was read from a tensor.
SYNCS = """
import sys
sys.path.insert(0, ".")
import torch, train
from lightning import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode

class Syncs(Callback, TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            print("sync", self.batch)
        return function(*args, **(kwargs or {}))

    def on_train_batch_start(self, trainer, module, batch, index):
        self.batch = index
        if trainer.global_step == 1:
            self.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == 10:
            self.__exit__(None, None, None)

fit = Trainer.fit
def watched(self, *args, **kwargs):
    self.callbacks.insert(0, Syncs())
    fit(self, *args, **kwargs)
Trainer.fit = watched
train.main()
"""

NORMS = """
from lightning import Callback
from torch.nn.utils import get_total_norm

class Norms(Callback):
    def on_before_zero_grad(self, trainer, model, optimizer):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if gradients:
            print("norm", get_total_norm(gradients).item())
"""

# Prints how many pages are fetched while large blocks are used and given back, as a training step does.
FAULTS = """
import resource, sys
import torch
from my_project.harness.speed import keep_freed_memory

if sys.argv[1:]:
    keep_freed_memory()
for number in range(12):
    if number == 2:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


@pytest.fixture(scope="module")
def projects(bake):
    return {task: bake(accept_hooks=False, task=task) for task in ("image", "tabular", "blank")}


# Trains compiled, but without waiting for a C++ compiler, and prints how many graphs were compiled.
COMPILED = """
import sys
from functools import partial
sys.path.insert(0, ".")
import torch, train
from torch._dynamo.utils import counters

torch.compile = partial(torch.compile, backend="eager")
train.main()
print("graphs", counters["stats"]["unique_graphs"])
"""


@pytest.mark.parametrize("task", ["image", "tabular"])
def test_the_settings_for_a_gpu_are_settings(projects, tmp_path, task):
    (shown,) = run_many(
        projects[task], ["train.py --config experiments/gpu.yaml --print_config"], home=tmp_path
    )
    assert shown.code == 0, shown.err
    for setting in ("compile: true", "fused: true", "precision: bf16-mixed", "tf32: true"):
        assert f"{setting}\n" in shown.out


def test_the_settings_for_a_gpu_train(projects, tmp_path):
    """The weights have the same names as without them, so that either's checkpoint goes on in the other.

    All batches have one size, and what was compiled once is found again.
    """
    project = projects["blank"]  # the smallest network: compiling takes long
    job = f"train.py --config experiments/gpu.yaml {TINY} --trainer.limit_test_batches 1"
    for name, flags in {"compiled": "", "plain": "--compile false"}.items():
        done = run(project, f"{job} {flags} --trainer.default_root_dir {name}", home=tmp_path)
        assert done.code == 0, done.err
    folders = {name: next((project / name).glob("*/config.yaml")).parent for name in ("compiled", "plain")}
    weights = {
        name: torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for name, folder in folders.items()
    }
    assert weights["compiled"].keys() == weights["plain"].keys()
    more = "--trainer.max_epochs 2 --compile"
    done = run_many(
        project,
        [
            f"evaluate.py {folders['compiled']}",
            f"train.py --resume {folders['compiled']} {more} false",
            f"train.py --resume {folders['plain']} {more} true",
        ],
        home=tmp_path,
    )
    assert [each.code for each in done] == [0, 0, 0], [each.err for each in done]


def test_what_is_compiled_is_used_however_the_model_calls_its_network(bake, tmp_path):
    """A compiled `forward` of the model does nothing where `training_step` calls `self.network`."""
    project = bake(accept_hooks=False)
    model = project / "my_project" / "model.py"
    call = "        scores = self(x)"
    assert model.read_text().count(call) == 1
    model.write_text(model.read_text().replace(call, "        scores = self.network(x)"))
    (project / "compiled.py").write_text(COMPILED)
    command = f"compiled.py {TINY} --compile"
    compiled, plain = (run(project, f"{command} {value}", home=tmp_path) for value in ("true", "false"))
    assert compiled.code == plain.code == 0, compiled.err + plain.err
    assert int(re.search(r"^graphs (\d+)$", compiled.out, re.MULTILINE)[1]) >= 2  # to train and to validate
    assert "\ngraphs 0\n" in plain.out


def test_channels_last_and_fused_change_nothing_but_the_speed(projects, tmp_path):
    project = projects["image"]
    settings = ["", " --channels_last false", " --model.fused false"]
    done = run_many(project, [f"train.py {TINY}{flags}" for flags in settings], home=tmp_path)
    assert [each.code for each in done] == [0, 0, 0], [each.err for each in done]
    losses = []
    for file in project.glob("runs/*/metrics.csv"):
        rows = file.read_text().splitlines()
        losses.append(float(next(row for row in rows if "train/loss," in row).split(",")[2]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_gradients_are_clipped_in_mixed_precision(projects, tmp_path):
    """Lightning alone would refuse to, because the optimizer is fused."""
    project = projects["image"]
    (project / "norms.py").write_text(NORMS)
    flags = f"train.py {TINY} --trainer.precision bf16-mixed --trainer.callbacks+=norms.Norms"
    done = run_many(
        project, [f"{flags} --trainer.gradient_clip_val {most}" for most in (0.01, 1000)], home=tmp_path
    )
    assert [each.code for each in done] == [0, 0], [each.err for each in done]
    clipped, whole = ([float(norm) for norm in re.findall("norm (.*)", each.out)] for each in done)
    assert clipped == pytest.approx([0.01] * len(whole), rel=1e-3)
    assert min(whole) > 0.01


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such setting")
def test_a_step_on_a_cpu_fetches_no_memory_anew(projects, tmp_path):
    """In a new Python: a fork shares what its parent has on the heap, and copies it at the first touch."""
    (projects["image"] / "faults.py").write_text(FAULTS)
    counts = []
    for flags in ([], ["keep"]):
        done = subprocess.run(
            [sys.executable, "faults.py", *flags],
            cwd=projects["image"],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout))
    fetched, kept = counts
    assert fetched > 200  # ten blocks of 64 MB, even in pages of 2 MB
    assert kept < fetched / 4  # one block may come to lie elsewhere


def test_no_step_waits_for_a_number_unless_it_is_logged(projects, tmp_path):
    project = projects["tabular"]
    (project / "syncs.py").write_text(SYNCS)
    flags = "--data.batch_size 16 --trainer.max_epochs 1 --trainer.log_every_n_steps 4"
    done = run(project, f"syncs.py {flags} --trainer.limit_train_batches 12", home=tmp_path)
    assert done.code == 0, done.err
    batches = [int(line.split()[1]) for line in done.out.splitlines() if line.startswith("sync ")]
    assert set(batches) == {3, 7}, batches  # every fourth is logged

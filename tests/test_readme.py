"""Every command in both READMEs is run here or in another test, or listed with the reason why it is not."""

import re
from pathlib import Path

import pytest
from conftest import TEMPLATE
from PIL import Image
from project import TINY, run, run_many

pytestmark = pytest.mark.slow

# Command, and where it is run or why it cannot be.
ELSEWHERE = {
    "make demo": "by the CI workflow",
    "make test": "it runs this",
    "pip install cookiecutter": "needs the registry",
    "cookiecutter <address or folder of this repository>": "by test_answers.py",
    "cd my-project": "a change of folder",
    "python -m venv .venv && . .venv/bin/activate": "by the Makefile",
    "pip install -r requirements.txt": "by the Makefile",
    "python train.py": "by test_training.py",
    "wandb sweep sweep.yaml": "by test_tracking.py",
    "pip install onnx onnxruntime onnxscript safetensors": "by the Makefile",
    "pip install wandb-workspaces": "by the Makefile",
    "python workspace.py runs/<id>": "by test_tracking.py",
    "sbatch slurm.sh": "by test_stuck.py",
    "python train.py --trainer.devices 8 --trainer.strategy ddp": "by test_processes.py",
    "torchrun --nproc_per_node 8 train.py --trainer.devices 8 --trainer.strategy ddp": "by test_scale.py",
    "sbatch --nodes 8 --ntasks-per-node 8 --gpus-per-node 8 slurm.sh --config experiments/multi-node.yaml "
    "--trainer.num_nodes 8": "needs a cluster; by test_scale.py as far as it goes",
    "python train.py --data.path shards/ --data.streaming true --trainer.max_epochs -1 --trainer.max_steps "
    "100000": "by test_scale.py",
    "python train.py --trainer.callbacks+=LearningRateFinder": "by test_scale.py",
    "python train.py --trainer.accumulate_grad_batches 4 --trainer.gradient_clip_val 1": "by test_scale.py",
    "python train.py --config experiments/profile.yaml": "by test_scale.py",
    "ruff check && ruff format --check && mypy && python -m pytest": "by test_combinations.py",
    "pip install pre-commit && pre-commit install": "by test_combinations.py",
}


def commands(readme: Path) -> list[str]:
    """Return the lines of the bash blocks, without their comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_commands_of_this_repository():
    found = commands(TEMPLATE / "README.md")
    assert found
    assert set(found) <= set(ELSEWHERE)


def test_commands_of_the_generated_project(bake, tmp_path):
    project = bake(accept_hooks=False)
    trained = run(project, f"train.py {TINY}", home=tmp_path)
    assert trained.code == 0, trained.err
    (folder,) = (project / "runs").iterdir()
    (project / "folder_of_images").mkdir()
    for path in ("image.png", "folder_of_images/another.png"):
        Image.new("L", (20, 30)).save(project / path)
    for i in range(20):
        (place := project / "my_images" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 30), color=10 * i).save(place / f"{i}.png")

    found = [line for line in commands(project / "README.md") if line not in ELSEWHERE]
    assert len(found) >= 8
    assert all(line.startswith("python ") for line in found)
    ready = [line.removeprefix("python ").replace("<id>", folder.name) for line in found]
    alone = [line for line in ready if "ddp" in line or "--resume" in line]
    together = [line for line in ready if line not in alone]
    quick = [line.replace("train.py", f"train.py {TINY}") for line in together]
    done = dict(zip(quick, run_many(project, quick, home=tmp_path), strict=True))
    for line in alone:  # a run that goes on keeps its settings
        line = line if "--resume" in line else line.replace("train.py", f"train.py {TINY}")
        done[line] = run(project, line, home=tmp_path, network=True)
    assert {line: result.err for line, result in done.items() if result.code != 0} == {}
    (longer,) = [line for line in alone if "--resume" in line and "max_epochs" in line]
    assert f"epoch {int(longer.split()[-1]) - 1} " in done[longer].err

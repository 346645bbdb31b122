"""Every command in both READMEs is run here or in another test, or listed with the reason why it is not."""

import ast
import re
import textwrap
from pathlib import Path

import pandas
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
    "pip install -r requirements-dev.txt": "by the Makefile",
    "python train.py": "by test_training.py",
    "python train.py --config experiments/gpu.yaml": "by test_gpu.py",
    "python export.py runs/<id>": "by test_export.py",
    "wandb sweep sweep.yaml": "by test_tracking.py",
    "python search.py sweep.yaml --trials 20": "by test_tracking.py",
    "python search.py folds.yaml": "by test_search.py",
    "python runs.py --group folds": "by test_search.py",
    "pip install optuna": "by the Makefile",
    "pip install onnx onnxruntime onnxscript safetensors": "by the Makefile",
    "sbatch slurm.sh": "by test_stuck.py",
    "python train.py --trainer.devices 8 --trainer.strategy ddp": "by test_processes.py",
    "torchrun --nproc_per_node 8 train.py --trainer.devices 8 --trainer.strategy ddp": "by test_scale.py",
    "sbatch --nodes 8 --ntasks-per-node 8 --gpus-per-node 8 slurm.sh --config experiments/multi-node.yaml "
    "--trainer.num_nodes 8": "needs a cluster; by test_scale.py as far as it goes",
    "ruff check && ruff format --check && mypy && python -m pytest": "by test_render.py and test_tasks.py",
    "pip install pre-commit && pre-commit install": "by test_render.py",
}


def blocks(readme: Path, language: str) -> list[str]:
    """Return the code blocks of a language."""
    text = readme.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(readme: Path) -> list[str]:
    """Return the lines of the bash blocks, without their comments."""
    lines = "".join(blocks(readme, "bash")).splitlines()
    found = [re.sub(r"\s+#.*", "", line) for line in lines]
    return [line for line in found if line]


def test_commands_of_this_repository():
    found = commands(TEMPLATE / "README.md")
    assert found
    assert set(found) <= set(ELSEWHERE)


def test_where_the_others_are_run_exists():
    """Each list above names tests that exist, and commands that a README has."""
    for where in ELSEWHERE.values():
        for name in re.findall(r"test_\w+\.py", where):
            assert (TEMPLATE / "tests" / name).exists(), name
    readmes = (TEMPLATE / "README.md", TEMPLATE / "{{cookiecutter.project}}" / "README.md")
    found = {line for readme in readmes for line in commands(readme)}
    assert set(ELSEWHERE) <= found


@pytest.fixture(scope="module")
def project(bake, tmp_path_factory) -> Path:
    """Return a project with a finished run, and the files that its README mentions."""
    project = bake(accept_hooks=False)
    (project / "folder_of_images").mkdir()
    for path in ("image.png", "folder_of_images/another.png"):
        Image.new("L", (20, 30)).save(project / path)
    for number in range(20):
        folder = project / "my_images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"patient{number // 4}-{number}.png"
        Image.new("L", (20, 30), color=10 * number).save(folder / name)
    trained = run(project, f"train.py {TINY}", home=tmp_path_factory.mktemp("home"))
    assert trained.code == 0, trained.err
    return project


def run_of(project: Path) -> Path:
    """Return the folder of the first run."""
    return min((project / "runs").glob("*/config.yaml")).parent


def test_commands_of_the_generated_project(project, tmp_path):
    name = run_of(project).name
    alone = []
    together = []
    for line in commands(project / "README.md"):
        if line in ELSEWHERE:
            continue
        assert line.startswith("python ")
        command = line.removeprefix("python ").replace("<id>", name).replace("'", "")
        if "--resume" not in command:  # a run that goes on keeps its settings
            command = command.replace("train.py", f"train.py {TINY}")
        if "ddp" in command:
            alone.append(command)
        else:
            together.append(command)
    assert len(together) >= 10

    fast = {"WANDB_MODE": "disabled"}
    done = dict(zip(together, run_many(project, together, home=tmp_path, variables=fast), strict=True))
    for command in alone:
        done[command] = run(project, command, home=tmp_path, network=True, variables=fast)
    failed = {command: result.err for command, result in done.items() if result.code != 0}
    assert failed == {}
    (longer,) = [command for command in together if "--resume" in command and "max_epochs" in command]
    epochs = int(longer.split()[-1])
    assert f"epoch {epochs - 1} " in done[longer].err


def test_code_of_the_generated_project(project, tmp_path):
    """The finder in its README gives a learning rate."""
    (finder,) = blocks(project / "README.md", "python")
    imports = """\
        from lightning import Trainer
        from lightning.pytorch.tuner import Tuner
        from my_project.data import DataModule
        from my_project.model import Model
        """
    (project / "find_rate.py").write_text(textwrap.dedent(imports) + finder, encoding="utf-8")
    result = run(project, "find_rate.py", home=tmp_path)
    assert result.code == 0, result.err
    assert 0 < float(result.out.splitlines()[-1]) < 1


def test_metrics_are_read_as_the_readme_says(project):
    readme = (project / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"`(pandas\.read_csv\(path\)\.[^`]+)`", readme)
    table = eval(code, {"pandas": pandas, "path": run_of(project) / "metrics.csv"})
    assert {"train/loss", "val/loss", "test/acc"} <= set(table)
    assert table.index.is_unique


@pytest.mark.parametrize("task", ["text", "audio", "tabular"])
def test_code_for_the_other_tasks_names_what_is_linked(bake, task):
    """The finder gives `Model` all arguments that are properties of the data module and have no default."""
    project = bake(accept_hooks=False, task=task)
    (finder,) = blocks(project / "README.md", "python")
    calls = [node for node in ast.walk(ast.parse(finder)) if isinstance(node, ast.Call)]
    (model,) = [call for call in calls if getattr(call.func, "id", None) == "Model"]
    data = (project / "my_project" / "data.py").read_text(encoding="utf-8")
    for keyword in model.keywords:
        assert ast.unparse(keyword.value) == f"data.{keyword.arg}"
        assert f"    def {keyword.arg}(self)" in data

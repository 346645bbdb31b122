"""Commands in the READMEs and in docs/ are run here or in another test, or listed with the reason why not."""

import re
import shutil
from pathlib import Path

import pandas
import pytest
from conftest import QUESTIONS, TEMPLATE
from PIL import Image
from project import TINY, run, run_many

pytestmark = pytest.mark.slow

README = TEMPLATE / "README.md"
DOCS = sorted(TEMPLATE.glob("docs/**/*.md"))
GENERATED = TEMPLATE / "{{cookiecutter.project}}" / "README.md"
OF_TASKS = sorted(TEMPLATE.glob("templates/*/yours.md"))

HUB = "needs the Hugging Face hub; by test_pretrained.py with models in folders"
# Command, and where it is run or why it cannot be.
ELSEWHERE = {
    "make demo": "by the CI workflow",
    "pip install cookiecutter": "needs the registry",
    "cookiecutter <address or folder of this repository>": "by test_answers.py",
    "cd my-project": "a change of folder",
    "python -m venv .venv && . .venv/bin/activate": "by the Makefile",
    "pip install -r requirements.txt": "by the Makefile",
    "pip install -r requirements-dev.txt": "by the Makefile",
    "python train.py": "by test_training.py",
    "python train.py --config experiments/gpu.yaml": "by test_gpu.py",
    "python export.py runs/<id>": "by test_export.py",
    "wandb leet runs/wandb": "by scripts/gallery.py, which takes a picture of it",
    "wandb sweep sweep.yaml": "by test_tracking.py",
    "python search.py sweep.yaml --trials 20": "by test_tracking.py",
    "python search.py folds.yaml": "by test_search.py",
    "python runs.py --group folds": "by test_search.py",
    "pip install optuna": "by the Makefile",
    "pip install onnx onnxruntime onnxscript safetensors": "by the Makefile",
    "pip install '.[pretrained]'": "by the Makefile",
    "python train.py --config experiments/pretrained.yaml --model.backbone facebook/dinov2-small": HUB,
    "python train.py --config experiments/pretrained.yaml --model.backbone distilbert-base-uncased": HUB,
    "python train.py --config experiments/pretrained.yaml --model.backbone facebook/wav2vec2-base": HUB,
    "sbatch slurm.sh": "by test_stuck.py",
    "python train.py --trainer.devices 8 --trainer.strategy ddp": "by test_processes.py",
    "torchrun --nproc_per_node 8 train.py --trainer.devices 8 --trainer.strategy ddp": "by test_scale.py",
    "sbatch --nodes 8 --ntasks-per-node 8 --gpus-per-node 8 slurm.sh --config experiments/multi-node.yaml "
    "--trainer.num_nodes 8": "needs a cluster; by test_scale.py as far as it goes",
    "ruff check && ruff format --check && mypy && python -m pytest": "by test_render.py and test_tasks.py",
    "pip install pre-commit && pre-commit install": "by test_render.py",
}
# Files of data that a command names, and the task whose project has them.
NAMED = {
    "my_sounds/": "audio",
    "sound.wav": "audio",
    "texts.": "text",
    "my_texts/": "text",
    "rows.csv": "tabular",
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


def task_of(command: str) -> str:
    """Return the task whose data a command names; image if it names none."""
    for name, task in NAMED.items():
        if name in command:
            return task
    return "image"


def all_commands() -> set[str]:
    """Return the commands of all pages; those of the generated README as the image task has them."""
    found = set()
    for page in [README, *DOCS, *OF_TASKS]:
        found.update(commands(page))
    return found


def test_commands_of_this_repository():
    found = commands(README)
    assert found
    assert set(found) <= set(ELSEWHERE)


def test_the_code_here_is_that_of_a_generated_project():
    """Where it is trained with, below."""
    assert blocks(README, "python") == blocks(TEMPLATE / "templates" / "image" / "yours.md", "python")


def test_where_the_others_are_run_exists():
    """The list above names tests that exist, and commands that a page has."""
    for where in ELSEWHERE.values():
        for name in re.findall(r"test_\w+\.py", where):
            assert (TEMPLATE / "tests" / name).exists(), name
    assert set(ELSEWHERE) <= all_commands() | set(commands(GENERATED))


def test_links_between_the_pages_lead_somewhere():
    pages = [README, TEMPLATE / "CONTRIBUTING.md", *DOCS, *TEMPLATE.glob("recipes/**/*.md")]
    pages.append(TEMPLATE / "benchmarks" / "README.md")
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.relative_to(TEMPLATE)}: {link}"


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


def test_commands_of_the_generated_project_and_of_the_docs(project, tmp_path):
    name = run_of(project).name
    alone = []
    together = []
    pages = [project / "README.md", *DOCS]
    for line in dict.fromkeys(line for page in pages for line in commands(page)):
        if line in ELSEWHERE or task_of(line) != "image":
            continue
        assert line.startswith("python ")
        command = line.removeprefix("python ").replace("<id>", name)
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
    longer = [command for command in together if "--resume" in command and "max_epochs" in command]
    for command in longer[:1]:
        assert f"epoch {int(command.split()[-1]) - 1} " in done[command].err


@pytest.mark.parametrize("task", ["text", "audio", "tabular"])
def test_commands_for_the_data_of_other_tasks_name_settings(bake, task, tmp_path):
    """test_own_data.py trains on such files; here the settings are read."""
    project = bake(accept_hooks=False, task=task)
    jobs = []
    for line in dict.fromkeys(line for page in [project / "README.md", *DOCS] for line in commands(page)):
        if task_of(line) == task and "train.py" in line:
            jobs.append(line.removeprefix("python ") + " --print_config")
    assert jobs
    for job, done in zip(jobs, run_many(project, jobs, home=tmp_path), strict=True):
        assert done.code == 0, f"{job}\n{done.err}"


@pytest.mark.parametrize("page", ["tutorial.md", "how-to/compare-and-search.md"])
def test_code_of_the_docs(project, tmp_path, page):
    """It runs as it stands, and ends with a line of output."""
    for number, code in enumerate(blocks(TEMPLATE / "docs" / page, "python")):
        script = f"from_the_docs_{number}.py"
        (project / script).write_text(code, encoding="utf-8")
        result = run(project, script, home=tmp_path)
        assert result.code == 0, result.err
        assert result.out.strip()
    if "search" in page:
        assert 0 < float(result.out.splitlines()[-1]) < 1, "the finder gives a learning rate"


@pytest.mark.parametrize("task", [task for task in QUESTIONS["task"] if task != "blank"])
def test_the_network_in_the_readme_works(bake, tmp_path, task):
    """It takes the place of `Network`, trains, and its argument is a setting."""
    project = bake(accept_hooks=False, task=task)
    (code,) = blocks(project / "README.md", "python")
    imports = "from torch import Tensor, nn\n\n\n"
    (project / "my_project" / "network.py").write_text(imports + code, encoding="utf-8")
    shutil.rmtree(project / "tests")
    flags = TINY.replace("--model.width 4", "--model.hidden 8")
    (done,) = run_many(project, [f"train.py {flags}"], home=tmp_path, variables={"WANDB_MODE": "disabled"})
    assert done.code == 0, done.err
    assert "export.py" not in done.out, "the network has no example_input"


def test_pages_name_what_there_is(project):
    """Each `Name.of` in file.py of the docs is defined in that file."""
    from test_render import symbols

    found = 0
    for page in DOCS:
        text = " ".join(page.read_text(encoding="utf-8").split())
        for name, file in re.findall(r"`([\w.]+)` in ([\w/]+\.py)", text):
            found += 1
            source = (project / "my_project" / file).read_text(encoding="utf-8")
            assert name in symbols(source), f"{page.name}: {name} is not in {file}"
    assert found > 20


def test_the_design_notes_name_every_file_of_the_machinery(project):
    text = (TEMPLATE / "docs" / "design.md").read_text(encoding="utf-8")
    named = re.findall(r"^(\w+\.py) ", text, re.MULTILINE)
    there = {path.name for path in (project / "my_project" / "harness").glob("*.py")} - {"__init__.py"}
    assert sorted(named) == sorted(there)


def test_metrics_are_read_as_the_docs_say(project):
    page = (TEMPLATE / "docs" / "how-to" / "compare-and-search.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"`(pandas\.read_csv\(path\)\.[^`]+)`", page)
    table = eval(code, {"pandas": pandas, "path": run_of(project) / "metrics.csv"})
    assert {"train/loss", "val/loss", "test/acc"} <= set(table)
    assert table.index.is_unique

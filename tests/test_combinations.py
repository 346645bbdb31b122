"""Every answer with every other, in pairs; what no answer reaches; every platform."""

import ast
import os
import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from conftest import QUESTIONS, TEMPLATE
from cookiecutter.utils import create_env_with_context
from PIL import Image
from project import TINY, environment, run, wall

NAMES = {
    "plain": {},
    "odd": {"project": "x-1-2", "description": '"a" \'b\' \\ # é 李 🎉 "', "author": 'Zoë "Z" O\'Neil'},
}
COMBINATIONS = list(product(QUESTIONS["task"], QUESTIONS["license"], NAMES))


@pytest.fixture(scope="module")
def projects(bake) -> dict[tuple[str, str, str], Path]:
    """Bake each combination."""
    return {
        (task, license, name): bake(accept_hooks=False, task=task, license=license, **NAMES[name])
        for task, license, name in COMBINATIONS
    }


def call(folder: Path, *arguments: str) -> None:
    """Run a module of Python's in a folder; fail with what it says."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def code(project: Path) -> dict[str, str]:
    """Return the program of a project, without what repeats its name and its description."""
    package = project.name.replace("-", "_")
    files = [path for path in project.rglob("*.py") if path != project / package / "__init__.py"]
    return {
        path.relative_to(project).as_posix().replace(package, "PACKAGE"): path.read_text(
            encoding="utf-8"
        ).replace(package, "PACKAGE")
        for path in files
    }


def test_ruff_finds_nothing_in_any_combination(projects):
    root = Path(projects[COMBINATIONS[0]]).parents[1]
    call(root, "ruff", "check", "--no-cache", "--quiet", *map(str, projects.values()))
    call(root, "ruff", "format", "--no-cache", "--check", *map(str, projects.values()))


def test_license_and_names_change_texts_only(projects):
    """So it is enough to train each task once, which test_tasks.py does."""
    for (task, license, name), project in projects.items():
        assert code(project) == code(projects[task, "MIT", "plain"]), (task, license, name)


@pytest.mark.parametrize("task", QUESTIONS["task"])
def test_mypy_finds_nothing(projects, task):
    call(projects[task, "MIT", "plain"], "mypy", "--cache-dir", str(TEMPLATE / ".mypy_cache"))


# What no answer reaches

ALIKE = 8  # lines of code that two variants of a task may have in common, one after the other
# Given by Lightning, PyTorch, signal or jsonargparse, whether needed or not.
GIVEN = {"batch_idx", "stage", "kwargs", "args", "storage_options", "frame", "optimizer"}
GIVEN |= {"inputs", "targets", "rows", "trainer", "pl_module"}  # of a method that a subclass overrides


def templates() -> dict[str, str]:
    """Return the names and texts of all that is rendered."""
    root = TEMPLATE / "{{cookiecutter.project}}"
    files = [path for path in root.rglob("*") if path.is_file() and ".github" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_each_answer_changes_a_file(projects):
    """An option that changes nothing is dead."""
    default = contents(projects["image", "MIT", "plain"])
    for task in QUESTIONS["task"][1:]:
        assert contents(projects[task, "MIT", "plain"]) != default
    for license in QUESTIONS["license"][1:]:
        assert contents(projects["image", license, "plain"]) != default


@pytest.mark.parametrize("question", [key for key, value in QUESTIONS.items() if isinstance(value, str)])
def test_each_question_and_derived_name_is_used(question):
    if question.startswith("_") and not question.startswith("__"):
        return
    used = re.compile(rf"cookiecutter\.{question}\b")
    hooks = [path.read_text(encoding="utf-8") for path in (TEMPLATE / "hooks").glob("*.py")]
    rendered = [*templates(), *templates().values(), *hooks]
    questions = [value for key, value in QUESTIONS.items() if key != question and isinstance(value, str)]
    assert any(used.search(text) for text in [*rendered, *questions])
    assert question.startswith("__") or question in QUESTIONS["__prompts__"]


def contents(project: Path) -> dict[str, bytes]:
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in project.rglob("*")
        if path.is_file()
    }


def test_each_branch_of_a_template_is_taken_by_some_answer():
    """Each condition holds for some answers and not for others; tables have only entries of answers."""
    jinja = create_env_with_context({"cookiecutter": QUESTIONS})
    rendered = [*templates(), *templates().values()]
    conditions = {match for text in rendered for match in re.findall(r"\{% (?:el)?if (.+?) %\}", text)}
    assert len(conditions) >= 8
    for condition in conditions:
        expression = jinja.compile_expression(condition)
        answers = [{"task": task, "license": license} for task, license, _ in COMBINATIONS]
        taken = {bool(expression(cookiecutter=answer)) for answer in answers}
        assert taken == {True, False}, condition
    known = set(QUESTIONS["task"]) | set(QUESTIONS["license"])
    tables = [text for text in [*rendered, *map(str, QUESTIONS.values())] if "cookiecutter.task" in text]
    for text in tables:
        for table in re.findall(r"\{\{ *(\{.*?\})(?:\.get\(|\[)cookiecutter\.", text, re.DOTALL):
            assert set(ast.literal_eval(table)) <= known, table


def test_no_block_is_written_twice_in_the_variants_of_a_task():
    """What two tasks have in common belongs into the machinery: at most ALIKE lines in a row are alike."""
    package = TEMPLATE / "{{cookiecutter.project}}" / "{{cookiecutter.__package}}"
    found = {}
    for path in sorted(package.glob("{%*")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line and not line.startswith(("import ", "from "))]
        for start in range(len(lines) - ALIKE):
            block = "\n".join(lines[start : start + ALIKE + 1])
            assert block not in found or found[block] == path.name, (
                f"{path.name} and {found[block]}:\n{block}"
            )
            found[block] = path.name


def test_each_argument_is_used(projects):
    """In its function, or as a hyper-parameter anywhere."""
    for task in QUESTIONS["task"]:
        texts = code(projects[task, "MIT", "plain"])
        read = set(re.findall(r"(?:hparams|settings)\.(\w+)", "".join(texts.values())))
        for name, text in texts.items():
            for function in ast.walk(ast.parse(text)):
                if isinstance(function, ast.FunctionDef) and not function.name.startswith("on_"):
                    known = GIVEN | read if function.name == "__init__" else GIVEN
                    unused = unused_arguments(function) - known
                    assert not unused, f"{name}: {function.name}: {unused}"


def unused_arguments(function: ast.FunctionDef) -> set[str]:
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return {argument.arg for argument in arguments} - used - {"self", "cls", "_"}


# Platforms

SPAWN = """
import multiprocessing
import train

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    train.main()
"""
SEND = """
import pickle
from my_project.data import DataModule

data = DataModule()
data.setup("fit")
for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    assert len(dataset) == len(loader.dataset)
print("sent")
"""
POSIX = r"""
    \bos\.(sync|killpg|getuid|fork|setsid|uname|getpgid|mkfifo)\b
    | \bsignal\.(SIGALRM|SIGKILL|SIGHUP|SIGUSR\d|setitimer)\b
    | ^\s*(import|from)\ (fcntl|resource|pwd|grp|termios)\b
    | /dev/ | /tmp\b | /proc\b
"""


def test_nothing_that_a_user_runs_is_for_posix_only(projects):
    """Except where it asks first whether it is there, as `hasattr(signal, "alarm")` does."""
    for task in QUESTIONS["task"]:
        for name, text in code(projects[task, "MIT", "plain"]).items():
            assert not re.search(POSIX, text, re.MULTILINE | re.VERBOSE), name
            for line in re.findall(r".*signal\.alarm.*", text):
                assert 'hasattr(signal, "alarm")' in text, line


def test_a_project_has_neither_links_nor_names_that_windows_refuses(projects):
    for project in projects.values():
        for path in project.rglob("*"):
            assert not path.is_symlink()
            assert re.fullmatch(r"[\w.-]+[\w]", path.name), path


@pytest.mark.slow
def test_a_project_in_a_path_with_spaces_and_letters_of_any_script(bake, tmp_path):
    """The commands that it prints work as they are; no file is read in the encoding of the machine."""
    project = bake(accept_hooks=False, output_dir=tmp_path / "Zoë's döcs & 李 (1)")
    variables = {"PYTHONWARNDEFAULTENCODING": "1"}
    trained = python(project, f"train.py {TINY}".split(), tmp_path, variables)
    own = [line for line in trained.stderr.splitlines() if "EncodingWarning" in line and project.name in line]
    assert own == []
    printed = dict(re.findall(r"^(resume|evaluate|predict) +python (.*)$", trained.stdout, re.MULTILINE))
    Image.new("L", (8, 8)).save(project / "an image.png")
    for name, more in {
        "evaluate": [],
        "predict": ["an image.png"],
        "resume": ["--trainer.max_epochs", "2"],
    }.items():
        words = shlex.split(printed[name].removesuffix(" INPUT..."))
        python(project, [*words, *more], tmp_path, {})
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    trained = python(elsewhere, [str(project / "train.py"), *TINY.split()], tmp_path, {})
    (evaluate,) = re.findall(r"^evaluate +python (.*)$", trained.stdout, re.MULTILINE)
    python(elsewhere, shlex.split(evaluate), tmp_path, {})


def python(
    folder: Path, words: list[str], home: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess:
    """Run Python; fail with what it says."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_workers_that_are_spawned(bake, tmp_path):
    """As on Windows and macOS."""
    project = bake(accept_hooks=False)
    (project / "spawn.py").write_text(SPAWN, encoding="utf-8")
    done = python(project, f"spawn.py {TINY} --data.num_workers 1".split(), tmp_path, {})
    assert "test/loss" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("task", QUESTIONS["task"])
def test_what_workers_need_can_be_sent_to_them(bake, tmp_path, task):
    project = bake(accept_hooks=False, task=task)
    (project / "send.py").write_text(SEND, encoding="utf-8")
    done = run(project, "send.py", home=tmp_path)
    assert (done.code, done.out) == (0, "sent\n"), done.err


@pytest.mark.slow
def test_pre_commit_passes_and_finds_what_is_wrong(bake, tmp_path):
    """It runs the tools of the environment, without network."""
    project = bake()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [*wall(network=False), sys.executable, "-m", "pre_commit", "run", "--all-files"]
    options = {"cwd": project, "capture_output": True, "encoding": "utf-8"}
    options["env"] = os.environ | {"PATH": path, "HOME": str(tmp_path), "PRE_COMMIT_HOME": str(tmp_path)}
    options["env"] |= {"MYPY_CACHE_DIR": str(TEMPLATE / ".mypy_cache")}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 3
    with (project / "evaluate.py").open("a", encoding="utf-8") as file:
        file.write("\n\nx: int = 'a'\nimport os\n")
    done = subprocess.run(command, **options)
    assert done.returncode == 1
    assert done.stdout.count("Failed") == 3, done.stdout


@pytest.mark.slow
def test_uv_runs_the_project_from_the_same_file(bake, tmp_path):
    project = bake(accept_hooks=False)
    command = [
        sys.executable,
        "-m",
        "uv",
        "run",
        "--active",
        "--no-sync",
        "--offline",
        "python",
        "train.py",
        "--help",
    ]
    settings = environment(tmp_path) | {"VIRTUAL_ENV": sys.prefix}
    done = subprocess.run(command, cwd=project, env=settings, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "--model.width" in done.stdout

"""A generated project is well formed and clean, whatever the answers. Nothing is trained here."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import yaml
from conftest import LICENSES, QUESTIONS, TASKS, TEMPLATE
from cookiecutter.utils import create_env_with_context
from project import wall

ODD = {
    "project": "a" + "-b" * 31 + "c",  # 64 characters, the longest that is accepted
    "description": "\"a\" 'b' \\ # : {x} é 李 🎉 " + "long " * 40 + "end",
    "author": 'Zoë "Z" O\'Neil ' + "A" * 200,
}
NAMES = {"plain": {}, "odd": ODD}
COMBINATIONS = list(product(TASKS, LICENSES, NAMES))

PROJECT = TEMPLATE / "{{cookiecutter.project}}"
PACKAGE = PROJECT / "{{cookiecutter.__package}}"
VARIANTS = TEMPLATE / "templates"
TYPES = TEMPLATE / ".mypy_cache"  # kept: the first call reads all of torch, the next ones take a second


@pytest.fixture(scope="module")
def projects(bake) -> dict[tuple[str, str, str], Path]:
    """Bake every combination of answers."""
    baked = {}
    for task, license, name in COMBINATIONS:
        baked[task, license, name] = bake(accept_hooks=False, task=task, license=license, **NAMES[name])
    return baked


@pytest.fixture(scope="module")
def project(projects) -> Path:
    """Return the project of the default answers."""
    return projects["image", "MIT", "plain"]


def texts(folder: Path, ending: str = "") -> dict[Path, str]:
    """Return the files of a folder whose names end so, and their texts."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.endswith(ending):
            found[path.relative_to(folder)] = path.read_text(encoding="utf-8")
    return found


def code(project: Path) -> dict[str, str]:
    """Return the program of a project, without what repeats its name and its description."""
    package = project.name.replace("-", "_")
    program = {}
    for path, text in texts(project, ".py").items():
        if path != Path(package, "__init__.py"):
            program[path.as_posix().replace(package, "PACKAGE")] = text.replace(package, "PACKAGE")
    return program


def call(folder: Path, *arguments: str) -> None:
    """Run a module of Python's in a folder; fail with the beginning of what it says."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    said = done.stdout + done.stderr
    if done.returncode != 0:
        pytest.fail(said[:3000], pytrace=False)


# Every combination


def test_every_file_parses(projects):
    parsers = {".py": ast.parse, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
    parsed = set()  # most files are the same in each project
    for project in projects.values():
        for ending, parse in parsers.items():
            files = texts(project, ending)
            assert files
            for path, text in files.items():
                if text not in parsed:
                    assert parse(text), path
                    parsed.add(text)


def test_no_jinja_is_left(projects):
    for project in projects.values():
        for path, text in texts(project).items():
            assert not re.search(r"\{\{|cookiecutter", str(path))
            if ".github" not in path.parts:  # copied as it is: GitHub's own ${{ }}
                assert not re.search(r"\{\{|\{%|\{#|cookiecutter", text), path


def test_files_end_with_one_newline_and_no_line_with_spaces(projects):
    for project in projects.values():
        for path, text in texts(project).items():
            assert text.endswith("\n"), path
            assert not text.endswith("\n\n"), path
            assert not re.search(r"[ \t]+$", text, re.MULTILINE), path
            assert "\n\n\n\n" not in text, path


def test_a_project_has_neither_links_nor_names_that_windows_refuses(projects):
    for project in projects.values():
        for path in project.rglob("*"):
            assert not path.is_symlink()
            assert re.fullmatch(r"[\w.-]+[\w]", path.name), path


def test_ruff_finds_nothing(projects, tmp_path):
    folders = [str(project) for project in projects.values()]
    call(tmp_path, "ruff", "check", "--no-cache", "--quiet", "--output-format", "concise", *folders)
    call(tmp_path, "ruff", "format", "--no-cache", "--quiet", "--check", *folders)


def test_license_and_names_change_texts_only(projects):
    """So it is enough to train each task once, which test_tasks.py does."""
    for (task, license, name), project in projects.items():
        assert code(project) == code(projects[task, "MIT", "plain"]), (task, license, name)


@pytest.mark.parametrize("task", TASKS)
def test_mypy_finds_nothing(projects, task):
    """A line has the same number in templates/TASK/data.py as in my_project/data.py."""
    call(projects[task, "MIT", "plain"], "mypy", "--cache-dir", str(TYPES))


def test_pre_commit_passes_and_finds_what_is_wrong(bake, tmp_path):
    """It runs the tools of the environment, without network."""
    project = bake()
    command = [*wall(network=False), sys.executable, "-m", "pre_commit", "run", "--all-files"]
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PRE_COMMIT_HOME": str(tmp_path),
        "MYPY_CACHE_DIR": str(TYPES),
    }
    options = {
        "cwd": project,
        "env": os.environ | variables,
        "capture_output": True,
        "encoding": "utf-8",
    }
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 3
    with (project / "evaluate.py").open("a", encoding="utf-8") as file:
        file.write("\n\nx: int = 'a'\nimport os\n")
    done = subprocess.run(command, **options)
    assert done.returncode == 1
    assert done.stdout.count("Failed") == 3, done.stdout


# What lies in this repository


def test_each_task_and_license_has_its_templates():
    assert {path.name for path in VARIANTS.iterdir()} == {*TASKS, "licenses", "model.py", "version.md"}
    assert {path.name for path in (VARIANTS / "licenses").iterdir()} == set(LICENSES)
    for task in TASKS:
        own = {
            "image": {"images.py", "augment.py", "pretrained.py"},
            "audio": {"sounds.py", "augment.py", "pretrained.py"},
            "text": {"texts.py", "pretrained.py"},
            "tabular": set(),
            "blank": {"model.py"},
        }
        expected = {"about.md", "data.py", "network.py", "requirements.txt", "yours.md"}
        assert {path.name for path in texts(VARIANTS / task)} == expected | own[task]


def test_what_lies_here_as_python_arrives_unchanged(projects):
    """So the file that a linter or an editor reads here is the file that a user gets."""
    for task in TASKS:
        package = projects[task, "MIT", "plain"] / "my_project"
        arrived = texts(package)
        for path, text in texts(VARIANTS / task, ".py").items():
            assert arrived[path] == text, path
        if task != "blank":
            assert arrived[Path("model.py")] == (VARIANTS / "model.py").read_text(encoding="utf-8")
        machinery = texts(PACKAGE / "harness")
        for path, text in texts(package / "harness").items():
            assert text == machinery[path], path


def rendered() -> dict[str, str]:
    """Return the names and texts of all that is rendered."""
    found = {}
    for folder in [PROJECT, VARIANTS]:
        for path, text in texts(folder).items():
            if ".github" not in path.parts:
                found[path.as_posix()] = text
    return found


def test_each_answer_changes_a_file(projects, project):
    """An option that changes nothing is dead."""
    default = texts(project)
    for task in TASKS[1:]:
        assert texts(projects[task, "MIT", "plain"]) != default, task
    for license in LICENSES[1:]:
        assert texts(projects["image", license, "plain"]) != default, license


def test_each_question_and_derived_name_is_used():
    hooks = texts(TEMPLATE / "hooks", ".py")
    for question, value in QUESTIONS.items():
        if question.startswith("_") and not question.startswith("__"):
            continue  # cookiecutter's own
        if question == "__prompts__":
            continue
        places = [*rendered(), *rendered().values(), *hooks.values()]
        for other, text in QUESTIONS.items():
            if other != question and isinstance(text, str):
                places.append(text)
        used = re.compile(rf"cookiecutter\.{question}\b")
        assert any(used.search(text) for text in places), f"{question} ({value!r}) is used nowhere"
        assert question.startswith("__") or question in QUESTIONS["__prompts__"]


def test_each_branch_of_a_template_is_taken_by_some_answer():
    """Each condition holds for some answers and not for others; tables have only entries of answers."""
    jinja = create_env_with_context({"cookiecutter": QUESTIONS})
    places = [*rendered(), *rendered().values()]
    conditions = set()
    for text in places:
        conditions.update(re.findall(r"\{% (?:el)?if (.+?) %\}", text))
    assert conditions
    for condition in conditions:
        expression = jinja.compile_expression(condition)
        taken = set()
        for task, license in product(TASKS, LICENSES):
            taken.add(bool(expression(cookiecutter={"task": task, "license": license})))
        assert taken == {True, False}, condition
    for text in [*places, *map(str, QUESTIONS.values())]:
        for table in re.findall(r"\{\{ *(\{.*?\})(?:\.get\(|\[)cookiecutter\.", text, re.DOTALL):
            assert ast.literal_eval(table).keys() <= {*TASKS, *LICENSES}, table


# What a reader of the project finds


def test_the_machinery_knows_nothing_of_the_task(project):
    """Nothing in harness/ imports the data, the network or the model."""
    for path, text in texts(project / "my_project" / "harness", ".py").items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2, path
                name = (node.module or "").removeprefix("my_project.")
                assert name not in {"data", "network", "model"}, path


def test_readme_shows_the_tree_as_it_is(projects):
    """All but the machinery, which docs/design.md explains."""
    for task in TASKS:
        project = projects[task, "MIT", "plain"]
        readme = (project / "README.md").read_text(encoding="utf-8")
        (tree,) = re.findall(r"^```\n(train\.py .*?)^```", readme, re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"[\w-]+\.(?:py|yaml|sh)\b", tree))
        there = {"config.yaml", "sweep.yaml", "slurm.sh"}
        there |= {path.name for path in texts(project, ".py") if "harness" not in path.parts}
        assert named == there - {"__init__.py"}, task


def test_readme_is_short(projects):
    """At most 900 words; what has no letter or digit, such as the bars of a table, is none."""
    for task in TASKS:
        readme = (projects[task, "MIT", "plain"] / "README.md").read_text(encoding="utf-8")
        words = [word for word in readme.split() if re.search(r"\w", word)]
        assert 400 < len(words) <= 900, (task, len(words))


def test_readme_names_where_pytorchs_blocks_are(projects):
    """Each row of its table that ends with a file of the package: what it names is defined in that file."""
    for task in TASKS:
        project = projects[task, "MIT", "plain"]
        readme = (project / "README.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| .*? \| (.*) \| `?([\w/]+\.py)`? \|$", readme, re.MULTILINE)
        assert len(rows) >= 7, "the table has three columns: PyTorch's block, its name here, the file"
        for names, file in rows:
            source = (project / "my_project" / file).read_text(encoding="utf-8")
            for name in re.findall(r"`([^`]+)`", names):
                assert name in symbols(source), f"{name} is not in {file} ({task})"


def symbols(source: str) -> set[str]:
    """Return what a file defines: functions, classes, their methods, and their attributes as Class.name."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}.{inner.name}")
                if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == "self":
                    found.add(f"{node.name}.{inner.attr}")
    return found


def test_readme_says_which_version_made_the_project(project):
    """The number stands in one place, and is that of the newest version in CHANGELOG.md."""
    number = re.search(r"\d+\.\d+\.\d+", (VARIANTS / "version.md").read_text(encoding="utf-8"))[0]
    changes = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)[0] == number
    assert f"version {number} of the template" in (project / "README.md").read_text(encoding="utf-8")


# Arguments of Lightning, PyTorch and signal of which a hook makes no use.
GIVEN = {"batch_idx", "stage", "kwargs", "args", "storage_options", "signum", "frame", "optimizer"}
GIVEN |= {"trainer", "pl_module", "checkpoint_callback"}


def test_each_argument_is_used(projects):
    """In its function, in another of that name (as in a subclass), or as a hyper-parameter anywhere."""
    for task in TASKS:
        program = code(projects[task, "MIT", "plain"])
        functions = []
        for name, text in program.items():
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    functions.append((name, node))
        names = Counter(function.name for _, function in functions)
        hyper_parameters = set(re.findall(r"(?:hparams|settings)\.(\w+)", "".join(program.values())))
        for name, function in functions:
            unused = unused_arguments(function) - GIVEN
            if function.name == "__init__":
                unused -= hyper_parameters
            elif function.name.startswith(("on_", "write_on_")) or names[function.name] > 1:
                continue
            assert not unused, f"{name}: {function.name}: {unused}"


def unused_arguments(function: ast.FunctionDef) -> set[str]:
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return {argument.arg for argument in arguments} - used - {"self", "cls", "_"}


POSIX = r"""
    \bos\.(sync|killpg|getuid|fork|setsid|uname|getpgid|mkfifo)\b
    | \bsignal\.(SIGALRM|SIGKILL|SIGHUP|SIGUSR\d|setitimer)\b
    | ^\s*(import|from)\ (fcntl|pwd|grp|termios)\b
    | /dev/(?!shm) | /tmp\b | /proc\b
"""


def test_nothing_that_a_user_runs_is_for_posix_only(projects):
    """Except where it asks first whether it is there, as `hasattr(signal, "alarm")` does."""
    for task in TASKS:
        for name, text in code(projects[task, "MIT", "plain"]).items():
            assert not re.search(POSIX, text, re.MULTILINE | re.VERBOSE), name
            for line in re.findall(r".*signal\.alarm.*", text):
                assert 'hasattr(signal, "alarm")' in text, line
            imports = re.findall(r"^ *import resource$", text, re.MULTILINE)
            guarded = re.findall(r"^ *with suppress\(ImportError.*\n *import resource$", text, re.MULTILINE)
            assert len(imports) == len(guarded), name

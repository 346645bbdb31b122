"""A generated project is well formed, small and clean, whatever the answers."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import QUESTIONS

LONGEST = "a" + "-b" * 31 + "c"  # 64 characters
COMBINATIONS = {
    "default": {},
    "longest names": {"project": LONGEST, "description": "long " * 40 + "end", "author": "A" * 200},
    "quotes": {"description": "\"a\" 'b' \\ # : {x} é 李 🎉", "author": 'Zoë "Z" O\'Neil'},
    **{f"license {name}": {"license": name} for name in QUESTIONS["license"]},
    **{f"task {name}": {"task": name} for name in QUESTIONS["task"]},
}
YOURS = {"data.py", "network.py", "model.py"}


@pytest.fixture(scope="module", params=COMBINATIONS.values(), ids=COMBINATIONS)
def project(bake, request) -> Path:
    return bake(accept_hooks=False, **request.param)


def texts(project: Path, *endings: str) -> dict[Path, str]:
    """Return the files of a project with these endings, and their text."""
    files = [path for path in project.rglob("*") if path.is_file() and path.name.endswith(endings or "")]
    return {path.relative_to(project): path.read_text(encoding="utf-8") for path in files}


def test_every_file_parses(project):
    parsers = {".py": ast.parse, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
    for ending, parse in parsers.items():
        files = texts(project, ending)
        assert files
        for path, text in files.items():
            assert parse(text), path


def test_no_jinja_is_left(project):
    for path, text in texts(project).items():
        if ".github" not in path.parts:  # copied as it is: GitHub's own ${{ }}
            assert not re.search(r"\{\{|\{%|\{#|cookiecutter", text), path
        assert not re.search(r"\{\{|cookiecutter", str(path))


def test_ruff_finds_nothing(project):
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache"],
            cwd=project,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


def test_files_end_with_one_newline_and_no_line_with_spaces(project):
    for path, text in texts(project).items():
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        assert not re.search(r"[ \t]+$", text, re.MULTILINE), path
        assert "\n\n\n\n" not in text, path


def test_the_default_project_is_small(bake):
    """What a reader must hold in their head. The design wants 600 lines of machinery: this only goes down."""
    project = bake(accept_hooks=False)
    assert len(texts(project)) <= 38
    code = {path: text for path, text in texts(project, ".py").items() if path.parts[0] != "tests"}
    lines = {path: sum(bool(line.strip()) for line in text.splitlines()) for path, text in code.items()}
    assert sum(count for path, count in lines.items() if path.name in YOURS) <= 300
    assert sum(count for path, count in lines.items() if path.name not in YOURS) <= 1790
    assert lines[Path("my_project", "harness", "resume.py")] <= 200
    assert lines[Path("my_project", "harness", "tracking.py")] <= 200


def test_the_machinery_knows_nothing_of_the_task(bake):
    """Nothing in harness/ imports the data, the network or the model."""
    for path in bake(accept_hooks=False).glob("*/harness/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2, path
                name = (node.module or "").removeprefix("my_project.")
                assert name not in {"data", "network", "model"}, path


def test_readme_shows_the_tree_as_it_is(bake):
    project = bake(accept_hooks=False)
    readme = (project / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\s*([\w.]+\.(?:py|yaml)|\w+/)", readme, re.MULTILINE))
    there = {
        path.name
        for path in texts(project, ".py", "config.yaml")
        if path.name[0] != "." and path.parts[0] != "tests"
    }
    assert there - named == {"__init__.py"}
    assert {name for name in named if name.endswith((".py", "config.yaml"))} <= there


@pytest.mark.parametrize("task", QUESTIONS["task"])
def test_readme_names_the_lines_of_pytorchs_blocks(bake, task):
    project = bake(accept_hooks=False, task=task)
    readme = (project / "README.md").read_text(encoding="utf-8")
    rows = [
        row for row in re.findall(r"^\|.*? \| (.*) \| (.*) \|$", readme, re.MULTILINE) if ".py:" in row[1]
    ]
    assert len(rows) >= 11
    for names, places in rows:
        for name, place in zip(names.split(", "), places.split(", "), strict=True):
            file, number = place.split(":")
            line = (project / "my_project" / file).read_text(encoding="utf-8").splitlines()[int(number) - 1]
            last = name.strip("`").rpartition(".")[2].replace("__init__", "metrics")
            assert re.match(rf"\s*(class |def |self\.|){last}\b", line), f"{name} is not in {place}: {line}"

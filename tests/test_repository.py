"""What this repository says of itself holds: pins, workflows, targets, names and texts of its files."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest
from conftest import LONGEST, TASKS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "{{cookiecutter.project}}"

# CUDA builds of torch bring these; requirements.txt says why it leaves them out.
CUDA = ("nvidia-", "cuda-", "triton")


def run(*command: str) -> str:
    """Run a command in the repository and return its output; fail with all of it."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files() -> list[str]:
    """Return the names of the files that are, or would be, committed."""
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


def pins(path: Path) -> dict[str, Version]:
    """Return the exact version of each package that a requirements file names."""
    lines = path.read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith(("#", "-r "))]
    for requirement in requirements:
        assert re.fullmatch(r"==[^*,+]+", str(requirement.specifier)), f"not an exact version: {requirement}"
    return {canonicalize_name(r.name): Version(str(r.specifier)[2:]) for r in requirements}


TASK_PINS = {task: pins(ROOT / "templates" / task / "requirements.txt") for task in TASKS}
PROJECT_TOOLS = pins(TEMPLATE / "requirements-dev.txt")
ALL_PINS = pins(ROOT / "requirements-dev.txt")


def assert_pinned(ranges: list[str], pinned: dict[str, Version]) -> None:
    """Check that each range has a pin, and that the pin lies within it."""
    assert ranges
    for requirement in map(Requirement, ranges):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} has no pin: run make lock"
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}: run make lock"


@pytest.mark.parametrize("task", TASKS)
def test_pins_of_the_project_lie_in_its_ranges(bake, task):
    project = bake(task=task, accept_hooks=False)
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = pins(project / "requirements.txt")
    assert pinned == TASK_PINS[task]
    assert_pinned(settings["project"]["dependencies"], pinned)
    assert_pinned(settings["project"]["optional-dependencies"]["dev"], PROJECT_TOOLS)
    for ranges in settings["project"]["optional-dependencies"].values():
        assert_pinned(ranges, ALL_PINS)
    assert pinned["torch"] == Version("2.13.0")
    assert pinned.items() | PROJECT_TOOLS.items() <= ALL_PINS.items()


def test_pins_of_the_tools_lie_in_their_ranges():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert_pinned(settings["dependency-groups"]["dev"], ALL_PINS)


def test_installed_versions_are_the_pinned_ones():
    installed = {name: Version(importlib.metadata.version(name)).public for name in ALL_PINS}
    assert installed == {name: version.public for name, version in ALL_PINS.items()}


@pytest.mark.parametrize("place", [*TASKS, "tools"])
def test_all_that_a_pinned_package_requires_is_pinned(place):
    pinned = ALL_PINS if place == "tools" else TASK_PINS[place]
    needed = {
        canonicalize_name(requirement.name): name
        for name in pinned
        for requirement in map(Requirement, importlib.metadata.requires(name) or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    missing = {name: by for name, by in needed.items() if name not in pinned and not name.startswith(CUDA)}
    assert len(needed) > 50
    assert not missing


@pytest.mark.parametrize("folder", [ROOT, TEMPLATE], ids=["repository", "project"])
def test_workflows_follow_the_schema(folder):
    workflows = sorted(map(str, folder.glob(".github/workflows/*.yml")))
    assert workflows
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)


def test_workflow_of_the_project_is_copied_as_it_is(bake):
    workflow = Path(".github", "workflows", "ci.yml")
    assert (bake() / workflow).read_bytes() == (TEMPLATE / workflow).read_bytes()
    assert "${{ github." in (TEMPLATE / workflow).read_text(encoding="utf-8")


def targets() -> set[str]:
    """Return the targets that `make` lists."""
    return set(re.findall(r"^make ([\w-]+)", run("make"), re.MULTILINE))


def test_make_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets() == set(phony[1].split())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_in_texts_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`|^ {4}[^\n]+", text, re.DOTALL | re.MULTILINE))
    named = set(re.findall(r"(?:^|[`$&;]) *make ([a-z-]+)", code, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets()


RUFF = (sys.executable, "-m", "ruff")


def test_lint():
    run(*RUFF, "check", "--config", "pyproject.toml", ".")
    run(*RUFF, "format", "--config", "pyproject.toml", "--check", ".")


def test_lint_leaves_out_nothing_that_python_can_read():
    """The machinery, model.py and templates/ are linted where they lie."""
    shown = run(*RUFF, "check", "--config", "pyproject.toml", "--show-files", ".").splitlines()
    linted = {Path(name).relative_to(ROOT).as_posix() for name in shown}
    readable = {name for name in files() if name.endswith(".py") and is_python(ROOT / name)}
    assert linted == readable | {"pyproject.toml"}


def is_python(path: Path) -> bool:
    """Tell whether a file can be parsed as it lies, with no Jinja in its code."""
    try:
        ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:
        return False
    return True


def test_shell_scripts_are_sound():
    run(str(Path(sys.executable).with_name("shellcheck")), ".ci/run", str(TEMPLATE / "slurm.sh"))


def test_ci_runs_the_tests():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_ci_fails_where_no_test_ran(tmp_path):
    """Lay what .ci/run reads around an empty test file, in an environment that counts as installed."""
    for name in [".ci/run", "Makefile", "pyproject.toml"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in [
        "requirements-dev.txt",
        "tests/test_a.py",
        ".venv/installed",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    hidden = ("PYTEST_", "MAKE")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    variables["WORKERS"] = "1"
    command = [str(tmp_path / ".ci" / "run")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=100)
    assert "no tests ran" in done.stdout, done.stdout + done.stderr
    assert done.returncode != 0
    assert ".ci/run: exit code" in done.stdout


def test_the_files_that_begin_first_exist():
    for name in LONGEST:
        assert (ROOT / "tests" / name).exists(), f"{name} is named in LONGEST of conftest.py"


PRIVATE = {
    "a machine's own path": r"(?<![\w.}>])(?:/(?:root|work|home/\w+|Users/\w+)/|[A-Za-z]:\\+Users\\)",
    "a package registry's host": r"(?:pypi|pythonhosted|download\.pytorch|npmjs|debian)\.(?:org|com)\b",
    "an index of one's own": r"--(?:extra-)?index-url|--find-l(?:inks)|PIP_(?:EXTRA_)?INDEX_URL",
}


@pytest.mark.parametrize("what", PRIVATE)
def test_no_file_names(what):
    names = files()
    found = {
        f"{name}: {match[0]}"
        for name in names
        for match in re.finditer(PRIVATE[what], (ROOT / name).read_text(encoding="utf-8", errors="replace"))
    }
    assert "Makefile" in names
    assert not found


def test_what_no_file_may_name_is_recognised():
    assert re.search(PRIVATE["a machine's own path"], '"/' + 'home/ann/runs"')
    assert re.search(PRIVATE["a machine's own path"], "C:" + r"\Users\ann")
    assert re.search(PRIVATE["a package registry's host"], "https://" + "pypi" + ".org/simple")
    assert re.search(PRIVATE["an index of one's own"], "pip install --extra-" + "index-url x")


def windows_refuses(name: str) -> bool:
    """Tell whether Windows cannot hold a file of this name."""
    device = r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)"
    return any(
        re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]$', part) or re.match(device, part, re.IGNORECASE)
        for part in PurePosixPath(name).parts
    )


def test_windows_can_hold_every_file():
    names = files()
    assert not [name for name in names if windows_refuses(name)]
    assert len({name.lower() for name in names}) == len(names), "two names differ only in case"
    assert not [name for name in names if (ROOT / name).is_symlink()]


def test_names_that_windows_refuses_are_recognised():
    for name in ["<a>/b", "a|b", "a?", "a: b", "nul.txt", "x/CON", "end.", "end /b", "a\\b"]:
        assert windows_refuses(name), name
    assert not windows_refuses("{{cookiecutter.project}}/console.py")


def test_the_license_is_mit():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) ")
    assert "The maintainers" in text

"""Pin the newest versions that the ranges allow, of the projects and of the tools of this repository.

Installs the ranges into an empty environment, writes what came with them and prints the difference.
"""

import difflib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from cookiecutter.main import cookiecutter
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TASKS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))["task"]
PROJECT_TOOLS = ROOT / "{{cookiecutter.project}}" / "requirements-dev.txt"
TOOLS = ROOT / "requirements-dev.txt"

LOWEST_PYTHON = (3, 11)
TORCH = "torch==2.13.0"  # a step to a newer torch is a decision of its own, never a by-product
CUDA = ("nvidia-", "cuda-", "triton")

PROJECT_HEADER = """\
# Exact versions of all packages that train.py needs, made from the ranges in pyproject.toml with Python 3.11.
# CUDA packages are not listed: the torch of a machine with CUDA brings its own, pinned.
"""
PROJECT_TOOLS_HEADER = """\
# Exact versions of what checks the project: pytest, ruff, mypy and what they need.
-r requirements.txt
"""
TOOLS_HEADER = """\
# Exact versions, made by `make lock` from the ranges in pyproject.toml, of the generated projects' packages
# and of this repository's tools, which are one environment.
"""


def project_ranges(task: str, folder: str) -> tuple[list[str], list[str]]:
    """Return what the project of a task requires, and what its tools are; it is made in `folder`."""
    project = cookiecutter(
        str(ROOT),
        no_input=True,
        extra_context={"project": "my-project", "task": task},
        output_dir=str(Path(folder, task)),
        default_config=True,
        accept_hooks=False,
    )
    settings = tomllib.loads(Path(project, "pyproject.toml").read_text(encoding="utf-8"))
    return settings["project"]["dependencies"], settings["project"]["optional-dependencies"]["dev"]


def tool_ranges() -> list[str]:
    """Return the requirements of this repository's own tools."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["dev"]


def pip(environment: Path, *arguments: str) -> str:
    """Run pip of this interpreter on another environment and return its standard output."""
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def freeze(environment: Path) -> dict[str, str]:
    """Return a pin for each installed package, without CUDA packages and local versions such as `+cpu`."""
    pins = {}
    for line in pip(environment, "freeze", "--all").splitlines():
        if not line.startswith(CUDA):
            name = canonicalize_name(line.split("==")[0])
            pins[name] = re.sub(r"\+.*", "", line)
    return pins


def requirements_of(environment: Path) -> dict[str, list[Requirement]]:
    """Return what each installed package requires."""
    report = json.loads(pip(environment, "inspect", "--local"))
    found = {}
    for package in report["installed"]:
        metadata = package["metadata"]
        requirements = [Requirement(line) for line in metadata.get("requires_dist", [])]
        found[canonicalize_name(metadata["name"])] = requirements
    return found


def needed_by(ranges: list[str], requirements: dict[str, list[Requirement]]) -> set[str]:
    """Return the names of packages that come with ranges, and with what these require in turn."""
    needed: set[tuple[str, str]] = set()  # name and extra
    waiting = [Requirement(line) for line in ranges]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ["", *requirement.extras]:
            if (name, extra) in needed or name not in requirements:
                continue
            needed.add((name, extra))
            for other in requirements[name]:
                if other.marker is None or other.marker.evaluate({"extra": extra}):
                    waiting.append(other)
    return {name for name, _ in needed}


def listed(names: set[str], pins: dict[str, str]) -> str:
    """Return the pins of packages, one a line."""
    return "".join(f"{pins[name]}\n" for name in sorted(names & pins.keys()))


def write(path: Path, text: str) -> None:
    """Replace the file and print what changed."""
    name = path.relative_to(ROOT).as_posix()
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    difference = difflib.unified_diff(old.splitlines(), text.splitlines(), name, name, "before", "now", 0, "")
    print("\n".join(difference) or f"{name}: no change")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the requirement files."""
    if sys.version_info[:2] != LOWEST_PYTHON:
        sys.exit("error: make lock needs Python 3.11: a newer one could pick what 3.11 cannot install")
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "venv")
        # Without pip in it, the environment holds nothing but what the ranges bring.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)

        ranges = {}
        all_ranges: set[str] = set()
        for task in TASKS:
            ranges[task], tools = project_ranges(task, folder)
            all_ranges.update(ranges[task], tools)
        pip(environment, "install", "--quiet", TORCH, *sorted(all_ranges))
        pins = freeze(environment)
        pip(environment, "install", "--quiet", *pins.values(), *tool_ranges())
        all_pins = freeze(environment)
        requirements = requirements_of(environment)
        pip(environment, "check")

    in_all = set(pins)
    for task in TASKS:
        needed = needed_by(ranges[task], requirements)
        in_all &= needed
        write(ROOT / "templates" / task / "requirements.txt", PROJECT_HEADER + listed(needed, pins))
    write(PROJECT_TOOLS, PROJECT_TOOLS_HEADER + listed(needed_by(tools, requirements) - in_all, pins))
    write(TOOLS, TOOLS_HEADER + listed(set(all_pins), all_pins))


if __name__ == "__main__":
    main()

"""Pin the newest versions that the ranges allow, for the generated project and for this repository's tools.

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

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "{{cookiecutter.project}}" / "requirements.txt"
TOOLS = ROOT / "requirements-dev.txt"

LOWEST_PYTHON = (3, 11)
TORCH = "torch==2.13.0"  # a step to a newer torch is a decision of its own, never a by-product
CUDA = ("nvidia-", "cuda-", "triton")

PROJECT_HEADER = """\
# Exact versions of all packages, of every task, made from the ranges in pyproject.toml with Python 3.11.
# CUDA packages are not listed: the torch of a machine with CUDA brings its own, pinned.
"""
TOOLS_HEADER = """\
# Exact versions, made by `make lock` from the ranges in pyproject.toml: the generated project's packages and,
# below, what this repository's tools need beside them.
-r {{cookiecutter.project}}/requirements.txt
"""


def project_ranges(folder: str) -> list[str]:
    """Return the requirements, also those for development, of the projects of all tasks, made in `folder`."""
    ranges = []
    for task in json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))["task"]:
        project = cookiecutter(
            str(ROOT),
            no_input=True,
            extra_context={"project": "my-project", "task": task},
            output_dir=str(Path(folder, task)),
            default_config=True,
            accept_hooks=False,
        )
        settings = tomllib.loads(Path(project, "pyproject.toml").read_text(encoding="utf-8"))
        ranges += settings["project"]["dependencies"] + settings["project"]["optional-dependencies"]["dev"]
    return sorted(set(ranges))


def tool_ranges() -> list[str]:
    """Return the requirements of this repository's own tools."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["dev"]


def pip(environment: Path, *arguments: str) -> str:
    """Run pip of this interpreter on another environment and return its standard output."""
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def freeze(environment: Path) -> list[str]:
    """Return one pin for each installed package, without CUDA packages and local versions such as `+cpu`."""
    lines = pip(environment, "freeze", "--all").splitlines()
    return [re.sub(r"\+.*", "", line) for line in lines if not line.startswith(CUDA)]


def write(path: Path, text: str) -> None:
    """Replace the file and print what changed."""
    name = path.relative_to(ROOT).as_posix()
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    difference = difflib.unified_diff(old.splitlines(), text.splitlines(), name, name, "before", "now", 0, "")
    print("\n".join(difference) or f"{name}: no change")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write both requirement files."""
    if sys.version_info[:2] != LOWEST_PYTHON:
        sys.exit("error: make lock needs Python 3.11: a newer one could pick what 3.11 cannot install")
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "venv")
        # Without pip in it, the environment holds nothing but what the ranges bring.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)

        pip(environment, "install", "--quiet", TORCH, *project_ranges(folder))
        pins = freeze(environment)
        pip(environment, "install", "--quiet", *pins, *tool_ranges())
        extra = [pin for pin in freeze(environment) if pin not in pins]
        pip(environment, "check")

    write(PROJECT, PROJECT_HEADER + "\n".join(pins) + "\n")
    write(TOOLS, TOOLS_HEADER + "\n".join(extra) + "\n")


if __name__ == "__main__":
    main()

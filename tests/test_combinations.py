"""Every answer with every other, in pairs: linter and type checker find nothing in what is generated."""

import subprocess
import sys

import pytest
from conftest import QUESTIONS, TEMPLATE


@pytest.mark.parametrize("task", QUESTIONS["task"])
def test_mypy_finds_nothing(bake, task):
    cache = str(TEMPLATE / ".mypy_cache")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", cache],
        cwd=bake(accept_hooks=False, task=task),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout

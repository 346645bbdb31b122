"""Texts as people have them: in tables of any form, or in files."""

import shutil
from pathlib import Path

from project import run

INSIDE = Path(__file__).parent / "inside"


def test_texts(bake, tmp_path):
    project = bake(accept_hooks=False, task="text")
    shutil.copy(INSIDE / "test_texts.py", project / "tests")
    done = run(project, "-m pytest -q tests/test_texts.py", home=tmp_path)
    assert done.code == 0, done.out + done.err

"""Tables as people have them: of any form, with gaps, dates, codes and mistakes."""

import shutil
from pathlib import Path

from project import run

INSIDE = Path(__file__).parent / "inside"


def test_tables(bake, tmp_path):
    project = bake(accept_hooks=False, task="tabular")
    shutil.copy(INSIDE / "test_tables.py", project / "tests")
    done = run(project, "-m pytest -q tests/test_tables.py", home=tmp_path)
    assert done.code == 0, done.out + done.err

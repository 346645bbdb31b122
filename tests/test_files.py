"""Images and sounds as people have them."""

import shutil
from pathlib import Path

import pytest
from project import run

INSIDE = Path(__file__).parent / "inside"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(("task", "name"), [("image", "test_images.py"), ("audio", "test_sounds.py")])
def test_files_as_people_have_them(bake, home, task, name):
    project = bake(accept_hooks=False, task=task)
    shutil.copy(INSIDE / name, project / "tests")
    done = run(project, f"-m pytest -q tests/{name}", home=home)
    assert done.code == 0, done.out + done.err

"""`cruft update` brings a project what changed in the template since, and leaves what is the user's alone.

A user's data.py, network.py, model.py and config.yaml go on working, because they lean on Lightning and on
functions of the machinery whose signatures are promised. It starts from the newest release, if there is one.
"""

import json
import shutil
import subprocess
from pathlib import Path

import cruft
import pytest
from conftest import TEMPLATE, as_typed
from project import run
from test_answers import HOSTILE, assert_reads_back

pytestmark = pytest.mark.slow

NEW = "A line that only the new state has."
NEWER = "{{cookiecutter.project}}/{{cookiecutter.__package}}/harness/folder.py"
NETWORK = '''"""A network of one's own."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Score an image of 8×8 pixels for each class with a perceptron.

    Args:
        channels: Colour channels of an image.
        num_classes: Scores to return.
        hidden: Hidden features.
        dropout: Share of the hidden features that training sets to zero.
    """

    def __init__(self, channels: int, num_classes: int, hidden: int = 256, dropout: float = 0.1):
        super().__init__()
        self.channels = channels
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, hidden), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores (B, num_classes) for uint8 images (B, channels, 8, 8)."""
        return self.head(self.backbone(images / 127.5 - 1))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of grey images."""
        return torch.full((batch, self.channels, 8, 8), 127, dtype=torch.uint8)
'''
ANSWERS = {"description": " ".join(HOSTILE), "author": HOSTILE[0], "license": "BSD-3-Clause"}


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, encoding="utf-8").stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A state")


def copy_of_the_template(folder: Path) -> None:
    """Copy the files of this repository that are, or would be, committed."""
    names = git(TEMPLATE, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in names:
        if name and (TEMPLATE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, folder / name)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old} is not in {path.name}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def make_older(folder: Path) -> None:
    """Change the machinery and what a user replaces; add a file and take one away."""
    project = folder / "{{cookiecutter.project}}"
    package = project / "{{cookiecutter.__package}}"
    (project / "slurm.sh").unlink()
    (project / "old.py").write_text('"""Left the template."""\n')
    edit(folder / "templates" / "image" / "requirements.txt", "torch==2.13.0", "torch==2.12.0")
    edit(project / "config.yaml", "log_every_n_steps: 10", "log_every_n_steps: 20")
    for path in [
        project / "train.py",
        *folder.glob("templates/**/*.py"),
        *package.glob("harness/*.py"),
    ]:
        edit(path, '"""', '"""Once: ')


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Return a repository whose tag `before` is the newest release, or else an older state made up."""
    folder = tmp_path_factory.mktemp("template")
    tags = git(TEMPLATE, "tag", "--sort=-creatordate").split()
    if tags:
        archive = folder.with_suffix(".tar")
        git(TEMPLATE, "archive", "--output", str(archive), tags[0])
        shutil.unpack_archive(archive, folder, filter="data")
    else:
        copy_of_the_template(folder)
        make_older(folder)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    git(folder, "tag", "before")
    git(folder, "rm", "--quiet", "-r", ".")
    copy_of_the_template(folder)
    edit(folder / NEWER, '"""', f'"""{NEW} ')
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def updated(template, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Generate from the older state, work as its user, update; return what the user wrote as well."""
    project = cruft.create(
        str(template),
        tmp_path_factory.mktemp("own"),
        checkout="before",
        no_input=True,
        default_config=True,
        extra_context={key: as_typed(key, value) for key, value in ANSWERS.items()},
    )
    package = project / "my_project"
    git(project, "init", "--quiet")
    commit(project)
    (package / "network.py").write_text(NETWORK, encoding="utf-8")
    edit(package / "data.py", '"""', '"""Mine: ')
    edit(
        package / "data.py",
        "    def test_example(self, index: int)",
        "    def test_example(self, index: int, mine: int = 0)",
    )
    edit(package / "model.py", "lr: float = 3e-3", "lr: float = 2e-3")
    edit(project / "config.yaml", "max_epochs: 20", "max_epochs: 7")
    edit(project / "README.md", "## Your data", "## Mine\n\nWhat I did.\n\n## Your data")
    edit(project / "pyproject.toml", '    "numpy>=2",\n', '    "more-itertools>=10",\n    "numpy>=2",\n')
    commit(project)
    names = ["my_project/network.py", "my_project/data.py", "my_project/model.py", "config.yaml"]
    mine = {name: (project / name).read_bytes() for name in names}
    assert not cruft.check(project)
    assert cruft.update(project, skip_apply_ask=True)
    return project, mine


def test_what_a_user_replaces_stays_as_it_is(updated):
    project, mine = updated
    assert {name: (project / name).read_bytes() for name in mine} == mine
    assert "## Mine" in (project / "README.md").read_text(encoding="utf-8")
    assert "more-itertools" in (project / "pyproject.toml").read_text(encoding="utf-8")


def test_nothing_conflicts_and_the_project_is_up_to_date(updated):
    project, _ = updated
    assert list(project.rglob("*.rej")) == []
    assert git(project, "diff", "--name-only", "--diff-filter=U") == ""
    assert git(project, "grep", "--files-without-match", "-e", "^<<<<<<<").count("\n") > 20
    assert cruft.check(project)


def test_the_machinery_is_that_of_the_new_state(updated, bake):
    project, mine = updated
    new = bake(accept_hooks=False, **ANSWERS)
    changed = set()
    for path in new.rglob("*"):
        name = path.relative_to(new).as_posix()
        if path.is_file() and path.read_bytes() != (project / name).read_bytes():
            changed.add(name)
    assert changed == {*mine, "README.md", "pyproject.toml", "my_project/harness/folder.py"}
    assert NEW in (project / "my_project" / "harness" / "folder.py").read_text(encoding="utf-8")
    assert not (project / "old.py").exists()


def test_stored_answers_read_back_although_they_were_rendered_again(updated):
    project, _ = updated
    stored = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))["context"]["cookiecutter"]
    assert {key: stored[key] for key in ANSWERS} == ANSWERS
    assert_reads_back(project, "my-project", ANSWERS["description"], ANSWERS["author"])
    assert not list(project.rglob("pwned"))


def test_what_the_user_wrote_works_with_the_new_machinery(updated, tmp_path):
    project, _ = updated
    done = run(project, "-m pytest -q -p no:cacheprovider tests/test_project.py", home=tmp_path)
    assert done.code == 0, done.out

"""Fixtures: generate projects in process, apart from the settings of whoever runs the tests."""

import json
import os
import shutil
import signal
from pathlib import Path

import project
import pytest
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
TASKS = QUESTIONS["task"]
LICENSES = QUESTIONS["license"]

# Laid into a generated project by other tests, and run there.
collect_ignore = ["inside", "plain"]

# These begin first, in this order: a long file that begins last keeps one worker busy and the others idle.
LONGEST = [
    "test_own_data.py",
    "test_plain_lightning.py",
    "test_recipes.py",
    "test_tasks.py",
    "test_resume.py",
    "test_tracking.py",
    "test_stuck.py",
    "test_wandb_rule.py",
    "test_faults.py",
    "test_scale.py",
    "test_platforms.py",
    "test_processes.py",
    "test_stopping.py",
    "test_render.py",
    "test_search.py",
    "test_runs.py",
    "test_chaos.py",
]


def pytest_collection_modifyitems(items):
    """Sort the tests by file, the longest first; `make test` keeps this order."""

    def place(item) -> int:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_sessionstart():
    """Let Ctrl-C reach what the tests start, and keep caches of tools out of the projects.

    Where a shell starts the tests in the background they ignore Ctrl-C, and so would all that they start.
    Cookiecutter would copy the caches from the template.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for folder in [TEMPLATE / "{{cookiecutter.project}}", TEMPLATE / "templates"]:
        for name in ["__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache"]:
            for cache in list(folder.rglob(name)):
                shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory):
    """Give git an identity and cookiecutter folders of its own, in this process and those it starts."""
    folder = tmp_path_factory.mktemp("settings")
    git = folder / "gitconfig"
    git.write_text("[user]\n\tname = A Tester\n\temail = tester@example.org\n")
    cookies = folder / "cookiecutter.yaml"
    cookies.write_text(f"replay_dir: {folder / 'replay'}\ncookiecutters_dir: {folder / 'templates'}\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("GIT_"):
                patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", str(git))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("COOKIECUTTER_CONFIG", str(cookies))
        yield


@pytest.fixture(scope="module")
def no_pictures():
    """Let the runs of a file of tests draw no pictures: for tests of something else, in which many train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project, "PICTURES", False)
        yield


@pytest.fixture
def pictures(monkeypatch):
    """Let the runs of a test draw their pictures, in a file of tests whose others draw none."""
    monkeypatch.setattr(project, "PICTURES", True)


@pytest.fixture(scope="session")
def bake(own_settings, tmp_path_factory):
    """Return bake(**answers), which generates a project and returns its folder.

    Each call writes into a new folder, unless output_dir names one. A blank project always needs the hooks,
    which take away what only other tasks use; without hooks it is no repository, as the others.
    """

    def bake(*, output_dir=None, accept_hooks=True, **answers) -> Path:
        assert answers.keys() <= QUESTIONS.keys(), "cookiecutter ignores what it does not know"
        blank = answers.get("task") == "blank"
        project = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context={key: as_typed(key, value) for key, value in answers.items()},
            output_dir=str(output_dir or tmp_path_factory.mktemp("baked")),
            config_file=os.environ["COOKIECUTTER_CONFIG"],
            accept_hooks=accept_hooks or blank,
        )
        if blank and not accept_hooks:
            shutil.rmtree(Path(project, ".git"), ignore_errors=True)
        return Path(project)

    return bake


def as_typed(key: str, value: str) -> str:
    """Write a text as a Jinja literal: without a prompt, cookiecutter renders what it is given."""
    if isinstance(QUESTIONS[key], list):
        return value
    return "{{ " + json.dumps(value, ensure_ascii=False) + " }}"

"""Fixtures: generate projects in process, apart from the settings of whoever runs the tests."""

import json
import os
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory):
    """Give git an identity and cookiecutter folders of its own, in this process and those it starts."""
    folder = tmp_path_factory.mktemp("settings")
    git, cookies = folder / "gitconfig", folder / "cookiecutter.yaml"
    git.write_text("[user]\n\tname = A Tester\n\temail = tester@example.org\n")
    cookies.write_text(f"replay_dir: {folder / 'replay'}\ncookiecutters_dir: {folder / 'templates'}\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", str(git))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("COOKIECUTTER_CONFIG", str(cookies))
        yield


@pytest.fixture(scope="session")
def bake(own_settings, tmp_path_factory):
    """Return bake(**answers), which generates a project and returns its folder.

    Each call writes into a new folder, unless output_dir names one.
    """

    def bake(*, output_dir=None, accept_hooks=True, **answers) -> Path:
        assert answers.keys() <= QUESTIONS.keys(), "cookiecutter ignores what it does not know"
        project = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context={key: as_typed(key, value) for key, value in answers.items()},
            output_dir=str(output_dir or tmp_path_factory.mktemp("baked")),
            config_file=os.environ["COOKIECUTTER_CONFIG"],
            accept_hooks=accept_hooks,
        )
        return Path(project)

    return bake


def as_typed(key: str, value: str) -> str:
    """Write a text as a Jinja literal: without a prompt, cookiecutter renders what it is given."""
    if isinstance(QUESTIONS[key], list):
        return value
    return "{{ " + json.dumps(value, ensure_ascii=False) + " }}"

"""The project works on every platform: odd paths, spawned workers, uv."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import TASKS
from PIL import Image
from project import TINY, environment, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

SPAWN = """
import multiprocessing
import train

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    train.main()
"""
SEND = """
import pickle
from my_project.data import DataModule

data = DataModule()
data.setup("fit")
data.setup("test")
for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    assert len(dataset) == len(loader.dataset)
print("sent")
"""


def test_a_project_in_a_path_with_spaces_and_letters_of_any_script(bake, tmp_path):
    """The commands that it prints work as they are; no file is read in the encoding of the machine."""
    project = bake(accept_hooks=False, output_dir=tmp_path / "Zoë's döcs & 李 (1)")
    trained = new_python(project, f"train.py {TINY}", tmp_path, PYTHONWARNDEFAULTENCODING="1")
    lines = trained.stderr.splitlines()
    assert not [line for line in lines if "EncodingWarning" in line and project.name in line]
    printed = dict(re.findall(r"^(resume|evaluate|predict) +python (.*)$", trained.stdout, re.MULTILINE))
    Image.new("L", (8, 8)).save(project / "an image.png")
    evaluate = shlex.split(printed["evaluate"])
    predict = [*shlex.split(printed["predict"].removesuffix(" INPUT...")), "an image.png"]
    resume = [*shlex.split(printed["resume"]), "--trainer.max_epochs", "2"]
    for words in [evaluate, predict, resume]:
        done = run(project, words, home=tmp_path)
        assert done.code == 0, done.err
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = run(elsewhere, [str(project / "train.py"), *TINY.split()], home=tmp_path)
    assert done.code == 0, done.err
    evaluate = re.search(r"^evaluate +python (.*)$", done.out, re.MULTILINE)[1]
    done = run(elsewhere, shlex.split(evaluate), home=tmp_path)
    assert done.code == 0, done.err


def test_workers_that_are_spawned(bake, tmp_path):
    """As on Windows and macOS. Each worker is a new Python, which takes seconds: so there is one."""
    project = bake(accept_hooks=False)
    (project / "spawn.py").write_text(SPAWN, encoding="utf-8")
    only_training = "--trainer.limit_val_batches 0 --trainer.limit_test_batches 0"
    done = run(project, f"spawn.py {TINY} {only_training} --data.num_workers 1", home=tmp_path)
    assert done.code == 0, done.err
    assert "evaluate.py" in done.out


@pytest.mark.parametrize("task", TASKS)
def test_what_workers_need_can_be_sent_to_them(bake, tmp_path, task):
    project = bake(accept_hooks=False, task=task)
    (project / "send.py").write_text(SEND, encoding="utf-8")
    done = run(project, "send.py", home=tmp_path)
    assert (done.code, done.out) == (0, "sent\n"), done.err


def test_uv_runs_the_project_from_the_same_file(bake, tmp_path):
    """It finds pyproject.toml in order, and the environment that is active."""
    project = bake(accept_hooks=False)
    (project / "which.py").write_text("import sys\nprint(sys.prefix)\n", encoding="utf-8")
    command = "-m uv run --active --no-sync --offline python which.py"
    done = new_python(project, command, tmp_path, VIRTUAL_ENV=sys.prefix)
    assert done.stdout == f"{sys.prefix}\n"


def new_python(folder, command: str, home, **variables: str) -> subprocess.CompletedProcess:
    """Run a command in a Python of its own, as a user does; fail with what it says."""
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=folder,
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done

"""Leave out what a blank project has no use for, make the first commit, print the next steps.

Nothing here may fail.
"""

import contextlib
import json
import os
import shlex
import subprocess
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = Path.cwd()
STEPS = [
    ["git", "-c", "init.defaultBranch=main", "init", "--quiet"],
    ["git", "add", "--all"],
    ["git", "commit", "--quiet", "--message", "Initial commit"],
]

# A blank project reads no files of data, and its network is no classifier with a backbone and a head.
READERS = ["batches", "cells", "columns", "delimited", "files", "hub", "kinds", "labels"]
READERS += ["opening", "splits", "tables", "targets"]
OF_OTHER_TASKS = ["experiments/finetune.yaml", "folds.yaml", "tests/test_example.py"]


def leave_out() -> None:
    """Delete the files that only other tasks use."""
    names = [f"{ANSWERS['__package']}/harness/{name}.py" for name in READERS]
    for name in names + OF_OTHER_TASKS:
        (PROJECT / name).unlink(missing_ok=True)


def first_commit() -> str:
    """Make a repository with one commit, unless inside one already; say in one line what happened."""
    for folder in [PROJECT, *PROJECT.parents]:
        if (folder / ".git").exists():
            return f"git: no new repository, because the project is inside the repository {folder}"
    # Set where cookiecutter is called from a git hook: they point to the repository of that hook.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"]:
        os.environ.pop(name, None)
    for step in STEPS:
        try:
            subprocess.run(step, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        except FileNotFoundError:
            return "git: not found, so no repository was made"
        except (OSError, subprocess.SubprocessError) as error:
            return (
                f"git: no first commit ({last_line(error)}); correct that, then run: "
                'git init && git add --all && git commit --message "Initial commit"'
            )
    return "git: the files are committed on branch main"


def last_line(error: Exception) -> str:
    """Return the last line that git wrote, or else what the error says."""
    written = getattr(error, "stderr", None) or b""
    reason = written.decode(errors="replace") or str(error)
    return reason.strip().splitlines()[-1]


def next_steps() -> str:
    """Return the commands that lead to a trained model."""
    if os.name == "nt":
        folder, activate = subprocess.list2cmdline([PROJECT]), r".venv\Scripts\activate"
    else:
        folder, activate = shlex.quote(str(PROJECT)), ". .venv/bin/activate"
    return f"""
{PROJECT.name} is ready. Next:

    cd {folder}
    python -m venv .venv && {activate}
    pip install -r requirements.txt
    python train.py
"""


if ANSWERS["task"] == "blank":
    with contextlib.suppress(OSError):
        leave_out()

# cruft leaves this entry out: it renders copies to compare them, where a repository would be a difference.
if "_output_dir" in ANSWERS:
    text = f"{first_commit()}\n{next_steps()}"
    # Not print: a closed standard output would fail the hook, and with it the project.
    with contextlib.suppress(OSError):
        os.write(1, os.fsencode(text))

"""An answer is refused in one line, or stands in the project as it was given. No answer is ever run."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from conftest import LICENSES, QUESTIONS, TEMPLATE
from cookiecutter.exceptions import FailedHookException
from cookiecutter.generate import generate_context, generate_files
from cookiecutter.main import cookiecutter
from cookiecutter.prompt import prompt_for_config
from cookiecutter.utils import create_env_with_context
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from local_extensions import package, quoted

# cookiecutter 2.7 removes a refused project so, and Python 3.12 has a newer way.
pytestmark = pytest.mark.filterwarnings("ignore:onerror argument is deprecated:DeprecationWarning")

ENVIRONMENT = create_env_with_context({"cookiecutter": QUESTIONS})

# Each would break a naive template, or run something.
HOSTILE = [
    'Bob "B" O\'Neil',
    "\"quoted\" 'twice'",
    "ends with a backslash \\",
    'ends with \\"',
    '"""',
    "'''",
    "# a: b, [c] {d} - & * ! | > % @ `e` <b>&amp;</b> ~",
    "null",
    "1.0",
    "{ {x} } }} %} #}",
    r"\N{BULLET} \x41 \u0041 \n",
    "Zoë 李 🎉",
    "$HOME $(touch pwned) `touch pwned` %PATH%",
    'x"; import os; os.system("touch pwned")',
    '"""); import os; os.system("touch pwned")',
    '\\"""); import os; os.system("touch pwned")',
    "'); import os; os.system('touch pwned') #",
]
BAD_TEXTS = ["", " ", " x", "x ", "a\nb", "x\n", "a\tb", "a\0b", "\x85", "\u2028", "\ufeffx", "\udcff"]
BAD_TEXTS += ["{{ cookiecutter }}", "{% raw %}", "{# x #}", "{{", "a{%", "{{{", "\u202ex"]

NAMES = ["a", "my-project", "my-2nd-try", "x" * 64, "torch-model", "digits", "a-b-c-d-e"]
MALFORMED = ["", "../x", "..", ".", "/abs", "a/b", "C:\\x", "my_project", "My-project", "Con", "TORCH"]
MALFORMED += ["1st", "-a", "a-", "a--b", "a.b", "a b", "a\n", "\nx", " x", "x\0", "x" * 65, "--help"]
MALFORMED += ["t\u043erch", "\uff54orch", "\u00e9t\u00e9", "x\u0663", "\u017fys"]  # look-alikes of ASCII
TAKEN = {
    "a word of the Python or YAML language": "class true null",
    "a device name on Windows": "con com1 lpt9",
    "a file or folder of the project itself": "test tests train runs harness config build license wandb",
    "a library that the project uses or may use": (
        "torch pil yaml numpy sklearn pytorch-lightning scikit-learn torchvision"
    ),
    "a module of Python's standard library": "json",
}

# Each goes with a phrase of its text.
PHRASES = {
    "MIT": "Permission is hereby granted, free of charge",
    "Apache-2.0": "END OF TERMS AND CONDITIONS",
    "BSD-3-Clause": "Neither the name of the copyright holder",
    "proprietary": "All rights reserved.",
}

# Letters, digits, punctuation and symbols of any script.
WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1)
SENTENCES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)


# The two filters


@given(text=st.text() | st.text(alphabet="\"'\\{}%#: nNx0`$é🎉", max_size=12) | st.sampled_from(HOSTILE))
@settings(max_examples=200, deadline=None)
def test_a_text_reads_back_from_every_format_or_is_refused(text):
    try:
        inside = quoted(text)
    except FailedHookException as refusal:
        assert_one_line(str(refusal))
        return
    assert tomllib.loads(f'x = "{inside}"') == {"x": text}
    assert yaml.safe_load(f'x: "{inside}"') == {"x": text}
    assert json.loads(f'"{inside}"') == text
    assert ast.literal_eval(f'"{inside}"') == text
    assert ast.literal_eval(f'"""{inside}"""') == text
    # cruft renders stored answers once more
    assert ENVIRONMENT.from_string(text).render() == text
    assert ENVIRONMENT.from_string(inside).render() == inside


def test_a_text_that_no_line_can_hold_is_refused():
    for text in BAD_TEXTS:
        line = refusal(quoted, text)
        assert "use one line of printable characters" in line
        assert repr(text) in line


@given(project=st.text() | st.from_regex(r"[a-z0-9-]{1,70}", fullmatch=True) | st.sampled_from(NAMES))
@settings(max_examples=200, deadline=None)
def test_a_name_is_importable_or_refused(project):
    try:
        name = package(project)
    except FailedHookException as refusal:
        assert_one_line(str(refusal))
        return
    assert project == name.replace("_", "-")
    assert len(project) <= 64
    assert project.islower()
    ast.parse(f"import {name}")
    assert name not in sys.stdlib_module_names


def test_names_are_accepted_or_refused_with_the_reason():
    for project in NAMES:
        assert package(project) == project.replace("-", "_")
    for project in MALFORMED:
        line = refusal(package, project)
        assert "use lower-case words joined by hyphens" in line
        assert ascii(project) in line
    for reason, names in TAKEN.items():
        for project in names.split():
            assert refusal(package, project).endswith(f" is {reason}; try my-{project}")
            assert package(f"my-{project}")


def test_the_names_of_all_that_the_project_installs_are_refused():
    files = [TEMPLATE / "{{cookiecutter.project}}" / "requirements-dev.txt"]
    files += TEMPLATE.glob("templates/*/requirements.txt")
    lines = [line for file in files for line in file.read_text().splitlines()]
    required = {plain(Requirement(line).name) for line in lines if line and line[0] not in "#-"}
    imported = {
        plain(name)
        for name, distributions in packages_distributions().items()
        if name[0] != "_" and required & {plain(distribution) for distribution in distributions}
    }
    assert accepted(required | imported) == set()


def test_the_names_of_what_the_project_holds_are_refused(bake):
    project = bake(project="a-b", accept_hooks=False)
    held = {plain(path.stem) for path in project.iterdir() if path.name[0].isalpha()} - {"a-b"}
    ignored = re.findall(r"^/?([a-z][a-z0-9_-]*)/?$", read(project / ".gitignore"), flags=re.MULTILINE)
    assert accepted(held | set(map(plain, ignored))) == set()


# In a project


def test_hostile_texts_read_back_from_the_project(bake):
    for text in HOSTILE:
        assert_reads_back(bake(description=text, author=text, accept_hooks=False), "my-project", text, text)


@given(
    project=st.from_regex(r"[a-z][a-z0-9]{0,9}(-[a-z0-9]{1,9}){1,4}", fullmatch=True),
    description=SENTENCES,
    author=SENTENCES,
)
@settings(
    max_examples=10, deadline=None, phases=[Phase.reuse, Phase.generate]
)  # a failure is not made smaller
def test_accepted_answers_read_back_from_the_project(bake, project, description, author):
    assume(not refused(package, project))
    assume(not refused(quoted, description))
    assume(not refused(quoted, author))
    answers = {"project": project, "description": description, "author": author}
    assert_reads_back(bake(**answers, accept_hooks=False), project, description, author)


def test_each_license_names_the_author_as_given(bake):
    assert list(PHRASES) == LICENSES
    author = HOSTILE[0]
    for license, phrase in PHRASES.items():
        text = read(bake(license=license, author=author, accept_hooks=False) / "LICENSE")
        assert phrase in text
        assert re.search(rf"Copyright (\(c\) )?[0-9]{{4}} {re.escape(author)}\n", text)


# The command


@pytest.mark.parametrize("hooks", ["yes", "no"])
def test_the_command_refuses_in_one_line_and_leaves_nothing(tmp_path, hooks):
    result = command(tmp_path, "--no-input", "--accept-hooks", hooks, "--output-dir", "out", "project=../x")
    assert result.returncode == 1
    assert_one_line((result.stdout + result.stderr).removesuffix("\n"))
    assert list(tmp_path.iterdir()) == []


def test_a_refused_answer_leaves_nothing(bake, tmp_path):
    refused_answers = [
        {"project": "torch"},
        {"project": "a/b"},
        {"project": "my-project\n"},
        {"author": "{{ x }}"},
        {"description": ""},
    ]
    for answers in refused_answers:
        for hooks in [True, False]:
            with pytest.raises(FailedHookException):
                bake(output_dir=tmp_path, accept_hooks=hooks, **answers)
    assert list(tmp_path.iterdir()) == []


def test_answers_typed_at_the_prompts_read_back(tmp_path):
    description, author = HOSTILE[-3:-1]
    typed = f"my-digits\n{description}\n{author}\n\n2\n"
    result = command(tmp_path, "--output-dir", "out", typed=typed)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "[5/5]" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["my-digits"]
    assert_reads_back(tmp_path / "out" / "my-digits", "my-digits", description, author)
    assert "Apache License" in (tmp_path / "out" / "my-digits" / "LICENSE").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("pwned"))


def test_a_bad_name_is_refused_before_the_next_question(tmp_path):
    result = command(tmp_path, typed="torch\n")
    assert result.returncode == 1
    assert "[2/5]" not in result.stdout
    assert result.stdout.endswith(
        "project 'torch': torch is a library that the project uses or may use; try my-torch\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_replay_gives_the_same_files(bake, tmp_path):
    project = bake(description=HOSTILE[0], author=HOSTILE[1])
    assert_same_files(project, Path(cookiecutter(str(TEMPLATE), replay=True, output_dir=str(tmp_path))))


# The hooks


@given(text=st.text() | st.text(alphabet="\"'\\{}%#n", max_size=12) | st.sampled_from(HOSTILE))
@settings(max_examples=100, deadline=None)
def test_a_hook_holds_answers_as_data(text):
    """Render the hook that no filter guards with any text at all: only one string in it changes."""
    context = {"project": "a", "author": text, "_output_dir": text}
    source = (TEMPLATE / "hooks" / "post_gen_project.py").read_text()
    before, after = (
        ast.parse(ENVIRONMENT.from_string(source).render(cookiecutter=answers)) for answers in [{}, context]
    )
    pairs = list(zip(strings(before), strings(after), strict=True))
    assert [json.loads(new) for old, new in pairs if old != new] == [context]
    assert len(list(ast.walk(before))) == len(list(ast.walk(after)))


def test_hostile_answers_run_nothing(bake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in HOSTILE[-5:]:
        project = bake(output_dir=tmp_path / str(hash(text)), description=text, author=text)
        assert (project / ".git").is_dir(), "the hooks ran to their end"
    assert not list(tmp_path.rglob("pwned"))


def test_a_private_variable_cannot_be_overridden(bake, tmp_path, capfd):
    for name in ["__package", "__description", "__author", "__year"]:
        with pytest.raises(FailedHookException):
            bake(output_dir=tmp_path, **{name: "else"})
        line = capfd.readouterr().err.splitlines()[0]
        assert line.startswith(f"{name} 'else': ")
        assert line.endswith(f"leave {name} out")
    assert list(tmp_path.iterdir()) == []


def test_the_last_gate_says_one_line_on_standard_error(tmp_path):
    result = command(tmp_path, "--no-input", "__author=else")
    assert result.returncode == 1
    assert (
        result.stderr == "__author 'else': the answers make it 'The my-project authors'; leave __author out\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_bad_name_hidden_behind_a_private_variable_is_refused(bake, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FailedHookException, match="use lower-case words"):
        bake(output_dir=tmp_path / "out", project="../x", __package="x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_folder_inside_a_package_of_the_same_name_is_refused(bake, tmp_path, capfd):
    inside = tmp_path / "my_project" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "my_project" / "__init__.py").touch()
    with pytest.raises(FailedHookException):
        bake(output_dir=inside)
    assert capfd.readouterr().err.startswith(
        f"output folder {str(tmp_path / 'my_project')!r}: it is a Python package"
    )
    assert list(inside.iterdir()) == []
    assert bake(output_dir=inside, project="another").is_dir()


def test_the_project_is_committed(bake, capfd):
    project = bake()
    assert git(project, "log", "--format=%an %s", "main") == "A Tester Initial commit\n"
    assert git(project, "status", "--porcelain") == ""
    output = capfd.readouterr().out
    assert output.startswith("git: the files are committed on branch main\n")
    assert f"    cd {project}\n" in output
    assert "    pip install -r requirements.txt\n    python train.py\n" in output


def test_the_project_is_the_same_without_hooks(bake):
    assert_same_files(bake(accept_hooks=False), bake())


def test_without_an_identity_the_files_are_staged(bake, tmp_path, monkeypatch, capfd):
    (tmp_path / "gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    project = bake()
    assert_staged(project)
    said = capfd.readouterr().out.splitlines()[0]
    assert said.startswith("git: no first commit (fatal: ")
    assert said.endswith(
        '; correct that, then run: git init && git add --all && git commit --message "Initial commit"'
    )


def test_a_failing_commit_hook_leaves_the_files_staged(bake, tmp_path, monkeypatch, capfd):
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(hook.parent))
    assert_staged(bake())
    assert "(not today)" in capfd.readouterr().out.splitlines()[0]


def test_without_git_the_project_is_complete(bake, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", str(tmp_path))
    project = bake()
    assert capfd.readouterr().out.startswith("git: not found, so no repository was made\n")
    assert_same_files(project, bake(accept_hooks=False))
    assert not (project / ".git").exists()


def test_inside_a_repository_git_is_left_alone(bake, tmp_path, capfd):
    git(tmp_path, "init", "--quiet")
    project = bake(output_dir=tmp_path / "deeper")
    assert capfd.readouterr().out.startswith(
        f"git: no new repository, because the project is inside the repository {tmp_path}\n"
    )
    assert not (project / ".git").exists()
    assert git(tmp_path, "status", "--porcelain") == "?? deeper/\n"


def test_called_from_a_git_hook_the_other_repository_is_left_alone(bake, tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    before = sorted(path for path in tmp_path.rglob("*"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / ".git" / "index"))
    project = bake()
    monkeypatch.undo()
    assert git(project, "log", "--format=%s") == "Initial commit\n"
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_what_cruft_renders_is_no_repository(bake, tmp_path, capfd):
    """`cruft update` compares two renderings, file by file; like here, it leaves cookiecutter.main out."""
    context = generate_context(str(TEMPLATE / "cookiecutter.json"))
    context["cookiecutter"] = prompt_for_config(context, no_input=True)
    project = Path(generate_files(str(TEMPLATE), context, output_dir=str(tmp_path)))
    assert capfd.readouterr().out == ""
    assert_same_files(project, bake(accept_hooks=False))
    assert not (project / ".git").exists()


def test_a_closed_output_does_not_cost_the_project(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    result = command(tmp_path, "--no-input", stdout=writer)
    os.close(writer)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "my-project" / ".git").is_dir()


# Helpers


def accepted(projects) -> set[str]:
    """Return those of the names that no rule refuses."""
    return {project for project in projects if not refused(package, project)}


def refused(question, answer: str) -> bool:
    try:
        question(answer)
    except FailedHookException:
        return True
    return False


def refusal(question, answer: str) -> str:
    """Return the line in which an answer is refused."""
    with pytest.raises(FailedHookException) as error:
        question(answer)
    line = str(error.value)
    assert_one_line(line)
    return line


def plain(name: str) -> str:
    """Write the name of a distribution, module or file as a project name."""
    return re.sub(r"[-_.]+", "-", name).strip("-").lower()


def command(folder: Path, *arguments: str, typed: str = "", stdout=subprocess.PIPE):
    """Run cookiecutter in a folder that is the user's home as well."""
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", str(TEMPLATE), *arguments],
        cwd=folder,
        input=typed,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "HOME": str(folder), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": ""},
        timeout=60,
    )


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def strings(tree: ast.AST) -> list[str]:
    """Return the string literals of a program."""
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def files(project: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(project): path.read_bytes()
        for path in project.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


def assert_same_files(one: Path, other: Path):
    assert files(one) == files(other)


def assert_staged(project: Path):
    """Find every file in the index of a repository that has no commit yet."""
    staged = git(project, "ls-files")
    assert {Path(name) for name in staged.splitlines()} == files(project).keys()
    assert git(project, "for-each-ref") == ""
    assert git(project, "symbolic-ref", "HEAD") == "refs/heads/main\n"


def assert_one_line(text: str):
    assert text.strip()
    assert len(text.splitlines()) == 1


def assert_reads_back(project: Path, name: str, description: str, author: str):
    """Find each answer, unchanged, in every file that repeats it."""
    metadata = tomllib.loads(read(project / "pyproject.toml"))["project"]
    assert metadata["name"] == project.name == name
    assert metadata["description"] == description
    assert metadata["authors"] == [{"name": author}]
    init = ast.parse(read(project / name.replace("-", "_") / "__init__.py"))
    assert ast.get_docstring(init, clean=False) == description
    assert read(project / "README.md").split("\n")[:3] == [f"# {name}", "", description]
    assert yaml.safe_load(read(project / "config.yaml"))["tracking"]["project"] == name
    assert re.search(rf"Copyright (\(c\) )?[0-9]{{4}} {re.escape(author)}\n", read(project / "LICENSE"))


def read(path: Path) -> str:
    return path.read_bytes().decode()

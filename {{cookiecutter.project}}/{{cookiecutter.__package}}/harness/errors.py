"""One clear line for what a user can put right; a traceback for a bug."""

import difflib
import errno
import pickle
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

CLASS_PROBLEM = r"Problem with given class_path (.*?:\s+.*)"  # as jsonargparse says it


class UserError(Exception):
    """Say what was given, what is allowed and what to do."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with status 1 and one line on standard error if a user can put the mistake right."""
    try:
        yield
    except (UserError, MisconfigurationException, ModuleNotFoundError) as error:
        message = str(error).rpartition("UserError: ")[2]  # without the traceback of a worker that loads data
        sys.exit(f"error: {' '.join(message.split())}")
    except ValueError as error:
        if not (problem := re.search(CLASS_PROBLEM, str(error))):
            raise
        sys.exit(f"error: {' '.join(problem[1].split())}")
    except KeyboardInterrupt:
        sys.exit(130)
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = " ".join(str(error).splitlines()[:2])
        if not re.match("Error.* loading state_dict|Weights only", reason):
            raise
        sys.exit(f"error: the checkpoint holds more than plain values, or does not fit: {reason}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: the disk is full: make room, then go on with --resume ({error})")


def check_settings_file(path: Path) -> None:
    """Raise a UserError, with the line, unless the file holds settings in YAML."""
    try:
        with path.open(encoding="utf-8") as file:
            settings = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; write lines such as 'trainer:' and '  max_epochs: 5'")


def explain(message: str, known: list[str], flags: list[str], files: list[Path]) -> str:
    """Turn jsonargparse's message about a setting into one line, with the file and line that set it."""
    if flag := re.match(r"unrecognized arguments: (-*)([^\s=]+)", message):
        dashes, key = flag.groups()
        return f"unknown setting {dashes}{key}; {_suggestion(key, known, dashes)}"
    if option := re.match(r"(?:Group '(.+)' does not accept o|O)ption '(.+?)'", message):
        key = ".".join(filter(None, option.groups()))
        return f"unknown setting {key}{_place(key, flags, files)}; {_suggestion(key, known)}"
    if value := re.match(r'Parser key "(.+?)":.*(?:Given|Got) value: (.*)', message, re.DOTALL):
        key, given = value.groups()
        reasons = re.findall(CLASS_PROBLEM, message)
        kinds = re.findall(r"Expected an? (?!path)(.+?)(?:\. Got|$)", message, re.MULTILINE)
        kinds = [re.sub(r"<class '(?:.*\.)?(\w+)'>|dot import path string.*", r"\1", kind) for kind in kinds]
        kinds = [kind.replace("NoneType", "null") or "the name of a Lightning class" for kind in kinds]
        reason = reasons[0] if reasons else f"expected {' or '.join(dict.fromkeys(kinds))}"
        return f"{key}{_place(key, flags, files)}: {given} is not allowed; {reason}"
    return message


def _suggestion(key: str, known: list[str], dashes: str = "") -> str:
    same_name = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
    similar = same_name or difflib.get_close_matches(key, known, n=1)
    choice = " or ".join(dashes + other for other in similar[:3])
    return f"did you mean {choice}?" if choice else "python train.py --help lists all settings"


def _place(key: str, flags: list[str], files: list[Path]) -> str:
    if any(flag.lstrip("-").startswith(key) for flag in flags):
        return ""
    for file in reversed(files):
        node = yaml.compose(file.read_text(encoding="utf-8"))
        for name in key.split("."):
            entries = {k.value: (k, v) for k, v in node.value} if isinstance(node, yaml.MappingNode) else {}
            place, node = entries.get(name, (None, None))
        if place:
            return f" ({file}, line {place.start_mark.line + 1})"
    return ""

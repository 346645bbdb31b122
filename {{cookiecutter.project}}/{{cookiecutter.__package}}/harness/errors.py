"""One clear line for what a user can put right; a traceback for a bug."""

import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException


class UserError(Exception):
    """Say what was given, what is allowed and what to do."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with status 1 and one line on standard error if a user can put the mistake right."""
    try:
        yield
    except (UserError, MisconfigurationException, ModuleNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        if not isinstance(cause, ModuleNotFoundError):  # of a package that a chosen class needs
            raise
        sys.exit(f"error: {' '.join(str(cause).split())}")


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
    flag = r"unrecognized arguments: (-*)([^\s=]+)"
    option = r"(?:Group '(.+)' does not accept o|O)ption '(.+?)'"
    if unknown := re.match(f"{flag}|{option}", message):
        dashes, key, group, name = unknown.groups(default="")
        key = key or f"{group}.{name}".lstrip(".")
        same_name = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
        similar = same_name[:3] or difflib.get_close_matches(key, known, n=1)
        meant = " or ".join(dashes + other for other in similar)
        hint = f"did you mean {meant}?" if meant else "python train.py --help lists all settings"
        return f"unknown setting {dashes}{key}{_place(key, flags, files)}; {hint}"
    if value := re.match(r'Parser key "(.+?)":.*(?:Given|Got) value: (.*)', message, re.DOTALL):
        key, given = value.groups()
        missing = re.findall(r"Problem with given class_path (.*?:\s+.*)", message)
        expected = r"Expected an? (?:<class '(?:.*\.)?)?(?!path)(.+?)(?:'>)?(?:\. Got|$)"
        kinds = dict.fromkeys(re.findall(expected, message, re.MULTILINE))
        allowed = " or ".join(kinds).replace("NoneType", "null")
        reason = missing[0] if missing else f"expected {allowed}"
        return f"{key}{_place(key, flags, files)}: {given} is not allowed; {reason}"
    return message


def _place(key: str, flags: list[str], files: list[Path]) -> str:
    set_by_flag = any(flag.lstrip("-").startswith(key) for flag in flags)
    for file in [] if set_by_flag else reversed(files):
        node = yaml.compose(file.read_text(encoding="utf-8"))
        for name in key.split("."):
            entries = {k.value: (k, v) for k, v in node.value} if isinstance(node, yaml.MappingNode) else {}
            place, node = entries.get(name, (None, None))
        if place:
            return f" ({file}, line {place.start_mark.line + 1})"
    return ""

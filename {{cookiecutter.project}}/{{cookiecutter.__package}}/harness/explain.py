"""One line for a mistake in the settings: which one, where it was set, and what is allowed."""

import difflib
import re
from pathlib import Path

import yaml

from .errors import WRONG_CLASS, UserError

# How jsonargparse says it.
UNKNOWN_FLAG = re.compile(r"unrecognized arguments: (-*)([^\s=]+)", re.IGNORECASE)
UNKNOWN_KEY = re.compile(r"(?:Group '(.+)' does not accept o|O)ption '(.+?)'")
WRONG_VALUE = re.compile(r'Parser key "(.+?)":.*(?:Given|Got) value: (.*)', re.DOTALL)
MISSING_VALUE = re.compile(r'Key "(.+?)" is required')
LINKED = re.compile(r'Linked "(?P<to>.+?)" must be given via "(?P<of>.+?)"|argument (\S+) --> (\S+): ')


def check_settings_file(path: Path) -> None:
    """Raise a UserError, with the line, unless the file holds settings in YAML."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; write lines such as 'trainer:' and '  max_epochs: 5'")


def explain(message: str, known: list[str], flags: list[str], files: list[Path]) -> str:
    """Turn jsonargparse's message about a setting into one line.

    Args:
        message: What jsonargparse says.
        known: The names of all settings.
        flags: The flags that were given.
        files: The YAML files that were read; later ones win.
    """
    flag = UNKNOWN_FLAG.match(message)
    if flag:
        dashes, name = flag.groups()
        return f"unknown setting {dashes}{name}; {suggestion(name, known, dashes)}"
    key = UNKNOWN_KEY.match(message)
    if key:
        name = ".".join(part for part in key.groups() if part)
        return f"unknown setting {name}{place(name, flags, files)}; {suggestion(name, known)}"
    value = WRONG_VALUE.match(message)
    if value:
        name, given = value.groups()
        return f"{name}{place(name, flags, files)}: {given} is not allowed; {allowed(message)}"
    missing = MISSING_VALUE.search(message)
    if missing:
        return f"{missing[1]} has no value and no default; give --{missing[1]}"
    linked = LINKED.match(message)
    if linked:
        name = linked["to"] or linked[4]
        source = linked["of"] or linked[3]
        if source in known:
            return f"{name} cannot be given: it is the same as {source}; give --{source}"
        return f"{name} cannot be given: it is taken from the data (the property {source})"
    return message


def allowed(message: str) -> str:
    """Return what jsonargparse says about the values that a setting may have, in a user's words."""
    problem = WRONG_CLASS.search(message)
    if problem:
        return problem[1]
    kinds = []
    for kind in re.findall(r"Expected an? (?!path)(.+?)(?:\. Got|$)", message, re.MULTILINE):
        kind = re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", kind)
        kind = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", kind)
        kind = re.sub(r"dot import path string.*", "the name of a Lightning class", kind)
        kind = kind.replace("NoneType", "null")
        if kind not in kinds:
            kinds.append(kind)
    return f"expected {' or '.join(kinds)}"


def suggestion(name: str, known: list[str], dashes: str = "") -> str:
    """Return the settings that the user may have meant."""
    last = name.split(".")[-1]
    similar = [other for other in known if other.split(".")[-1] == last]
    if not similar:
        similar = difflib.get_close_matches(name, known, n=1)
    if not similar:
        return "python train.py --help_all lists all settings"
    choice = " or ".join(dashes + other for other in similar[:3])
    return f"did you mean {choice}?"


def place(name: str, flags: list[str], files: list[Path]) -> str:
    """Return the file and line that set a value, nothing if a flag did."""
    for flag in flags:
        if flag.lstrip("-").startswith(name):
            return ""
    for file in reversed(files):
        line = line_of(name, yaml.compose(file.read_text(encoding="utf-8")))
        if line is not None:
            return f" ({file}, line {line})"
    return ""


def line_of(name: str, node: yaml.Node | None) -> int | None:
    """Return the line of a dotted name in a YAML document, counted from 1."""
    line = None
    for part in name.split("."):
        if not isinstance(node, yaml.MappingNode):
            return None
        line = None
        for key, value in node.value:
            if key.value == part:
                line = key.start_mark.line + 1
                node = value
                break
        if line is None:
            return None
    return line

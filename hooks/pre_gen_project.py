"""Refuse what the questions cannot see: overridden private variables, and a folder that hides the package."""

import json
import re
import sys
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
DERIVED = json.loads(
    r"""{{ {
        "__package": cookiecutter.project | package,
        "__description": cookiecutter.description | quoted,
        "__author": cookiecutter.author | quoted,
    } | tojson }}"""
)


def problem() -> str | None:
    """Return what is wrong as one line, or None."""
    for name, value in DERIVED.items():
        if ANSWERS[name] != value:
            return f"{name} {ANSWERS[name]!r}: the answers make it {value!r}; leave {name} out"
    if not re.fullmatch(r"[0-9]{4}", ANSWERS["__year"]):
        return f"__year {ANSWERS['__year']!r}: four digits are allowed; leave __year out"
    for folder in Path.cwd().parents:
        if folder.name == DERIVED["__package"] and (folder / "__init__.py").exists():
            return (
                f"output folder {str(folder)!r}: it is a Python package of the same name as the project's; "
                "choose another folder or project name"
            )
    return None


message = problem()
if message is not None:
    sys.exit(message)

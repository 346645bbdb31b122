"""{{ cookiecutter.__description }}"""

from . import harness as harness

"""Search for better settings on this machine: `python search.py sweep.yaml --trials 20`, with any setting."""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from {{ cookiecutter.__package }}.harness.errors import (
    UserError,
    one_line_errors,
)
from {{ cookiecutter.__package }}.harness.folder import (
    runs_folder,
    shortened,
)
from {{ cookiecutter.__package }}.harness.search import (
    Search,
)
from {{ cookiecutter.__package }}.harness.sweep import (
    Sweep,
    read_sweep,
)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return what is for this script, and the settings, which are for train.py."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("sweep", type=Path, help="A sweep file of W&B, such as sweep.yaml or folds.yaml.")
    help = "How many trials there are in all; a grid has as many as its values make."
    parser.add_argument("--trials", type=int, metavar="N", help=help)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="Train N trials at a time.")
    help = "The name of the search, by which it continues; by default that of the file."
    parser.add_argument("--name", help=help)
    return parser.parse_known_args()


@one_line_errors()
def main() -> None:
    args, flags = parse_arguments()
    project = Path(__file__).resolve().parent
    sweep = read_sweep(args.sweep)
    most_trials = count_trials(args, sweep)
    refuse_other_folder(sweep, flags)
    search = Search(sweep, args.name or sweep.name, project, runs_folder(project), flags, most_trials)
    searched = ", ".join(search.searched) or "nothing"
    print(f"search {search.name}: {sweep.method} over {searched}; {search.most_trials} trials")
    print(f"what they print is in {shortened(str(search.folder / 'trials'))}", flush=True)
    signal.signal(signal.SIGTERM, leave_at_sigterm)
    search.run(args.jobs)
    search.summarize()


def count_trials(args: argparse.Namespace, sweep: Sweep) -> int | None:
    """Return how many trials there are in all, None for all of a grid."""
    for name in ("trials", "jobs"):
        number = getattr(args, name)
        if number is not None and number < 1:
            raise UserError(f"--{name} must be 1 or more (got {number})")
    if args.trials is None and sweep.run_cap is None and sweep.method != "grid":
        raise UserError(f"method {sweep.method} has no end: give --trials N, or run_cap in {args.sweep}")
    if args.trials is None or sweep.run_cap is None:
        return args.trials or sweep.run_cap
    if args.trials > sweep.run_cap:
        print(f"run_cap in {args.sweep} allows {sweep.run_cap} trials (got --trials {args.trials})")
    return min(args.trials, sweep.run_cap)


def refuse_other_folder(sweep: Sweep, flags: list[str]) -> None:
    """Raise a UserError if the runs would lie where the search does not look for them."""
    name = "trainer.default_root_dir"
    if name in sweep.parameters or any(flag.startswith(f"--{name}") for flag in flags):
        raise UserError(f"give {name} in config.yaml: there the search and runs.py look for the runs")


def leave_at_sigterm(*_: Any) -> None:
    """End the search as Ctrl-C does."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()

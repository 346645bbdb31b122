"""Compare runs: `python runs.py` prints all, newest first; `python runs.py --help` lists the options."""

import argparse
import sys
from pathlib import Path

from {{ cookiecutter.__package }}.harness.compare import (
    draw_comparison,
    print_csv,
    print_table,
)
from {{ cookiecutter.__package }}.harness.errors import (
    UserError,
    one_line_errors,
)
from {{ cookiecutter.__package }}.harness.folder import (
    runs_folder,
    shortened,
)
from {{ cookiecutter.__package }}.harness.prune import (
    delete,
    find_deletable,
    megabytes,
    print_deletable,
)
from {{ cookiecutter.__package }}.harness.runs import (
    Runs,
    read_runs,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="Show these runs: ids, or their folders.")
    parser.add_argument("--sort", metavar="NAME", help="Sort by a metric or a setting, the best first.")
    parser.add_argument("--best", action="store_true", help="Show the best run, by --sort or the monitor.")
    parser.add_argument("--last", type=int, metavar="N", help="Show the newest N runs.")
    help = "Show the runs with this setting or state; may be given several times."
    parser.add_argument("--filter", action="append", default=[], metavar="NAME=VALUE", help=help)
    help = "Show these settings and metrics instead of those that differ."
    parser.add_argument("--columns", nargs="+", metavar="NAME", help=help)
    help = "Show mean and deviation over the runs of a --tracking.group, or of each value of a setting."
    parser.add_argument("--group", nargs="?", const="tracking.group", metavar="NAME", help=help)
    parser.add_argument("--csv", action="store_true", help="Print CSV.")
    parser.add_argument("--plot", action="store_true", help="Draw the curves of the runs in compare.png.")
    parser.add_argument("--prune", action="store_true", help="Show what can be deleted.")
    parser.add_argument("--yes", action="store_true", help="With --prune: delete it.")
    return parser.parse_args()


@one_line_errors()
def main() -> None:
    args = parse_arguments()
    folder = runs_folder(Path(__file__).parent)
    runs = read_runs(folder, args.runs)
    narrow(runs, args)
    if args.prune:
        prune(folder, runs, args)
        return
    if not runs.shown and not runs.problems:
        print(f"there is no such run in {shortened(str(folder))}; python train.py makes one")
    if args.plot:
        plot(folder, runs)
    show(runs, args)
    for problem in runs.problems:
        print(shortened(problem), file=sys.stderr)


def narrow(runs: Runs, args: argparse.Namespace) -> None:
    """Leave only the runs that were asked for, in the order that was asked for."""
    for condition in args.filter:
        runs.keep(condition)
    if args.last is not None:
        if args.last < 1:
            raise UserError(f"--last must be 1 or more (got {args.last})")
        runs.shown = runs.shown[: args.last]
    column = args.sort
    if args.best and column is None:
        if not runs.results():
            raise UserError("--best needs a metric that is monitored; give --sort NAME")
        column = runs.results()[0]
    if column is not None and not args.group:
        order = runs.sort(column)
        if not args.csv:
            print(order)
    if args.best and not args.group:
        runs.shown = runs.shown[:1]


def show(runs: Runs, args: argparse.Namespace) -> None:
    """Print the table."""
    if not runs.shown:
        return
    if args.group:
        columns, rows = runs.group(args.group)
    else:
        columns = runs.columns()
        if args.columns:
            runs.refuse_unknown(args.columns)
            columns = args.columns
        rows = runs.rows(columns)
    print_rows = print_csv if args.csv else print_table
    print_rows(columns, rows)


def plot(folder: Path, runs: Runs) -> None:
    """Draw the runs over each other."""
    picture = draw_comparison(runs, folder / "compare.png")
    if picture is None:
        raise UserError("these runs have logged nothing that could be drawn")
    print(f"picture: {shortened(str(picture))}")


def prune(folder: Path, runs: Runs, args: argparse.Namespace) -> None:
    """Show what can be deleted, and delete it if that is wanted."""
    all_runs = not args.runs and not args.filter and args.last is None and not args.best
    found = find_deletable(folder, runs.shown, all_runs)
    print_deletable(found)
    if found and args.yes:
        print(f"deleted: {megabytes(delete(found))}")
    elif found:
        print("nothing was deleted; --yes deletes it. A run without last.ckpt cannot be continued any more.")


if __name__ == "__main__":
    main()

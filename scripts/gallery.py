"""Generate the project of each task, train it, and write docs/: a page of results, pictures of the terminal.

Nothing is drawn here: charts are those in the runs' folders, and a terminal emulator shows what is printed.
"""

import io
import os
import platform
import pty
import re
import select
import signal
import struct
import sys
import tempfile
import time
from fcntl import ioctl
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from termios import TIOCSWINSZ

import pandas as pd
import pyte
from cookiecutter.main import cookiecutter
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# What is trained: a task, and flags.
EXAMPLES = {
    "image": ("image", ""),
    "text": ("text", ""),
    "audio": ("audio", ""),
    "tabular": ("tabular", ""),
    "regression": ("tabular", "--data.dataset diabetes"),
}
PICTURES = {
    "learning_curves": 500,
    "confusion_matrix": 330,
    "predictions": 330,
    "examples": 500,
}  # and their width [pixels]
LEET_KEYS = "]\x01y/n/loss$|n/acc$|n/grad|lr|val/\r"  # close the overview, select all runs, choose charts
PACKAGES = ("torch", "lightning", "torchmetrics", "wandb")


def play(command: str, folder: Path, columns: int, rows: int, keys: str = "") -> pyte.Screen:
    """Run a command in a terminal of this size; return what the terminal shows at its end.

    With `keys`, type them after some seconds, and end the command after some more.
    """
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe("sh", ["sh", "-c", command], {**kept, "TERM": "xterm-256color", "PATH": path})
    resize(terminal, columns, rows - bool(keys))
    began, typed = time.monotonic(), list(keys)
    try:
        while not keys or time.monotonic() < began + 15:
            if typed and time.monotonic() > began + 6:
                os.write(terminal, typed.pop(0).encode())
                if not typed:
                    screen.reset()
                    resize(terminal, columns, rows)  # so that all of it is drawn anew
            if select.select([terminal], [], [], 0.1)[0]:
                # Private modes that pyte does not know would be printed.
                stream.feed(re.sub(rb"\x1b\[[<=>][\d;]*[a-z]|\x1b\[\?\d+\$p", b"", os.read(terminal, 65536)))
        os.kill(process, signal.SIGTERM)
    except OSError:  # the command has ended
        pass
    os.close(terminal)
    os.waitpid(process, 0)
    return screen


def resize(terminal: int, columns: int, rows: int) -> None:
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def picture(screen: pyte.Screen, title: str, path: Path) -> None:
    """Write what a terminal shows as SVG."""
    last = max(row for row, text in enumerate(screen.display) if text.strip())
    shown = Text()
    for row in range(last + 1):
        cells = [(screen.buffer[row][column], column) for column in range(screen.columns)]
        for (style, _), same in groupby(cells, run_of):
            shown.append("".join(cell.data for cell, _ in same), style)
        shown.append("\n")
    console = Console(record=True, width=screen.columns, file=io.StringIO(), color_system="truecolor")
    console.print(shown, no_wrap=True, overflow="ignore", crop=False)
    svg = console.export_svg(title=title)
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def run_of(place: tuple[pyte.screens.Char, int]) -> tuple[Style, int]:
    """Return what neighbours have alike that are drawn as one: a word is, all else stands at its place."""
    cell, column = place
    style = Style.from_color(colour_of(cell.fg), colour_of(cell.bg)) + Style(
        bold=cell.bold, reverse=cell.reverse
    )
    return style, -1 if re.fullmatch("[!-~]", cell.data) else column


def colour_of(name: str) -> Color | None:
    """Translate a colour of pyte to one of rich."""
    if name == "default":
        return None
    rgb = re.fullmatch("[0-9a-f]{6}", name)
    return Color.parse(f"#{name}" if rgb else name.replace("brown", "yellow").replace("bright", "bright_"))


def example(name: str, task: str, flags: str, folder: Path) -> str:
    """Train a task, keep its pictures, and return its section of the page."""
    context = {"project": f"{name}-project", "task": task}
    options = {"no_input": True, "default_config": True, "accept_hooks": False}
    project = Path(cookiecutter(str(ROOT), extra_context=context, output_dir=str(folder), **options))
    command = f"python train.py {flags}".strip()
    screen = play(command, project, 110, 80)
    (run,) = [file.parent for file in (project / "runs").glob("*/config.yaml")]
    if name == "image":
        picture(screen, command, DOCS / "train.svg")
        play("python train.py --model.width 16", project, 110, 80)  # a second run beside it
        leet = "wandb leet runs/wandb"
        charts = play(leet, project, 130, 24, LEET_KEYS)
        charts.buffer.pop(23, None)  # the last line names a folder of this machine
        picture(charts, leet, DOCS / "leet.svg")
    shown = []
    for kind, width in PICTURES.items():
        if (source := run / f"{kind}.png").exists():
            image = Image.open(source).convert("RGB")
            image.thumbnail((width, 1000))
            image.quantize(256).save(DOCS / "gallery" / f"{name}-{kind}.png", optimize=True)
            shown.append(f"![{kind.replace('_', ' ')}](gallery/{name}-{kind}.png)")
    metrics = pd.read_csv(run / "metrics.csv")
    test = metrics[metrics.name.str.startswith("test/")].set_index("name").value
    count = int(
        re.search(r"^parameters +([\d,]+)", "\n".join(screen.display), re.MULTILINE)[1].replace(",", "")
    )
    numbers = ", ".join(f"{key} {value:.4f}" for key, value in test.items())
    readme = (project / "README.md").read_text(encoding="utf-8")
    about = re.search(r"^This trains .*?(?=\n\n)", readme, re.MULTILINE | re.DOTALL)[0]
    if name == "regression":
        about = "The same network predicts a number instead: the progress of the disease of 442 diabetics."
    facts = f"{numbers}; {count:,} parameters"
    asked = f"cookiecutter … task={task}"
    return f"## {name}\n\n{about}\n\n`{asked}`, `{command}`: {facts}.\n\n{' '.join(shown)}\n"


def main() -> None:
    (DOCS / "gallery").mkdir(parents=True, exist_ok=True)
    chosen = sys.argv[1:] or EXAMPLES
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        sections = [example(name, *EXAMPLES[name], Path(folder)) for name in chosen]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    head = f"""\
# Gallery

Each task as it is generated, trained by the command named, with nothing changed. Made by `make gallery`
on {time.strftime("%Y-%m-%d")}: {os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}.
The pictures are those that each run leaves in its folder.
"""
    (DOCS / "gallery.md").write_text("\n".join([head, *sections]), encoding="utf-8")
    print(f"written: {DOCS / 'gallery.md'}")


if __name__ == "__main__":
    main()

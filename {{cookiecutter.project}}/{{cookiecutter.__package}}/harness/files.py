"""Find your files, sort them into splits and classes by the names of their folders, and open them."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

from .errors import UserError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
CHUNK = 1000  # files that are looked at before the next are fetched from a table


def files_in(path: Path, endings: Sequence[str]) -> list[Path]:
    """Return the files in a folder that have one of the endings, at any depth, or the file itself.

    Hidden files, and files in hidden folders, are left out.

    Raises:
        UserError: If the path does not exist, or the folder contains no such file.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        return [path]
    files = []
    for file in path.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.name.lower().endswith(tuple(endings)) and not hidden and file.is_file():
            files.append(file)
    if not files:
        raise UserError(f"{path} contains no file that ends in {', '.join(endings[:8])}")
    return sorted(files)


def by_split(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """Group files into "train", "val" and "test" by the first word of their file or folder in `root`.

    All of them are "train" unless each has the name of a split and some are called train.
    """
    if root.is_file():
        return {"train": files}
    found: dict[str, list[Path]] = {}
    for file in files:
        place = file.relative_to(root).parts[0]
        word = re.split(r"[-_.]", place.lower())[0]
        split = SPLIT_NAMES.get(word, "none")
        found.setdefault(split, []).append(file)
    if "none" in found or "train" not in found:
        return {"train": files}
    return found


def class_folders(root: Path, endings: Sequence[str]) -> dict[str, tuple[Sequence, list]]:
    """Return the files of each split, and as their labels the names of the folders they are in.

    The folder has one folder for each class, or folders called train, val and test with one for each class.

    Raises:
        UserError: If a file is in no class folder, or a class folder is empty.
    """
    splits = by_split(files_in(root, endings), root)
    found: dict[str, tuple[Sequence, list]] = {}
    for split, files in splits.items():
        labels = []
        parents = set()
        for file in files:
            place = file.relative_to(root).parts
            if len(splits) > 1:
                place = place[1:]  # without the folder of the split
            if len(place) < 2:
                raise UserError(f"{file} is in no class folder; expected {root}/CLASS/{file.name}")
            labels.append(place[0])
            parents.add(file.parents[len(place) - 1])
        for parent in sorted(parents):
            _check_no_class_is_empty(parent, set(labels), endings)
        found[split] = [str(file) for file in files], labels
    return found


def _check_no_class_is_empty(parent: Path, labels: set[str], endings: Sequence[str]) -> None:
    """Raise a UserError if a class folder gave no file: nothing could be learned of that class."""
    for folder in sorted(parent.iterdir()):
        if folder.is_dir() and folder.name not in labels and not folder.name.startswith("."):
            raise UserError(
                f"the class folder {folder} contains no file that ends in {', '.join(endings[:8])}; "
                "add some, or remove the folder"
            )


def opened(item: str | Path | dict) -> tuple[str, Path | BytesIO]:
    """Return the name of a file, and the file or, if it is stored in a table, its content.

    Raises:
        UserError: If a table has only the name of a file, unless the file was downloaded with it.
    """
    if not isinstance(item, dict):
        return str(item), Path(item)
    name = str(item["path"])
    if item["bytes"]:
        return name, BytesIO(item["bytes"])
    import datasets

    if not Path(name).resolve().is_relative_to(datasets.config.HF_CACHE_HOME):
        raise UserError(f"the table refers to {name} but does not contain it; only embedded files are read")
    return name, Path(name)


def readable(files: Sequence, look: Callable, skip: bool) -> tuple[list[int], list]:
    """Return the indices of the files that can be read, and what `look` returns for each of those.

    `look(file)` reads a file and raises a UserError if that fails; it runs in several threads.

    Raises:
        UserError: If any file cannot be read, naming the first ten. With `skip`, only if none can be read.
    """
    kept: list[int] = []
    seen: list = []
    errors: list[str] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), CHUNK):
            chunk = [files[index] for index in range(start, min(start + CHUNK, len(files)))]
            for index, result in enumerate(pool.map(partial(_attempt, look), chunk), start):
                if isinstance(result, UserError):
                    errors.append(str(result))
                else:
                    kept.append(index)
                    seen.append(result)
    if errors and not (skip and kept):
        errors = list(dict.fromkeys(errors))  # each once
        shown = "; ".join(errors[:10])
        if len(errors) > 10:
            shown += f"; and {len(errors) - 10} more"
        raise UserError(f"{shown}: repair them, or leave them out with --data.skip_unreadable true")
    return kept, seen


def _attempt(look: Callable, file):
    """Return what `look` returns, or the UserError that it raises."""
    try:
        return look(file)
    except UserError as error:
        return error

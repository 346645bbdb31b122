"""Read your files with Hugging Face `datasets`: tables that are mapped into memory, none read whole."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from .errors import UserError

TABLES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "val")
TARGETS = ("label", "labels", "target", "class", "category")  # what a column of targets is called


def read(path: str, endings: Sequence[str] = (), first: int = 0, **csv) -> dict:
    """Return the table of each split: "train", and "val" and "test" where files or folders are called so.

    Files with one of `endings` become a column "file", the folders of their classes a column "label". An
    image or sound that lies in a table, or on the hub, is a "file" as well. pandas gets `csv` to read a CSV.
    With `first`, "train" is only that many rows of tables, and those of "val".

    Raises:
        UserError: If there is nothing, or something that is not what its name says.
    """
    import datasets  # takes a second, so only who has data of their own waits for it

    root = Path(path)
    if first:
        found = streams(path, **csv)
        rows = {name: list(part.take(first) if name == "train" else part) for name, part in found.items()}
        rows["train"] += rows.get("val", [])
        return {name: datasets.Dataset.from_list(part, found[name].features) for name, part in rows.items()}
    if not root.exists():
        tables = _from_hub(path)
    elif root.is_file() or not endings:
        tables = {name: table(files, **csv) for name, files in _by_split(root, tuple(TABLES)).items()}
    else:
        splits = _by_split(root, endings)
        tables = {name: _listed(files, root, len(splits) > 1) for name, files in splits.items()}
    tables = {name: _undecoded(rows) for name, rows in tables.items()}
    if endings and root.is_file() and not hasattr(tables["train"].features.get("file"), "decode"):
        # What a table only names may lie anywhere.
        raise UserError(f"{path} holds no images or sounds; give a folder of a folder for each class")
    return tables


def streams(path: str, **csv) -> dict:
    """Return the rows of each split, as `read` does, to be read one after the other.

    Raises:
        UserError: If there are no tables.
    """
    import datasets

    if not Path(path).exists():
        found = _from_hub(path, streaming=True)
    else:
        found = {}
        for name, files in _by_split(Path(path), tuple(TABLES)).items():
            kind = _kind(files)
            options = {"data_files": [str(file) for file in files], "split": "train", "streaming": True}
            found[name] = datasets.load_dataset(kind, **options, **(csv if kind == "csv" else {}))
    return {name: _undecoded(rows) for name, rows in found.items()}


def _undecoded(rows):
    import datasets

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            rows = rows.cast_column(column, type(feature)(decode=False))
            rows = rows if column == "file" else rows.rename_column(column, "file")
    return rows


def files_in(root: Path, endings: Sequence[str]) -> list[Path]:
    """Return the files in a folder that have one of the endings, or the file itself.

    Raises:
        UserError: If there is none.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist")
    found = (file for file in root.rglob("*") if file.suffix.lower() in endings and file.is_file())
    shown = (file for file in found if not any(p.startswith(".") for p in file.relative_to(root).parts))
    files = [root] if root.is_file() else sorted(shown)
    if not files:
        raise UserError(f"{root} holds no file that ends in {', '.join(endings[:8])}")
    return files


def table(files: list[Path], **csv):
    """Return the rows of CSV, JSON lines or Parquet files."""
    import datasets

    datasets.disable_progress_bars()
    kind = _kind(files)
    read = getattr(datasets.Dataset, f"from_{kind}")
    try:
        return read([str(file) for file in files], **(csv if kind == "csv" else {}))
    except Exception as error:  # datasets wraps what pandas, pyarrow and the file system raise
        reason = None if kind == "parquet" else _not_utf8(files)
        problem = f"cannot read {files[0]}, or it holds no row: {error.__cause__ or error}"
        raise UserError(reason or problem) from error


def _kind(files: list[Path]) -> str:
    kind = TABLES.get(files[0].suffix.lower())
    if kind is None:
        raise UserError(f"{files[0]} does not end in {', '.join(TABLES)}")
    return kind


def column(rows, name: str | None, flag: str, usual: Sequence[str]) -> str:
    """Return the name of a column: the one that is given, or the only one with a usual name."""
    found = [name] if name else [known for known in rows.column_names if known.lower() in usual]
    if len(found) != 1 or found[0] not in rows.column_names:
        problem = f"there is no column {name}" if name else "which column is it?"
        raise UserError(f"--data.{flag}: {problem}; choose from {', '.join(rows.column_names)}")
    return found[0]


def values(rows, column: str, file: str | Path) -> list:
    """Return a column of the rows in a file, classes by their names.

    Raises:
        UserError: If there is no such column, or no such row, or a value is missing.
    """
    if column not in rows.column_names:
        raise UserError(f"{file}: there is no column {column}, only {', '.join(rows.column_names)}")
    if not len(rows):
        raise UserError(f"{file} holds no row")
    found = rows[column][:]
    for row, value in enumerate(found, 1):
        if value is None or value != value:
            raise UserError(f"{file}, row {row}: {column} is missing")
    names = getattr(rows.features[column], "names", None)
    return [names[value] for value in found] if names else found


def opened(item) -> tuple[str, Path | BytesIO]:
    """Return the name of a file, and the file or what a table holds of it.

    Raises:
        UserError: If a table names a file that it does not hold and that did not come from the hub.
    """
    if not isinstance(item, dict):
        return str(item), Path(item)
    name, content = str(item["path"]), item["bytes"]
    if not content:
        import datasets

        if not Path(name).resolve().is_relative_to(datasets.config.HF_CACHE_HOME):
            raise UserError(f"{name} is not in the table, which only names it")
    return name, BytesIO(content) if content else Path(name)


def readable(rows, look: Callable, skip: bool):
    """Return the rows whose "file" can be read, with what `look` sees in each as a column "seen".

    Raises:
        UserError: If there are others; it lists them. With `skip`, only if there is no readable one.
    """

    def attempt(item) -> list | UserError:
        try:
            return look(item)
        except UserError as error:
            return error

    seen: list = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), 1000):
            seen += pool.map(attempt, rows["file"][start : start + 1000])
    errors = [str(error) for error in seen if isinstance(error, UserError)]
    if errors and (not skip or len(errors) == len(rows)):
        more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
        raise UserError(
            f"{'; '.join(errors[:10])}{more}: mend them, or leave them out: --data.skip_unreadable true"
        )
    good = [i for i, result in enumerate(seen) if not isinstance(result, UserError)]
    rows = rows.add_column("seen", [None if isinstance(result, UserError) else result for result in seen])
    return rows.select(good) if errors else rows


def _from_hub(name: str, streaming: bool = False) -> dict:
    if not re.fullmatch(r"[\w-]+(/[\w.-]+)?", name) or Path(name).suffix.lower() in TABLES:
        raise UserError(f"there is no file or folder {name}")
    import datasets

    try:
        found = datasets.load_dataset(name, streaming=streaming)
    except Exception as error:  # of the network, of the hub, of the name
        raise UserError(f"there is no file or folder {name}, and the hub says: {error}") from error
    if "train" not in found:
        raise UserError(f"{name} has no split called train, only {', '.join(found)}")
    return {SPLITS[split]: rows for split, rows in found.items() if split in SPLITS}


def _by_split(root: Path, endings: Sequence[str]) -> dict[str, list[Path]]:
    """Group files by the split that their names in `root` begin with, if all of them do."""
    found: dict = {}
    files = files_in(root, endings)
    for file in files:
        name = file.relative_to(root).parts[0] if root.is_dir() else ""
        found.setdefault(SPLITS.get(re.split(r"[-_.]", name.lower())[0]), []).append(file)
    return found if "train" in found and None not in found else {"train": files}


def _listed(files: list[Path], root: Path, in_splits: bool):
    import datasets

    places = [file.relative_to(root).parts[in_splits:] for file in files]
    for file, place in zip(files, places, strict=True):
        if len(place) < 2:
            raise UserError(f"{file} lies in no folder of a class: {root}/CLASS/{file.name} is expected")
    labels = [place[0] for place in places]
    top = {file.parents[len(place) - 1] for file, place in zip(files, places, strict=True)}
    for folder in sorted(folder for parent in top for folder in parent.iterdir() if folder.is_dir()):
        if folder.name not in set(labels) and not folder.name.startswith("."):
            raise UserError(f"the folder {folder} is empty: there is nothing to learn of that class")
    return datasets.Dataset.from_dict({"file": [str(file) for file in files], "label": labels})


def _not_utf8(files: list[Path]) -> str | None:
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    return f"{file}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8"
    return None

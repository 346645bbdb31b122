"""Find your files: list a folder of any size, and take splits and classes from the names of its folders."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from .errors import UserError, first_few

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
# Folders in which a Mac and a Synology disk keep previews and the like, under the names of your files.
LEFT_BY_SYSTEMS = ("__MACOSX", "@eaDir")
CONVERT_SOUNDS = "install ffmpeg to read them, or convert them: ffmpeg -i sound.m4a sound.wav"
CONVERT_PHOTOS = "convert them to .jpg or .png"
# What helps with files that are passed over, by their ending.
HINTS = {
    ".3gp": CONVERT_SOUNDS,
    ".aac": CONVERT_SOUNDS,
    ".amr": CONVERT_SOUNDS,
    ".m4a": CONVERT_SOUNDS,
    ".mp4": CONVERT_SOUNDS,
    ".webm": CONVERT_SOUNDS,
    ".wma": CONVERT_SOUNDS,
    ".heic": CONVERT_PHOTOS,
    ".heif": CONVERT_PHOTOS,
    ".svg": CONVERT_PHOTOS,
}


@dataclass
class Folder:
    """A folder and what is in it.

    Attributes:
        path: Its path.
        files: Paths of the files that have one of the wanted endings, sorted.
        others: Names of the other files.
        folders: Its folders, sorted.
    """

    path: str
    files: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return Path(self.path).name

    def all_folders(self) -> Iterator["Folder"]:
        """Return the folder itself and all below it."""
        yield self
        for folder in self.folders:
            yield from folder.all_folders()

    def all_files(self) -> list[str]:
        """Return the files that have one of the wanted endings, at any depth."""
        files: list[str] = []
        for folder in self.all_folders():
            files += folder.files
        return files

    def has_files(self) -> bool:
        """Return whether there is a file that has one of the wanted endings, at any depth."""
        return any(folder.files for folder in self.all_folders())


def files_in(path: Path, endings: Sequence[str], notes: list[str] | None = None) -> list[Path]:
    """Return the files in a folder that have one of the endings, at any depth, or the file itself.

    Hidden files, and files in hidden folders, are left out; `notes` says how many have other endings.

    Raises:
        UserError: If the path does not exist, or the folder contains no such file.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        return [path]
    folder = list_folder(path, endings)
    if notes is not None:
        note_others(folder, [], notes)
    return [Path(file) for file in folder.all_files()]


def list_folder(path: str | Path, endings: Sequence[str]) -> Folder:
    """Return a folder with all that is below it; links to folders are followed, hidden files left out.

    Raises:
        UserError: If it contains no file with one of the endings, or a folder in it cannot be read.
    """
    with tqdm(desc="Listing files", unit=" files", delay=2, leave=False, disable=None) as bar:
        folder = _list(str(Path(path)), tuple(endings), [], bar)
    if not folder.has_files():
        raise UserError(f"{path} contains no file that ends in {shown(endings)}{_others_instead(folder)}")
    return folder


def _list(path: str, endings: tuple[str, ...], above: list, bar: tqdm) -> Folder:
    """Return a folder; `above` are the identities of the folders that it lies in."""
    folder = Folder(path)
    single = frozenset(endings)
    double = tuple(ending for ending in endings if ending.count(".") > 1)  # such as .csv.gz
    inner = []
    try:
        status = Path(path).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return folder  # a link back to a folder that it lies in would never end
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name in LEFT_BY_SYSTEMS:
                    continue
                if entry.is_dir():
                    inner.append(entry.path)
                elif ending_of(name) in single or name.lower().endswith(double):
                    if entry.is_file() or is_broken_link(entry):
                        folder.files.append(entry.path)
                else:
                    folder.others.append(name)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be read: {error.strerror}") from error
    folder.files.sort()
    folder.others.sort()
    bar.update(len(folder.files))
    for place in sorted(inner):
        folder.folders.append(_list(place, endings, [*above, identity], bar))
    return folder


def ending_of(name: str) -> str:
    """Return the ending of a file's name in small letters, with its dot; empty if it has none."""
    stem, _, ending = name.rpartition(".")
    return f".{ending}".lower() if stem else ""


def is_broken_link(entry: os.DirEntry) -> bool:
    """Return whether an entry of a folder is a link to nothing: it counts as a file that cannot be read."""
    return entry.is_symlink() and not Path(entry.path).exists()


def shown(endings: Iterable[str]) -> str:
    """Return the first of some endings, to be read."""
    return ", ".join(list(endings)[:8])


def count_endings(names: Iterable[str]) -> list[str]:
    """Return how often each ending occurs, the most frequent first: "10 .m4a", "1 without ending"."""
    counts = Counter(ending_of(name) or "without ending" for name in names)
    return [f"{count} {ending}" for ending, count in counts.most_common()]


def hint_for(names: Iterable[str]) -> str:
    """Return what helps with files that are passed over, empty if nothing is known."""
    for ending in sorted({ending_of(name) for name in names}):
        if ending in HINTS:
            return HINTS[ending]
    return ""


def note_others(folder: Folder, used: Sequence[str], notes: list[str]) -> None:
    """Say how many files were passed over for their endings, except those of the paths `used`."""
    names = []
    for inner in folder.all_folders():
        for name in inner.others:
            if f"{inner.path}{os.sep}{name}" not in used:
                names.append(name)
    if not names:
        return
    hint = hint_for(names)
    advice = f"; {hint}" if hint else ""
    files = "file" if len(names) == 1 else "files"
    notes.append(
        f"{len(names)} {files} passed over for the ending: {first_few(count_endings(names))}{advice}"
    )


def _others_instead(folder: Folder) -> str:
    """Return what an empty folder contains instead of the files that are looked for."""
    names = []
    for inner in folder.all_folders():
        names += inner.others
    if not names:
        return ""
    hint = hint_for(names)
    advice = f"; {hint}" if hint else ""
    return f", but {first_few(count_endings(names), 3)}{advice}"


def split_of(name: str) -> str:
    """Return the split that the name of a file or folder begins with, "none" if it is another name."""
    word = re.split(r"[-_. ]", name.lower())[0]
    return SPLIT_NAMES.get(word, "none")


def class_folders(
    root: Path, endings: Sequence[str], *, class_folder: str | None = None, notes: list[str]
) -> dict[str, tuple[list[str], list[str]]]:
    """Return the files of each split, and as their labels the names of the folders they are in.

    The folder has one folder for each class, or folders called train, val and test with one for each class.
    It may lie in another folder that contains nothing else.

    Args:
        root: The folder.
        endings: Those of the files that are wanted.
        class_folder: Where folders lie in folders, whether the "outer" or the "inner" one names the class.
        notes: What was found is appended to it.

    Raises:
        UserError: If a file is in no class folder, a class folder is empty, or it is not clear which folders
            name the classes.
    """
    top = list_folder(root, endings)
    note_others(top, [], notes)
    return classes_in(top, class_folder, notes)


def classes_in(
    top: Folder, class_folder: str | None, notes: list[str]
) -> dict[str, tuple[list[str], list[str]]]:
    """Return what `class_folders` returns for a folder that is already listed."""
    top = inner_folder(top, notes)
    splits = split_folders(top, notes)
    if class_folder is None:
        class_folder = outer_or_inner(splits["train"], notes)
    found = {}
    for split, folder in splits.items():
        check_folders(folder, splits["train"], notes)
        files: list[str] = []
        labels: list[str] = []
        for outer in folder.folders:
            for inner in outer.all_folders():
                label = inner.name if class_folder == "inner" else outer.name
                files += inner.files
                labels += [label] * len(inner.files)
        found[split] = files, labels
    return found


def inner_folder(folder: Folder, notes: list[str]) -> Folder:
    """Return the folder inside, if all files are in folders of one: my_images/my_images/class."""
    inner = only_folder(folder)
    while inner is not None and not inner.files:
        others = [other.name for other in folder.folders if other is not inner]
        beside = f" (nothing to read in {first_few(others, 3)})" if others else ""
        notes.append(f"all files are in the folder {inner.path}{beside}")
        folder = inner
        inner = only_folder(folder)
    return folder


def only_folder(folder: Folder) -> Folder | None:
    """Return the folder inside that all files are in, None if there is none."""
    full = [inner for inner in folder.folders if inner.has_files()]
    if folder.files or len(full) != 1:
        return None
    return full[0]


def split_folders(top: Folder, notes: list[str]) -> dict[str, Folder]:
    """Return the folders of "train", "val" and "test" where there are such, else the folder as "train".

    Raises:
        UserError: If there are folders of splits, but not one for training, or two for the same split.
    """
    named: dict[str, list[Folder]] = {}
    others = []
    for folder in top.folders:
        split = split_of(folder.name)
        if split == "none":
            others.append(folder)
        else:
            named.setdefault(split, []).append(folder)
    found = {}
    for split, folders in named.items():
        exact = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
        if exact:
            others += [folder for folder in folders if folder not in exact]
            folders = exact
        full = [folder for folder in folders if folder.has_files()]
        if len(full) > 1:
            names = first_few([folder.name for folder in full])
            raise UserError(f"{top.path}: more than one folder could be the {split} split: {names}; keep one")
        if full:
            found[split] = full[0]
        else:
            notes.append(f"the folder {folders[0].name} has no file to read, so it is not used as a split")
    if not found:
        return {"train": top}
    if is_a_class(found, others):
        notes.append(f"the folder {first_few(found)} is taken for a class, as those beside it")
        return {"train": top}
    if "train" not in found:
        names = first_few([folder.name for folder in found.values()])
        raise UserError(
            f"{top.path} has a split of its own ({names}), but no folder called train; "
            "move the folders of the classes to learn from into one"
        )
    if others or top.files:
        left = [folder.name for folder in others] + [Path(file).name for file in top.files]
        used = first_few([folder.name for folder in found.values()])
        notes.append(f"the splits are {used}; not used, since they are beside them: {first_few(left)}")
    return found


def is_a_class(found: dict[str, Folder], others: list[Folder]) -> bool:
    """Return whether what has the name of a split is one class of several, such as pictures of a train."""
    if len(found) > 1 or not any(folder.has_files() for folder in others):
        return False
    (folder,) = found.values()
    return bool(folder.files)


def outer_or_inner(train: Folder, notes: list[str]) -> str:
    """Return whether the "outer" or the "inner" folders name the classes, where folders lie in folders.

    The outer ones do, unless nearly all files are in inner folders whose names occur in several outer ones:
    then it could be `subject/class` as well as `class/subject`.

    Raises:
        UserError: If it could be either.
    """
    holders: dict[str, set[str]] = {}  # for the name of an inner folder, the outer ones that have it
    in_outer = 0
    in_inner = 0
    for outer in train.folders:
        in_outer += len(outer.files)
        for middle in outer.folders:
            for inner in middle.all_folders():
                in_inner += len(inner.files)
                if inner.files:
                    holders.setdefault(inner.name, set()).add(outer.name)
    shared = [name for name, outers in holders.items() if len(outers) > 1]
    if in_outer > 0.1 * in_inner or len(holders) < 2 or not shared:
        if in_inner:
            notes.append(f"{in_inner} files in folders within a class folder belong to that class")
        return "outer"
    outers = first_few([folder.name for folder in train.folders], 3)
    raise UserError(
        f"{train.path}: the classes may be the outer folders ({outers}) or the inner ones "
        f"({first_few(sorted(holders), 3)}): set --data.class_folder outer or --data.class_folder inner"
    )


def check_folders(folder: Folder, train: Folder, notes: list[str]) -> None:
    """Check that a split has nothing but class folders; an empty one is only possible outside of training.

    Raises:
        UserError: If a file is in no class folder, or nothing could be learned of a class.
    """
    if folder.files:
        file = folder.files[0]
        raise UserError(
            f"{file} is in no class folder; expected {folder.path}/CLASS/{Path(file).name}, "
            f"or a table {folder.path}/labels.csv with the columns file_name and label"
        )
    empty = [inner for inner in folder.folders if not inner.has_files()]
    if not empty:
        return
    if folder is not train:
        notes.append(f"{folder.name} has no file of {first_few([inner.name for inner in empty])}")
        return
    paths = first_few([inner.path for inner in empty], 3)
    others = empty[0].others
    hint = f" (but {first_few(count_endings(others), 2)})" if others else ""
    raise UserError(f"the class folder {paths} contains no file to read{hint}; add some, or remove it")


def place_below(root: str | Path, file: str) -> str:
    """Return the path of a file below a folder, with "/" between its parts."""
    return file[len(str(Path(root))) :].replace(os.sep, "/").lstrip("/")


def groups_of(files: Sequence[str], root: str | Path, pattern: str) -> list[str]:
    """Return the group of each file: what a regular expression finds in its path below the folder `root`.

    It is the first group of the expression, or if there is none all that it finds.

    Raises:
        UserError: If it is no regular expression, or finds nothing in one of the paths.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.group {pattern} is not a regular expression: {error}") from error
    wanted = 1 if expression.groups else 0
    groups = []
    missing = []
    for file in files:
        place = place_below(root, file)
        match = expression.search(place)
        if match is None or match[wanted] is None:
            missing.append(place)
        else:
            groups.append(match[wanted])
    if missing:
        raise UserError(
            f"data.group {pattern} finds nothing in {len(missing)} of {len(files)} paths, "
            f"such as {first_few(missing, 3)}"
        )
    return groups

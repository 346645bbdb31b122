"""Images as people have them: found, labelled, and read as a viewer shows them."""

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelSummary
from my_project.augment import chosen_augmentation, covered, moved, shifted
from my_project.data import DataModule, ImageFiles, collate
from my_project.harness.errors import UserError
from my_project.harness.files import class_folders
from my_project.harness.opening import SAMPLE, sample_of
from my_project.images import ENDINGS, RASTER, read_image
from my_project.model import Model
from my_project.network import Network, ResidualBlock
from PIL import Image, ImageDraw
from torch import Tensor

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0)}


def paint(path: Path, colour="red", size=(12, 10), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def paint_classes(folder: Path, classes=("red", "blue"), count=10) -> Path:
    for name in classes:
        for number in range(count):
            paint(folder / name / f"{name}{number}.png", name)
    return folder


def read(path, channels=3, size=(10, 12), value_range=None, background="white") -> np.ndarray:
    return read_image(str(path), channels, size, value_range, background)


def labels_of(folder: Path, **settings) -> tuple[dict[str, list[str]], list[str]]:
    """Return the labels of each split, and the notes."""
    data = DataModule(path=str(folder), **settings)
    examples, _ = data.read()
    return {split: list(labels) for split, (_, labels) in examples.items()}, data.notes


def refusal(folder: Path, **settings) -> str:
    """Return the one line with which the data are refused."""
    data = DataModule(path=str(folder), **settings)
    with pytest.raises(UserError) as error:
        data.setup("fit")
    line = str(error.value)
    assert "\n" not in line
    assert len(line) <= 400
    return line


def said(notes: list[str], *words: str) -> bool:
    assert all(len(note) < 300 for note in notes), notes
    return any(all(word in note for word in words) for note in notes)


# Folders


def test_classes_are_those_inside_the_splits_and_the_rest_is_named(tmp_path):
    for part in ("train", "val", "Test", "unlabelled"):
        paint_classes(tmp_path / part)
    labels, notes = labels_of(tmp_path)
    assert {split: set(names) for split, names in labels.items()} == {
        split: {"red", "blue"} for split in ("train", "val", "test")
    }
    assert said(notes, "not used", "unlabelled")


def test_a_folder_called_train_can_be_a_class(tmp_path):
    for name in ("train", "car", "bus"):
        paint(tmp_path / name / "0.png")
    labels, _ = labels_of(tmp_path)
    assert set(labels["train"]) == {"train", "car", "bus"}


@pytest.mark.parametrize("wrapper", ["my_images", "my_images/my_images", "data/train"])
def test_a_folder_within_a_folder(tmp_path, wrapper):
    paint_classes(tmp_path / wrapper)
    paint(tmp_path / "__MACOSX" / "red" / "0.png")
    (tmp_path / "read me.txt").write_text("hello")
    labels, notes = labels_of(tmp_path)
    assert set(labels["train"]) == {"red", "blue"}
    assert said(notes, "all files are in the folder")
    assert said(notes, "1 file passed over", ".txt")


def test_links_are_followed_and_loops_end(tmp_path):
    paint_classes(tmp_path / "real")
    (tmp_path / "data").mkdir()
    for name in ("red", "blue"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "red" / "again").symlink_to(tmp_path / "data")
    labels, _ = labels_of(tmp_path / "data")
    assert set(labels["train"]) == {"red", "blue"}
    assert len(labels["train"]) < 60


def test_subject_and_class_folders_need_a_word(tmp_path):
    for subject in ("s1", "s2", "s3"):
        paint_classes(tmp_path / subject, count=4)
    line = refusal(tmp_path)
    assert "s1" in line
    assert "--data.class_folder inner" in line
    assert set(labels_of(tmp_path, class_folder="inner")[0]["train"]) == {"red", "blue"}
    assert set(labels_of(tmp_path, class_folder="outer")[0]["train"]) == {"s1", "s2", "s3"}


def test_folders_within_a_class_belong_to_it(tmp_path):
    for name in ("red", "blue"):
        for batch in ("a", "b"):
            paint_classes(tmp_path / name, [name], 3)
            (tmp_path / name / name).rename(tmp_path / name / f"{name}-{batch}")
    labels, notes = labels_of(tmp_path)
    assert set(labels["train"]) == {"red", "blue"}
    assert said(notes, "12 files in folders within a class folder")


def test_an_empty_class_in_a_later_split_is_said_and_in_training_refused(tmp_path):
    paint_classes(tmp_path / "train")
    paint_classes(tmp_path / "val", ["red"])
    (tmp_path / "val" / "blue").mkdir()
    assert said(labels_of(tmp_path)[1], "val", "blue")
    (tmp_path / "train" / "green").mkdir()
    (tmp_path / "train" / "green" / "photo.heic").write_bytes(b"0")
    assert "train/green" in refusal(tmp_path)
    assert ".heic" in refusal(tmp_path)


def test_folders_that_cannot_be_understood(tmp_path):
    paint(tmp_path / "loose" / "0.png")
    assert "loose/0.png is in no class folder" in refusal(tmp_path / "loose")
    paint_classes(tmp_path / "untrained" / "val")
    paint_classes(tmp_path / "untrained" / "test")
    assert "no folder called train" in refusal(tmp_path / "untrained")
    for part in ("train_images", "train_masks", "val"):
        paint_classes(tmp_path / "twice" / part)
    assert "train_images, train_masks" in refusal(tmp_path / "twice")
    (tmp_path / "sounds" / "a").mkdir(parents=True)
    (tmp_path / "sounds" / "a" / "x.svg").write_text("<svg/>")
    assert "1 .svg" in refusal(tmp_path / "sounds")


def test_many_files_are_listed_fast_and_looked_at_in_part(tmp_path):
    """A hundred thousand names by links to folders: no file is opened to list them."""
    paint(tmp_path / "one" / "0.png")
    for number in range(1000):
        os.link(tmp_path / "one" / "0.png", tmp_path / "one" / f"{number + 1}.png")
    for number in range(100):
        (tmp_path / "data" / f"class{number}").mkdir(parents=True)
        (tmp_path / "data" / f"class{number}" / "link").symlink_to(tmp_path / "one")
    notes: list[str] = []
    files, labels = class_folders(tmp_path / "data", ENDINGS, notes=notes)["train"]
    assert len(files) == len(labels) == 100_100
    assert len(sample_of(files)) == SAMPLE
    assert sample_of(files) == sample_of(files)
    assert len({Path(file).parent.parent for file in sample_of(files)}) == 100


# Labels in a table


@pytest.mark.parametrize(
    ("table", "header", "row"),
    [
        ("metadata.csv", "file_name,label", "{name}.png,{label}"),
        ("labels.csv", "label,filename", "{label},{name}"),
        ("images/metadata.csv", "file_name,label", "{name}.png,{label}"),
        ("train.csv", "id,breed", "{name},{label}"),
        ("labels.tsv", "path\tlabel", "D:\\photos\\{name}.png\t{label}"),
        ("data.csv", "number,image,label", "1,images/{name}.png,{label}"),
    ],
)
def test_labels_in_a_table(tmp_path, table, header, row):
    lines = [header]
    for name in ("red", "blue"):
        for number in range(8):
            paint(tmp_path / "images" / f"{name[0]}{number}.png", name)
            lines.append(row.format(name=f"{name[0]}{number}", label=name))
    (tmp_path / table).write_text("\n".join(lines))
    data = DataModule(path=str(tmp_path))
    files, labels = data.read()[0]["train"]
    assert len(files) == 16
    assert all(Path(file).name[0] == label[0] for file, label in zip(files, labels, strict=True))


def test_a_label_that_is_the_name_of_a_file_as_well_names_none(tmp_path):
    lines = ["label,id"]
    for number in range(16):
        paint(tmp_path / f"{number}.png")
        lines.append(f"{number % 2},{number}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    files, labels = DataModule(path=str(tmp_path)).read()[0]["train"]
    assert len(files) == 16
    assert all(int(Path(file).stem) % 2 == int(label) for file, label in zip(files, labels, strict=True))


def test_rows_and_files_that_do_not_match_are_counted(tmp_path):
    lines = ["file_name,label", "gone.png,red", "r0.png,"]
    for name in ("red", "blue"):
        for number in range(8):
            paint(tmp_path / f"{name[0]}{number}.png", name)
            if (name, number) != ("red", 0):
                lines.append(f"{name[0]}{number}.png,{name}")
    lines.append(lines[-1])  # the same again
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    paint(tmp_path / "x" / "unnamed.png")
    line = refusal(tmp_path)
    assert "gone.png" in line
    assert "--data.skip_unreadable true" in line
    labels, notes = labels_of(tmp_path, skip_unreadable=True)
    assert len(labels["train"]) == 15
    assert said(notes, "gone.png")
    assert said(notes, "1 of 17 files are not in labels.csv")
    assert said(notes, "1 of 16 rows have no label")


def test_a_table_names_only_files_below_it(tmp_path):
    paint_classes(tmp_path / "data")
    paint(tmp_path / "secret.png")
    (tmp_path / "data" / "labels.csv").write_text("file_name,label\n../secret.png,red\n/etc/passwd,blue\n")
    labels, notes = labels_of(tmp_path / "data")
    assert set(labels["train"]) == {"red", "blue"}
    assert said(notes, "labels.csv is not used")


def test_splits_and_groups_in_a_table(tmp_path):
    lines = ["file_name,label,split,patient"]
    for number in range(30):
        paint(tmp_path / f"{number}.png")
        split = "test" if number >= 24 else "train"
        lines.append(f"{number}.png,{'ab'[number % 2]},{split},p{number // 4}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    data = DataModule(path=str(tmp_path), group="patient")
    examples, groups = data.read()
    assert len(examples["test"][0]) == 6
    assert groups is not None
    assert len(groups) == 24
    assert set(groups) == {f"p{number}" for number in range(6)}


def test_two_labels_of_a_file_are_refused(tmp_path):
    for number in range(4):
        paint(tmp_path / f"{number}.png")
    rows = "0.png,a\n1.png,b\n2.png,a\n3.png,b\n3.png,a"
    (tmp_path / "labels.csv").write_text(f"file_name,label\n{rows}\n")
    assert "different rows for 3.png" in refusal(tmp_path)


def test_numbers_in_a_table_and_in_folders(tmp_path):
    lines = ["file_name,age"]
    for number in range(40):
        paint(tmp_path / "faces" / f"{number}.png")
        lines.append(f"{number}.png,{20 + number}.5")
    (tmp_path / "faces" / "labels.csv").write_text("\n".join(lines))
    data = DataModule(path=str(tmp_path / "faces"))
    data.setup("fit")
    assert data.classes == []
    assert 30 < data.target_scale[0] < 50
    _, target = data.train_set[0]
    assert target.dtype == torch.float32
    for age in (20, 30, 40):
        for number in range(8):
            paint(tmp_path / "ages" / str(age) / f"{number}.png")
    assert set(labels_of(tmp_path / "ages")[0]["train"]) == {"20", "30", "40"}
    assert set(labels_of(tmp_path / "ages", regression=True)[0]["train"]) == {20.0, 30.0, 40.0}


def test_groups_are_found_in_paths(tmp_path):
    for name in ("red", "blue"):
        for patient in range(10):
            for number in range(3):
                paint(tmp_path / name / f"p{patient}_{number}.png", name)
    data = DataModule(path=str(tmp_path), group=r"/(p\d+)_")
    parts = [{Path(file).name.split("_")[0] for file in data.parts[split][0]} for split in data.parts]
    assert sum(map(len, parts)) == 10
    assert "finds nothing in 60 of 60" in refusal(tmp_path, group="subject")
    assert "not a regular expression" in refusal(tmp_path, group="(")


# Pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_photos_are_upright(tmp_path, orientation, ending):
    upright = Image.new("RGB", (48, 32), "black")
    ImageDraw.Draw(upright).rectangle((0, 0, 20, 8), "white")  # at the top, on the left
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    tags = stored.getexif()
    tags[274] = orientation
    path = tmp_path / f"photo.{ending}"
    stored.save(path, exif=tags)
    pixels = read(path, size=(32, 48))
    assert pixels[2:6, 2:18].min() > 200
    assert pixels[12:, 24:].max() < 50


def test_transparent_parts_have_the_background(tmp_path):
    clear = Image.new("RGBA", (12, 10), (255, 0, 0, 0))
    clear.save(tmp_path / "rgba.png")
    clear.convert("LA").save(tmp_path / "la.png")
    palette = Image.new("P", (12, 10), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    palette.save(tmp_path / "palette.gif", transparency=1)
    Image.new("RGB", (12, 10), "red").save(tmp_path / "rgb.png", transparency=(255, 0, 0))
    clear.save(tmp_path / "clear.webp", lossless=True)
    for path in tmp_path.iterdir():
        assert (read(path) == 255).all(), path
        assert (read(path, background="#102030")[0, 0] == [16, 32, 48]).all(), path
    with pytest.raises(UserError, match=r"data\.background must be a colour .*got whiet"):
        DataModule(background="whiet")


def test_what_transparency_hides_is_said(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(8):
            image = Image.new("RGBA", (12, 10), (255, 255, 255, 0))
            ImageDraw.Draw(image).rectangle((2, 2, 5, 5 + number % 3), (255, 255, 255, 255))
            image.save(tmp_path / name / f"{number}.png")
    data = DataModule(path=str(tmp_path))
    data.setup("fit")
    assert said(data.notes, "transparent", "white", "--data.background black")
    assert not said(dark_notes(tmp_path), "--data.background black")


def dark_notes(folder: Path) -> list[str]:
    data = DataModule(path=str(folder), background="black")
    data.setup("fit")
    return data.notes


def test_colours_that_a_model_of_grey_images_cannot_see_are_said(tmp_path):
    paint_classes(tmp_path)
    data = DataModule()
    data.setup("fit")
    data.predict_inputs([tmp_path])
    assert said(data.notes, "20 of 20", "in colour, and read in grey")
    assert data.predict_set is not None
    assert data.predict_set[0].shape == (1, 8, 8)


def test_cmyk_palettes_and_black_and_white(tmp_path):
    Image.new("RGB", (12, 10), (200, 30, 30)).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    Image.new("RGB", (12, 10), (200, 30, 30)).quantize().save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        assert np.abs(read(path).astype(int) - [200, 30, 30]).max() < 12, path
    Image.new("1", (12, 10), 1).save(tmp_path / "bits.png")
    assert (read(tmp_path / "bits.png", channels=1) == 255).all()


@pytest.mark.parametrize(("kind", "ending"), [("uint16", "png"), ("uint16", "tiff"), ("int32", "tiff")])
def test_deep_images_are_scaled_by_the_range_of_the_data(tmp_path, kind, ending):
    for name, low in [("dim", 1000), ("bright", 3000)]:
        (tmp_path / name).mkdir()
        for number in range(8):
            pixels = np.full((40, 40), low, kind)
            pixels[: number + 2] += 50 * number
            pixels[39, 39] = 65535  # a pixel of the camera that is broken
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.{ending}")
    data = DataModule(path=str(tmp_path), split_seed=1)
    data.setup("fit")
    low, high = data.facts["value_range"]
    assert 1000 <= low < 1100
    assert 3000 <= high < 4000
    assert said(data.notes, "16 or 32 bits", f"{low:g}", f"{high:g}")
    shades = set()
    for files in (data.train_set, data.val_set, data.test_set):
        for image, _ in files:
            shades.add(int(image[0, 30, 2]))
    assert min(shades) < 30
    assert max(shades) > 200


def test_floats_with_gaps_are_read(tmp_path):
    pixels = np.linspace(-1, 1, 120, dtype=np.float32).reshape(10, 12)
    pixels[0, 0] = np.nan
    pixels[0, 1] = np.inf
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    shades = read(tmp_path / "x.tiff", channels=1, value_range=[-1.0, 1.0])[:, :, 0]
    assert shades[0, 3] < 10
    assert shades[9, 11] == 255


def test_the_first_frame_is_read_and_that_is_said(tmp_path):
    frames = [Image.new("RGB", (12, 10), colour) for colour in COLOURS.values()]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for ending in ("gif", "tiff", "webp", "png"):
            path = tmp_path / name / f"several.{ending}"
            frames[0].save(path, save_all=True, append_images=frames[1:])
            assert np.abs(read(path).astype(int) - COLOURS["red"]).max() < 12, path
        paint(tmp_path / name / "one.png")
    data = DataModule(path=str(tmp_path), val_share=0.3)
    data.setup("fit")
    assert said(data.notes, "several frames or pages")


def test_a_smaller_image_is_what_a_viewer_would_show(tmp_path):
    """JPEGs are decoded at reduced size."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    photo = small.resize((640, 480), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.jpg", quality=95)
    photo.save(tmp_path / "photo.png")
    from_jpeg = read(tmp_path / "photo.jpg", size=(48, 64)).astype(int)
    from_png = read(tmp_path / "photo.png", size=(48, 64)).astype(int)
    assert np.abs(from_jpeg - from_png).mean() < 2


# What cannot be read


def postscript(path: Path) -> None:
    Image.new("RGB", (16, 16)).save(path.with_suffix(".eps"))
    path.with_suffix(".eps").rename(path)


def huge(path: Path) -> None:
    """Write the header of a PNG of 10 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def cut(path: Path) -> None:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:3000])


DAMAGES = {
    "postscript": postscript,
    "huge": huge,
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("%PDF-1.4 no image"),
    "link to nothing": lambda path: path.symlink_to("gone.png"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_read_is_named_or_passed_over(tmp_path, damage, monkeypatch):
    paint_classes(tmp_path / "data")
    bad = tmp_path / "data" / "red" / "bad.png"
    DAMAGES[damage](bad)
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for check in (None, True):
        line = refusal(tmp_path / "data", check=check)
        assert "red/bad.png is not an image" in line
        assert "--data.skip_unreadable true" in line
    labels, notes = labels_of(tmp_path / "data", skip_unreadable=True)
    assert len(labels["train"]) == 20
    assert said(notes, "1 of 21 files", "bad.png")
    assert not (tmp_path / "ran").exists()


def test_many_files_that_cannot_be_read_get_one_line(tmp_path):
    paint_classes(tmp_path)
    for number in range(300):
        (tmp_path / "red" / f"a very long name of a file that cannot be read {number}.png").write_text("")
    line = refusal(tmp_path)
    assert "300 of 320 files cannot be read" in line
    assert "and 29" in line


def test_what_turns_out_unreadable_in_training_is_named_passed_over_or_zero(tmp_path):
    files = [str(paint(tmp_path / "0.png")), str(tmp_path / "1.png")]
    looks = {"channels": 3, "size": [4, 4], "value_range": None, "background": "white"}
    labels = torch.tensor([0, 1])
    with pytest.raises(UserError, match=r"1\.png is not an image.*No such file.*--data\.skip_unreadable"):
        ImageFiles(files, labels, looks)[1]
    images = ImageFiles(files, labels, looks, skip=True)
    batch, targets = collate([images[0], images[1]])
    assert batch.shape == (1, 3, 4, 4)
    assert targets.tolist() == [0]
    assert images.readable.tolist() == [True, False]
    with pytest.raises(UserError, match="none of the 1 files"):
        collate([images[1]])
    unlabelled = ImageFiles(files, None, looks)
    assert unlabelled[1].shape == (3, 4, 4)
    assert unlabelled.readable.tolist() == [True, False]


def test_damaged_bytes_never_end_in_a_traceback(tmp_path):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    for name in RASTER:
        path = tmp_path / "image"
        try:
            image.convert("RGB").save(path, format=name)
        except (KeyError, OSError, ValueError):
            continue  # a format that is only read, or not for these pixels
        content = bytearray(path.read_bytes())
        for _ in range(12):
            damaged = bytearray(content)
            for place in random.integers(0, min(len(damaged), 400), 4):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged[: random.integers(1, len(damaged))])
            with suppress(UserError):
                read(path)


# What training changes at random


def ramp(batch: int = 64) -> Tensor:
    """Return images (B, 1, 8, 16) that become lighter to the right, each row by as much."""
    row = torch.arange(16, dtype=torch.uint8) * 10
    return row.expand(batch, 1, 8, 16).contiguous()


def falls(images: Tensor) -> Tensor:
    """Return for each image whether it becomes darker to the right: bool (B,)."""
    left = images[:, 0, :, :8].float().mean(dim=(1, 2))
    right = images[:, 0, :, 8:].float().mean(dim=(1, 2))
    return right < left


def test_images_are_mirrored_only_where_that_is_asked_for():
    torch.manual_seed(0)
    kept = shifted(ramp(), flip=False)
    assert not falls(kept).any()
    assert len({image.numpy().tobytes() for image in kept}) == 5  # moved by -2 to 2 pixels
    mirrored = falls(shifted(ramp(), flip=True))
    assert 20 <= mirrored.sum() <= 44


def test_an_image_is_moved_by_an_eighth_and_keeps_its_rows_together():
    torch.manual_seed(0)
    places = moved(100, 32, torch.device("cpu"))
    assert places.shape == (100, 32)
    assert places.min() == 0
    assert places.max() == 31
    middle = places[:, 8:24] - torch.arange(8, 24)
    assert (middle == middle[:, :1]).all()
    assert set(middle[:, 0].tolist()) == set(range(-4, 5))
    assert (moved(10, 1, torch.device("cpu")) == 0).all()


def test_a_square_of_each_image_is_covered():
    torch.manual_seed(0)
    images = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    hidden = covered(images)
    assert hidden.dtype == torch.uint8
    assert set(hidden.unique().tolist()) == {0, 127}
    counts = (hidden[:, 0] == 127).sum(dim=(1, 2))
    assert counts.max() <= 64
    assert counts.min() >= 16  # at a corner
    assert (hidden[:, 0] == hidden[:, 2]).all()


@pytest.mark.parametrize(
    ("setting", "classes", "channels", "expected", "note"),
    [
        (None, ["cat", "dog"], 3, "flip", "half of them mirrored"),
        (None, ["cat", "dog"], 1, "shift", "they are grey"),
        (None, ["3", "8"], 3, "shift", "single characters"),
        (None, ["Turn_Left", "straight on"], 3, "shift", "left or right"),
        (None, ["bright", "leftovers"], 3, "flip", "half of them mirrored"),
        (None, [], 3, "none", "numbers"),
        ("flip", ["3", "8"], 1, "flip", ""),
        ("none", ["cat", "dog"], 3, "none", ""),
    ],
)
def test_what_is_changed_suits_the_data_and_is_said(setting, classes, channels, expected, note):
    notes: list[str] = []
    assert chosen_augmentation(setting, classes, channels, notes) == expected
    assert len(notes) == bool(note)
    assert not note or said(notes, note, "--data.augment")


def test_digits_are_not_mirrored():
    data = DataModule()
    assert data.facts["augment"] == "shift"
    assert said(data.notes, "not mirrored")


@pytest.mark.parametrize(("augment", "same"), [(None, False), ("flip", True)])
def test_a_mirror_image_has_the_same_scores_where_it_shows_the_same(augment, same):
    data = DataModule(augment=augment)
    assert data.mirror is same
    network = Network(data.channels, 10, data.size, mirror=data.mirror)
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    network.train()
    assert not torch.allclose(network(images), network(images.flip(3)))
    network.eval()
    assert torch.allclose(network(images), network(images.flip(3)), atol=1e-6) is same


class Watch(Callback):
    """Count the images of training and validation that are those of the data set, and those that are not."""

    def __init__(self, data: DataModule):
        self.data = data
        self.changed = {"training": 0, "validation": 0}

    def count(self, stage: str, images: Tensor, originals: Tensor) -> None:
        for image in images:
            self.changed[stage] += not (image == originals).flatten(1).all(dim=1).any()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.count("training", batch[0], self.data.train_set.images)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.count("validation", batch[0], self.data.val_set.images)


@pytest.mark.parametrize(("augment", "least"), [(None, 100), ("none", 0)])
def test_training_batches_are_changed_and_no_others(augment, least):
    """Lightning's summary of the layers gives the hook an input without labels, so it is on."""
    data = DataModule(augment=augment)
    watch = Watch(data)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=2,
        accelerator="cpu",
        callbacks=[watch, ModelSummary()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    model = Model(data.classes, channels=data.channels, size=data.size, width=4)
    trainer.fit(model, data)
    assert watch.changed["validation"] == 0
    assert least <= watch.changed["training"] <= 128 * bool(least)


@pytest.mark.parametrize("size", [[8, 8], [28, 28], [48, 64], [224, 224], [3, 200], [1, 1]])
def test_the_stages_of_the_network_follow_the_size(size):
    """So the last stage sees the whole image, and one of 50,000 pixels does not take 50 times as long."""
    network = Network(3, 5, size, width=4).eval()
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    assert network(images).shape == (2, 5)
    assert min(network.backbone(images.float()).shape[2:]) in ((3, 4) if min(size) > 4 else (min(size),))
    blocks = [layer for layer in network.backbone if isinstance(layer, ResidualBlock)]
    assert 1 <= len(blocks) <= 3

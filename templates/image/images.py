"""Image files: what their headers say, and their pixels as a viewer shows them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from .harness.errors import UserError
from .harness.opening import look_at, opened, sample_of

# The formats that Pillow decodes itself. For others, such as PostScript, it would start another program.
FORMATS = [
    *("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "DIB", "FITS", "ICNS"),
    *("ICO", "MPO", "PCX", "PPM", "PSD", "QOI", "SGI", "SUN", "TGA", "XBM", "XPM"),
]
Image.init()
RASTER = [name for name in FORMATS if name in Image.OPEN]
ENDINGS = tuple(ending for ending, name in Image.registered_extensions().items() if name in RASTER)
# Modes of Pillow.
GREY = ("1", "L", "LA", "La")
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # more than 8 bits, and grey
CLOSELY = 100  # images that are decoded to see which values they have, of those with more than 8 bits


@contextmanager
def open_image(item: str | Path | dict) -> Iterator[Image.Image]:
    """Open an image file.

    Raises:
        UserError: If Pillow cannot read it, here or within the `with`.
    """
    name, file = opened(item)
    try:
        with Image.open(file, formats=RASTER) as image:
            yield image
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not an image that can be read") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # damaged files raise errors of many kinds
        reason = getattr(error, "strerror", None) or error  # without the name of the file
        raise UserError(f"{name} is not an image that can be read: {reason}") from error


def read_image(
    item: str | Path | dict,
    channels: int,
    size: Sequence[int],
    value_range: Sequence[float] | None,
    background: str,
) -> np.ndarray:
    """Return the pixels of an image file, uint8 (H, W, C), as a viewer shows it.

    Args:
        item: A path, or what a table contains of the file.
        channels: 1 for grey, 3 for colour.
        size: Height and width that it is resized to.
        value_range: Which values of images with more than 8 bits become black and white.
        background: Colour behind transparent parts.

    Raises:
        UserError: If it cannot be read.
    """
    height, width = size
    longer = max(size)
    mode = "L" if channels == 1 else "RGB"
    with open_image(item) as file:
        file.draft(None, (longer, longer))  # JPEG: decode no more pixels than needed
        file.load()
        image = opaque(with_8_bits(upright(file), value_range), background)
        pixels = np.array(image.convert(mode).resize((width, height)))
    return pixels.reshape(height, width, channels)


def orientation(image: Image.Image) -> int:
    """Return how a camera says that it was held, as in EXIF: 1 if upright."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # to look for it, Pillow would decode the image
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged, which does not matter for the pixels
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Return a photo as the camera was held."""
    if orientation(image) == 1:
        return image
    return ImageOps.exif_transpose(image)


def with_8_bits(image: Image.Image, value_range: Sequence[float] | None) -> Image.Image:
    """Return a grey image of 16 or 32 bits with 8: the range of values from black to white."""
    if image.mode not in DEEP:
        return image
    if value_range is None and image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, unlike those of the training images that were looked at")
    low, high = value_range or (0, 65535)
    pixels = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low)
    shares = ((pixels - low) / (high - low)).clip(0, 1)
    return Image.fromarray((shares * 255).round().astype(np.uint8))


def opaque(image: Image.Image, background: str) -> Image.Image:
    """Return an image with a colour in place of its transparent parts."""
    if not image.has_transparency_data:
        return image
    behind = Image.new("RGBA", image.size, colour(background))
    behind.alpha_composite(image.convert("RGBA"))
    return behind


def colour(name: str) -> tuple[int, ...]:
    """Return red, green and blue of a colour.

    Raises:
        UserError: If there is no such colour.
    """
    try:
        return ImageColor.getrgb(name)
    except ValueError as error:
        raise UserError(f"data.background must be a colour like white or '#808080' (got {name})") from error


def decode(item: str | Path | dict) -> None:
    """Decode an image, coarsely if it is a JPEG, to see whether that is possible."""
    with open_image(item) as image:
        image.draft(None, (1, 1))
        image.load()


class Look(NamedTuple):
    """What the header of an image file says."""

    file: str | Path | dict
    height: int
    width: int
    mode: str
    bits: int
    transparent: bool
    frames: bool


def look(item: str | Path | dict) -> Look:
    """Return what the header of an image file says, as a viewer shows it."""
    with open_image(item) as image:
        width, height = image.size
        if orientation(image) >= 5:  # held on its side
            width, height = height, width
        several = image.format != "MPO" and getattr(image, "is_animated", False)
        bits = 16 if image.mode in DEEP or ";16" in str(getattr(image, "tile", "")) else 8
        return Look(item, height, width, image.mode, bits, image.has_transparency_data, several)


def describe(
    seen: list[Look],
    count: int,
    image_size: int | None,
    background: str,
    notes: list[str],
    backbone: dict | None = None,
) -> dict:
    """Return channels, size and range of values that images are read with; say what was found.

    Args:
        seen: What the headers of some images say.
        count: The images that these stand for.
        image_size: The longer side that is asked for.
        background: Colour behind transparent parts.
        notes: What was found is appended to it.
        backbone: What is known of a pretrained model, which says the size.
    """
    sizes = Counter((one.height, one.width) for one in seen)
    height, width = sizes.most_common(1)[0][0]
    longer = max(height, width)
    scale = (image_size or min(64, longer)) / longer
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    grey = all(one.mode in GREY or one.mode in DEEP for one in seen)
    of = f"{len(seen)} images"
    if len(seen) < count:
        of += f" looked at (of {count})"
    kind = "in grey" if grey else "in colour"
    why = "--data.image_size"
    same = f"{sizes[height, width]} of {of} have {width}x{height}"
    if backbone is not None:
        height, width = size = backbone["size"]
        why = f"as {backbone['name']} expects"
    notes.append(f"images are read {kind} with {size[1]}x{size[0]} pixels ({why}); {same}")
    stretched = sum(abs(one.width * height / (one.height * width) - 1) > 0.1 for one in seen)
    if stretched:
        notes.append(f"{stretched} of {of} have other proportions and are stretched to this size")
    several = sum(one.frames for one in seen)
    if several:
        notes.append(f"{several} of {of} have several frames or pages: the first one is used")
    clear = [one for one in seen if one.transparent]
    if clear:
        note_transparency(clear, of, background, notes)
    deep = [one for one in seen if one.mode in DEEP]
    value_range = None
    if deep:
        value_range = range_of(deep)
        low, high = value_range
        notes.append(f"{len(deep)} of {of} have 16 or 32 bits: {low:g} is read as black, {high:g} as white")
    halved = sum(one.bits == 16 and one.mode not in DEEP for one in seen)
    if halved:
        notes.append(f"{halved} of {of} have 16 bits for each colour, of which the upper 8 are read")
    return {"channels": 1 if grey else 3, "size": size, "value_range": value_range}


def note_other_colours(files: list[str], channels: int, notes: list[str]) -> None:
    """Say if images are in colour, of which a model that was trained on grey ones sees the brightness."""
    if channels > 1:
        return
    some = sample_of(files, CLOSELY)
    try:
        seen = look_at(some, look, skip=True)
    except UserError:
        return  # none can be read, which is said later
    colourful = sum(one.mode not in GREY and one.mode not in DEEP for one in seen)
    if colourful:
        notes.append(f"{colourful} of {len(some)} images that were looked at are in colour, and read in grey")


def note_transparency(clear: list[Look], of: str, background: str, notes: list[str]) -> None:
    """Say how many images may be transparent, and whether the background hides what they show."""
    files = [one.file for one in sample_of(clear, CLOSELY)]
    hidden = sum(look_at(files, partial(is_plain_on, background), skip=True))
    advice = ""
    if hidden > len(files) / 2:
        advice = f"; on it {hidden} of {len(files)} are of one colour: try --data.background black"
    notes.append(f"{len(clear)} of {of} may be transparent: they are read on {background}{advice}")


def is_plain_on(background: str, item: str | Path | dict) -> bool:
    """Return whether an image is of one colour on a background."""
    with open_image(item) as image:
        pixels = np.asarray(opaque(image, background))
        return bool((pixels == pixels[0, 0]).all())


def range_of(deep: list[Look]) -> list[float]:
    """Return the values that become black and white: nearly the lowest and highest of images with 16 bits.

    A thousandth of the pixels of an image may lie outside: it would be a pity if a defect one made all dark.
    """
    files = [one.file for one in sample_of(deep, CLOSELY)]
    ranges = np.array(look_at(files, range_in, skip=True))
    low = float(ranges[:, 0].min())
    high = float(ranges[:, 1].max())
    return [low, high if high > low else low + 1]


def range_in(item: str | Path | dict) -> list[float]:
    """Return the values that nearly all pixels of an image lie between."""
    with open_image(item) as image:
        pixels = np.asarray(image, dtype=np.float64)
        finite = pixels[np.isfinite(pixels)]
        if not len(finite):
            raise ValueError("it has no pixel that is a number")
        return np.percentile(finite, [0.1, 99.9]).tolist()

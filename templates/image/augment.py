"""What training changes in a batch of images at random, so that the network learns what they show."""

import re

import torch
from torch import Tensor

SHIFT = 1 / 8  # of a side: how far an image is moved at most
HOLE = 1 / 4  # of a side: how large a square is covered
SIDES = re.compile(r"(?<![a-z])(left|right|(counter|anti)?clockwise)(?![a-z])", re.IGNORECASE)


def chosen_augmentation(setting: str | None, classes: list[str], channels: int, notes: list[str]) -> str:
    """Return what training changes: the setting, or if it is None what suits the data; say what was chosen.

    A mirror image must show the same class. That is so for most photos, but not for letters and digits, nor
    for "left" and "right"; of grey images nothing is known. The number that an image stands for may depend on
    where in the image something is.
    """
    if setting is not None:
        return setting
    if not classes:
        notes.append(
            "training images are not changed at random, as they have numbers: see --data.augment shift"
        )
        return "none"
    reason = ""
    if channels == 1:
        reason = "they are grey"
    elif all(len(name) == 1 for name in classes):
        reason = "their classes are single characters"
    elif any(SIDES.search(name) for name in classes):
        reason = "a class is named left or right"
    moved_and_covered = "training images are moved and partly covered at random"
    if reason:
        notes.append(f"{moved_and_covered}, but not mirrored, as {reason} (--data.augment)")
        return "shift"
    notes.append(f"{moved_and_covered}, and half of them mirrored (--data.augment)")
    return "flip"


def augment(images: Tensor, flip: bool) -> Tensor:
    """Return images (B, C, H, W) of the same type: moved, mirrored if `flip`, and with a square covered.

    Each image draws its own changes. They are those that Devries & Taylor 2017 (arXiv:1708.04552) trained
    with: random crops, mirror images and cutout.
    """
    images = shifted(images, flip)
    return covered(images)


def shifted(images: Tensor, flip: bool) -> Tensor:
    """Return images moved to any side by up to an eighth of it, and every other one mirrored if `flip`.

    At the side that it moves away from, the image is continued by its mirror image.
    """
    batch, channels, height, width = images.shape
    rows = moved(batch, height, images.device)
    columns = moved(batch, width, images.device)
    if flip:
        mirrored = torch.rand(batch, 1, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    images = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return images.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def moved(batch: int, length: int, device: torch.device) -> Tensor:
    """Return for each image the places (batch, length) that its rows, or columns, are taken from."""
    most = max(1, round(SHIFT * length)) if length > 1 else 0
    steps = torch.randint(-most, most + 1, (batch, 1), device=device)
    places = (torch.arange(length, device=device) + steps).abs()  # mirrored at the first
    return torch.where(places < length, places, 2 * (length - 1) - places)  # and at the last


def covered(images: Tensor) -> Tensor:
    """Return images in each of which a grey square anywhere, perhaps partly outside, hides what is there."""
    batch, _, height, width = images.shape
    size = HOLE * max(height, width)
    rows = near(batch, height, size, images.device)
    columns = near(batch, width, size, images.device)
    hidden = rows[:, None, :, None] & columns[:, None, None, :]  # (B, 1, H, W)
    return images.masked_fill(hidden, 127)


def near(batch: int, length: int, size: float, device: torch.device) -> Tensor:
    """Return for each image which rows, or columns, lie within a square: bool (batch, length)."""
    centre = torch.randint(length, (batch, 1), device=device)
    distance = torch.arange(length, device=device) - centre
    return 2 * distance.abs() < size

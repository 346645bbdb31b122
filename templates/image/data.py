"""The data: images, split and loaded by a LightningDataModule. Replace them by yours."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .harness.batches import balanced_sampler, check_batch_size, drops_last, worker_options
from .harness.errors import UserError
from .harness.files import class_folders, files_in, opened, readable
from .harness.splits import (
    check_shares,
    class_names,
    class_numbers,
    fingerprint,
    select,
    share_out,
    warn_of_other_data,
)
from .harness.tables import files_in_tables

ENDINGS = tuple(Image.registered_extensions())
GREY = ("1", "L", "LA")  # modes of Pillow


class ImageDataset(Dataset):
    """Images and their labels in memory.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor):
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an image (C, H, W) and its label."""
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch, (B, C, H, W) and (B,), by one indexing rather than B of them."""
        rows = torch.tensor(indices)
        return self.images.index_select(0, rows), self.labels[rows]  # five times as fast as images[rows]


class ImageFiles(Dataset):
    """Image files, read when they are asked for.

    Args:
        files: Paths, or what a table contains of them.
        labels: One for each file; None for files to predict on.
        channels: 1 for grey, 3 for colour.
        size: Height and width to which all images are resized.
    """

    def __init__(self, files: Sequence, labels: list[int] | None, channels: int, size: Sequence[int]):
        self.files = files
        self.labels = labels
        self.mode = "L" if channels == 1 else "RGB"
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, int]:
        """Return an image, uint8 (C, H, W), and its label if there are any."""
        height, width = self.size
        with open_image(self.files[index]) as image:
            pixels = np.array(image.convert(self.mode).resize((width, height)))  # (H, W) or (H, W, 3)
        tensor = torch.from_numpy(pixels).view(height, width, -1).permute(2, 0, 1)
        if self.labels is None:
            return tensor
        return tensor, self.labels[index]


class DataModule(LightningDataModule):
    """Images: scikit-learn's 1797 grey digits of 8×8 pixels in ten classes, or yours in `path`.

    Args:
        path: Your images: a folder with a folder for each class, a table, or a name on the Hugging Face
            hub; null: the digits.
        target: Column of the labels in a table; null: the one called label, target, class or category.
        image_size: Pixels of an image's longer side; null: the most frequent in training, at most 64.
        skip_unreadable: Whether to leave out files that cannot be read instead of stopping.
        val_share: Share of the images to validate on, unless the data have a validation split.
        test_share: Share of the images to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which images are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that load batches; null: for `path` as the cores allow, at most 8; else none.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training images so that all classes are equally frequent.
    """

    def __init__(
        self,
        path: str | None = None,
        target: str | None = None,
        image_size: int | None = None,
        skip_unreadable: bool = False,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        num_folds: int = 5,
        batch_size: int = 64,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool | None = None,
        drop_last: bool | None = None,
        timeout: float = 0.0,
        shuffle: bool = True,
        balanced: bool = False,
    ):
        super().__init__()
        check_shares(val_share, test_share, fold, num_folds)
        check_batch_size(batch_size)
        self.save_hyperparameters(logger=False)
        self.predict_set: Dataset | None = None

    def read(self) -> dict[str, tuple]:
        """Return images, labels and (height, width, channels) of each split that the data have."""
        settings = self.hparams
        if settings.path is None:
            return {"train": digits()}
        if Path(settings.path).is_dir():
            found = class_folders(Path(settings.path), ENDINGS)
        else:
            found = files_in_tables(settings.path, settings.target)
        examples = {}
        for split, (files, labels) in found.items():
            kept, shapes = readable(files, look, settings.skip_unreadable)
            examples[split] = select(files, kept), select(labels, kept), shapes
        return examples

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """What `read` returns, for all of the splits "train", "val" and "test"."""
        settings = self.hparams
        examples = self.read()
        return share_out(
            examples,
            strata=examples["train"][1],
            val_share=settings.val_share,
            test_share=settings.test_share,
            seed=settings.split_seed,
            fold=settings.fold,
            num_folds=settings.num_folds,
        )

    @cached_property
    def facts(self) -> dict:
        """What the training images say about how to treat others; it travels in the checkpoint."""
        _, labels, shapes = self.parts["train"]
        heights_and_widths = Counter((height, width) for height, width, _ in shapes)
        height, width = heights_and_widths.most_common(1)[0][0]
        longer = max(height, width)
        scale = (self.hparams.image_size or min(64, longer)) / longer
        return {
            "classes": class_names(labels),
            "channels": max(channels for _, _, channels in shapes),
            "size": [max(1, round(height * scale)), max(1, round(width * scale))],
            "fingerprint": fingerprint(self.parts),
        }

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores."""
        return self.facts["classes"]

    @property
    def channels(self) -> int:
        """Colour channels of an image: 1 or 3."""
        return self.facts["channels"]

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps of the data."""
        return self.facts

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the facts of the training; a run that goes on must find the same in the data."""
        if "facts" in vars(self) and self.facts != state_dict:
            raise UserError("the data or their split changed since the run was started; start a new run")
        self.facts = state_dict

    def setup(self, stage: str) -> None:
        """Make the three data sets, once; prediction needs none of them."""
        if stage == "predict" or "train_set" in vars(self):
            return
        warn_of_other_data(self.parts, self.facts["fingerprint"])
        self.train_set = self.dataset("train")
        self.val_set = self.dataset("val")
        self.test_set = self.dataset("test")

    def dataset(self, split: str) -> ImageDataset | ImageFiles:
        """Return the images of a split."""
        images, labels, _ = self.parts[split]
        numbers = class_numbers(labels, self.classes, split)
        if self.hparams.path is None:
            return ImageDataset(torch.from_numpy(images), torch.tensor(numbers))
        return ImageFiles(images, numbers, self.channels, self.facts["size"])

    @property
    def workers(self) -> dict:
        """How batches get to the device: num_workers, pin_memory and other options of each DataLoader."""
        settings = self.hparams
        return worker_options(
            self.trainer,
            in_memory=settings.path is None,
            num_workers=settings.num_workers,
            pin_memory=settings.pin_memory,
            prefetch_factor=settings.prefetch_factor,
            persistent_workers=settings.persistent_workers,
            timeout=settings.timeout,
        )

    def train_dataloader(self) -> DataLoader:
        settings = self.hparams
        examples = len(self.train_set)
        sampler = None
        if settings.balanced:
            labels = class_numbers(self.parts["train"][1], self.classes, "train")
            sampler = balanced_sampler(labels)
        return DataLoader(
            self.train_set,
            batch_size=settings.batch_size,
            shuffle=settings.shuffle and not settings.balanced,
            sampler=sampler,
            drop_last=drops_last(settings.drop_last, examples, settings.batch_size, self.trainer),
            collate_fn=collate,
            **self.workers,
        )

    def val_dataloader(self) -> DataLoader:
        size = self.hparams.batch_size
        return DataLoader(self.val_set, batch_size=size, collate_fn=collate, **self.workers)

    def test_dataloader(self) -> DataLoader:
        size = self.hparams.batch_size
        return DataLoader(self.test_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_dataloader(self) -> DataLoader:
        if self.predict_set is None:
            raise UserError("there is nothing to predict on; give image files or folders")
        size = self.hparams.batch_size
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take image files, and folders of them, to predict on; return the name of each image.

        Raises:
            UserError: If a path does not exist, or a folder contains no image.
        """
        files = []
        for path in paths:
            for file in files_in(path, ENDINGS):
                files.append(str(file))
        self.predict_set = ImageFiles(files, None, self.channels, self.facts["size"])
        return files

    def test_example(self, index: int) -> Image.Image:
        """Return an image of the test split, to look at."""
        image = self.test_set[index][0]
        return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def collate(examples: list | tuple) -> list | tuple | Tensor:
    """Stack examples, unless `__getitems__` has made a batch of them already."""
    if isinstance(examples, tuple):
        return examples
    return default_collate(examples)


def digits() -> tuple[np.ndarray, list, list]:
    """Return scikit-learn's digits, uint8 (N, 1, 8, 8), with their labels and shapes."""
    found = load_digits()
    pixels = (found.images / 16 * 255).round().astype(np.uint8)
    images = pixels[:, None]
    return images, found.target.tolist(), [[8, 8, 1]] * len(images)


@contextmanager
def open_image(item: str | Path | dict) -> Iterator[Image.Image]:
    """Open an image file.

    Raises:
        UserError: If Pillow cannot read it.
    """
    name, file = opened(item)
    try:
        with Image.open(file) as image:
            if image.mode in ("I", "F"):
                raise ValueError("its pixels have 32 bits; save it with 8 or 16")
            if image.mode.startswith("I;16"):
                # Pillow would make all that is brighter than 255 white.
                pixels = (np.asarray(image) >> 8).astype(np.uint8)
                yield Image.fromarray(pixels)
            else:
                yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is not an image that Pillow can read: {error}") from error


def look(item: str | Path | dict) -> list[int]:
    """Return height, width and channels of an image, having read all of it."""
    with open_image(item) as image:
        width, height = image.size
        channels = 1 if image.mode in GREY else 3
        image.draft(None, (1, 1))  # JPEG: decode coarsely
        image.load()
    return [height, width, channels]

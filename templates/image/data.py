"""The data: images, split and loaded by a LightningDataModule. Replace them by yours."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .augment import augment, chosen_augmentation
from .harness.batches import (
    balanced_sampler,
    check_batch_size,
    chosen_batch_size,
    drops_last,
    worker_options,
)
from .harness.errors import UserError, first_few
from .harness.files import files_in
from .harness.labels import labelled_files, labelled_media
from .harness.opening import ADVICE, look_at, opened, readable_files, sample_of
from .harness.splits import (
    check_shares,
    class_numbers,
    deciles,
    fingerprint,
    known_classes,
    select,
    share_out,
    warn_of_other_data,
)
from .images import ENDINGS, colour, decode, describe, look, note_other_colours, read_image


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
        labels: One for each file, (N,); None for files to predict on.
        looks: How an image is read: `channels`, `size`, `value_range` and `background` of `read_image`.
        skip: Whether to give None for a file that cannot be read, instead of an error.

    Attributes:
        readable: bool (N,), shared by all workers: False for each file that turned out unreadable.
    """

    def __init__(self, files: Sequence, labels: Tensor | None, looks: dict, skip: bool = False):
        self.files = files
        self.labels = labels
        self.looks = looks
        self.skip = skip
        self.readable = torch.ones(len(files), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, Tensor] | None:
        """Return an image, uint8 (C, H, W), and its label if there are any.

        Without labels a file that cannot be read gives zeros, and `readable` says so.
        """
        try:
            pixels = read_image(self.files[index], **self.looks)
        except UserError as error:
            self.readable[index] = False
            if self.labels is None:
                return torch.zeros(self.looks["channels"], *self.looks["size"], dtype=torch.uint8)
            if self.skip:
                return None
            raise UserError(f"{error}; {ADVICE}") from error
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.labels is None:
            return image
        return image, self.labels[index]


class DataModule(LightningDataModule):
    """Images: scikit-learn's 1797 grey digits of 8×8 pixels in ten classes, or yours in `path`.

    Args:
        path: Your images: a folder with a folder for each class, or with a table labels.csv (file_name,
            label); a table that contains images; or a name on the Hugging Face hub. null: the digits.
        target: Column of the labels in a table; null: the one called label, target, class or category.
        regression: Whether labels are numbers to predict; null: if a table has many different ones.
        class_folder: Where folders lie in folders, whether the outer or the inner one names the class; null:
            the outer one, unless it could be either.
        group: What must stay in one split: a regular expression, such as '^(patient[0-9]+)', of which the
            first group is searched in the paths below `path`; or a column of labels.csv.
        image_size: Pixels of an image's longer side; null: the most frequent in training, at most 64.
        background: Colour behind the transparent parts of images, such as white or '#808080'.
        augment: What training changes at random: none; shift: images are moved, and a square is covered;
            flip: half of them are mirrored as well. null: flip for photos in colour, shift for grey images
            and for characters, none for numbers to predict.
        skip_unreadable: Whether to pass over files that cannot be read, or do not exist, instead of stopping.
        check: Whether to read all files before training, to find those that cannot be read; null: if that
            takes about a second.
        val_share: Share of the images to validate on, unless the data have a validation split.
        test_share: Share of the images to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which images are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Images in a batch, on each device; null: 64, or less where there are few.
        num_workers: Processes that load batches; null: for `path` as the cores allow, at most 8; else none.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training images so that all classes are equally frequent.
        backbone_config: What is to be known of a pretrained model, for which the data are made.
    """

    def __init__(
        self,
        path: str | None = None,
        target: str | None = None,
        regression: bool | None = None,
        class_folder: Literal["outer", "inner"] | None = None,
        group: str | None = None,
        image_size: int | None = None,
        background: str = "white",
        augment: Literal["none", "shift", "flip"] | None = None,
        skip_unreadable: bool = False,
        check: bool | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        num_folds: int = 5,
        batch_size: int | None = None,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool | None = None,
        drop_last: bool | None = None,
        timeout: float = 0.0,
        shuffle: bool = True,
        balanced: bool = False,
        backbone_config: dict | None = None,
    ):
        super().__init__()
        check_shares(val_share, test_share, fold, num_folds)
        if batch_size is not None:
            check_batch_size(batch_size)
        colour(background)  # is there such a colour
        if backbone_config is not None and image_size is not None:
            raise UserError(
                f"data.image_size must be null with model.backbone (got {image_size}): images are made as "
                f"large as those that it was trained on, {backbone_config['size']}"
            )
        self.save_hyperparameters(logger=False)
        self.notes: list[str] = []
        self.predict_set: Dataset | None = None

    @staticmethod
    def describe_backbone(name: str) -> dict:
        """Return what is to be known of a pretrained model, once, when a new run starts."""
        from .pretrained import describe

        return describe(name)

    def read(self) -> tuple[dict[str, tuple], list | None]:
        """Return images and labels of each split that the data have, and groups of the training images."""
        settings = self.hparams
        if settings.path is None:
            return {"train": digits()}, None
        regression = settings.regression
        if "facts" in vars(self):  # out of a checkpoint
            regression = not self.classes
        if Path(settings.path).is_dir():
            found, groups = labelled_files(
                settings.path,
                ENDINGS,
                target=settings.target,
                regression=regression,
                class_folder=settings.class_folder,
                group=settings.group,
                skip=settings.skip_unreadable,
                notes=self.notes,
            )
        else:
            found, groups = labelled_media(
                settings.path,
                target=settings.target,
                regression=regression,
                group=settings.group,
                notes=self.notes,
            )
        for split, (files, labels) in found.items():
            kept = readable_files(
                files,
                decode,
                check=settings.check,
                skip=settings.skip_unreadable,
                notes=self.notes,
            )
            if kept is not None:
                found[split] = select(files, kept), select(labels, kept)
                if groups is not None and split == "train":
                    groups = select(groups, kept)
        return found, groups

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """What `read` returns, for all of the splits "train", "val" and "test"."""
        settings = self.hparams
        examples, groups = self.read()
        strata = examples["train"][1]
        if not isinstance(strata, list):
            strata = deciles(strata)
        return share_out(
            examples,
            strata=strata,
            groups=groups,
            val_share=settings.val_share,
            test_share=settings.test_share,
            seed=settings.split_seed,
            fold=settings.fold,
            num_folds=settings.num_folds,
            notes=self.notes,
        )

    @cached_property
    def facts(self) -> dict:
        """What the training images say about how to treat others; it travels in the checkpoint."""
        settings = self.hparams
        images, labels = self.parts["train"]
        classes = []
        target_scale = [0.0, 1.0]
        if isinstance(labels, np.ndarray):
            target_scale = [float(labels.mean()), float(labels.std()) or 1.0]
        else:
            classes = known_classes(self.parts, self.hparams.fold)
        looks: dict = {"channels": 1, "size": [8, 8], "value_range": None}
        if settings.path is not None:
            seen = look_at(sample_of(images), look, settings.skip_unreadable)
            looks = describe(
                seen,
                len(images),
                settings.image_size,
                settings.background,
                self.notes,
                settings.backbone_config,
            )
        elif settings.backbone_config is not None:
            height, width = settings.backbone_config["size"]
            self.notes.append(f"the digits are enlarged to {width}x{height} pixels, as the backbone expects")
        return {
            "classes": classes,
            "target_scale": target_scale,
            **looks,
            "augment": chosen_augmentation(settings.augment, classes, looks["channels"], self.notes),
            "fingerprint": fingerprint(self.parts),
        }

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores; none in a regression."""
        return self.facts["classes"]

    @property
    def channels(self) -> int:
        """Colour channels of an image: 1 or 3."""
        return self.facts["channels"]

    @property
    def size(self) -> list[int]:
        """Height and width of an image, in pixels."""
        return self.facts["size"]

    @property
    def mirror(self) -> bool:
        """Whether a mirror image shows the same."""
        return self.facts["augment"] == "flip"

    @property
    def target_scale(self) -> list[float]:
        """Mean and standard deviation of the training labels of a regression."""
        return self.facts["target_scale"]

    @property
    def looks(self) -> dict:
        """How an image is read: the arguments of `read_image`."""
        looks = {name: self.facts[name] for name in ("channels", "size", "value_range")}
        return looks | {"background": self.hparams.background}

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
        images, labels = self.parts[split]
        if self.classes:
            targets = torch.from_numpy(class_numbers(labels, self.classes, split))
        else:
            targets = torch.tensor(labels, dtype=torch.float32)
        if self.hparams.path is None:
            return ImageDataset(torch.from_numpy(images), targets)
        return ImageFiles(images, targets, self.looks, self.hparams.skip_unreadable)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change the images of a training batch at random: all at once, and on the device."""
        changes = self.facts["augment"]
        only_images = len(batch) == 1  # the example for Lightning's summary of the layers
        if not self.trainer.training or changes == "none" or only_images:
            return batch
        images, labels = batch
        return augment(images, flip=changes == "flip"), labels

    def teardown(self, stage: str) -> None:
        """Add to the notes which files were passed over."""
        for split in ("train", "val", "test"):
            images = getattr(self, f"{split}_set", None)
            if isinstance(images, ImageFiles) and not images.readable.all():
                note = passed_over(images.files, images.readable, split)
                if note not in self.notes:
                    self.notes.append(note)

    @cached_property
    def batch_size(self) -> int:
        """Images in a batch, on each device."""
        world_size = 1 if self.trainer is None else self.trainer.world_size
        return chosen_batch_size(self.hparams.batch_size, len(self.train_set), world_size, self.notes)

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
            if not self.classes:
                raise UserError("data.balanced true is not possible: a regression has no classes")
            sampler = balanced_sampler(class_numbers(self.parts["train"][1], self.classes, "train").tolist())
        return DataLoader(
            self.train_set,
            batch_size=self.batch_size,
            shuffle=settings.shuffle and not settings.balanced,
            sampler=sampler,
            drop_last=drops_last(settings.drop_last, examples, self.batch_size, self.trainer),
            collate_fn=collate,
            **self.workers,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.batch_size, collate_fn=collate, **self.workers)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.batch_size, collate_fn=collate, **self.workers)

    def predict_dataloader(self) -> DataLoader:
        if self.predict_set is None:
            raise UserError("there is nothing to predict on; give image files or folders")
        size = self.hparams.batch_size or 64
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take image files, and folders of them, to predict on; return the name of each image.

        Raises:
            UserError: If a path does not exist, or a folder contains no image.
        """
        files = []
        for path in paths:
            for file in files_in(path, ENDINGS, self.notes):
                files.append(str(file))
        note_other_colours(files, self.channels, self.notes)
        self.predict_set = ImageFiles(files, None, self.looks)
        return files

    def test_example(self, index: int) -> Image.Image:
        """Return an image of the test split, to look at; those that cannot be read do not count."""
        images: Any = self.test_set
        if isinstance(images, ImageFiles):
            index = int(images.readable.nonzero()[index])
        image = images[index][0]
        return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def collate(examples: list | tuple) -> list | tuple | Tensor:
    """Stack examples, unless `__getitems__` has made a batch of them already; None is left out.

    Raises:
        UserError: If all are None.
    """
    if isinstance(examples, tuple):
        return examples
    readable = [example for example in examples if example is not None]
    if not readable:
        raise UserError(f"none of the {len(examples)} files of a batch can be read; see --data.check true")
    return default_collate(readable)


def passed_over(files: Sequence, readable: Tensor, split: str) -> str:
    """Return one line on the files that turned out unreadable."""
    names = [opened(files[index])[0] for index in (~readable).nonzero()[:5, 0].tolist()]
    count = int((~readable).sum())
    return f"{count} of {len(files)} files ({split}) cannot be read and were passed over: {first_few(names)}"


def digits() -> tuple[np.ndarray, list[str]]:
    """Return scikit-learn's digits, uint8 (N, 1, 8, 8), with their labels."""
    found = load_digits()
    pixels = (found.images / 16 * 255).round().astype(np.uint8)
    return pixels[:, None], list(map(str, found.target))

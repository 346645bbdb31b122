"""The data: a `Dataset` and the LightningDataModule that splits and loads it. Replace them by yours."""

from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .harness.errors import UserError


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

    def __getitem__(self, index) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch, (B, C, H, W) and (B,), by one indexing rather than B of them."""
        return self[torch.tensor(indices)]


class ImageFiles(Dataset):
    """Image files, read when they are asked for, each a uint8 tensor (1, 8, 8): grey, white on black.

    Raises:
        UserError: If Pillow cannot read a file.
    """

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("L").resize((8, 8)))
        except (OSError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} is not an image that Pillow can read: {error}") from error
        return torch.from_numpy(pixels)[None]


class DataModule(LightningDataModule):
    """Handwritten digits: scikit-learn's 1797 grey images of 8×8 pixels in ten classes.

    Args:
        batch_size: Images in a batch, on each device.
        num_workers: Processes that load batches; images in memory need none.
        val_share: Share of the images to validate on.
        test_share: Share of the images to test on.
        split_seed: Seed of the stratified split; it also decides which images are tested on.
    """

    channels = 1

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
    ):
        super().__init__()
        if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
            raise UserError(f"val_share {val_share} and test_share {test_share}: give three parts above 0")
        self.save_hyperparameters(logger=False)
        self.classes = [str(digit) for digit in range(10)]

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target)
        rest, test = self._split(np.arange(len(labels)), labels, self.hparams.test_share)
        train, val = self._split(rest, labels, self.hparams.val_share * len(labels) / len(rest))
        self.train_set = ImageDataset(images[train], labels[train])
        self.val_set = ImageDataset(images[val], labels[val])
        self.test_set = ImageDataset(images[test], labels[test])

    def _split(self, indices: np.ndarray, labels: Tensor, share: float) -> list[np.ndarray]:
        return train_test_split(
            indices, test_size=share, stratify=labels[indices], random_state=self.hparams.split_seed
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_set)

    def _loader(self, dataset: Dataset, **options) -> DataLoader:
        workers = self.hparams.num_workers
        try:
            return DataLoader(
                dataset,
                batch_size=self.hparams.batch_size,
                num_workers=workers,
                persistent_workers=workers > 0,
                collate_fn=already_a_batch,
                **options,
            )
        except ValueError as error:
            raise UserError(f"the settings of data do not fit together: {error}") from error

    def test_example(self, index: int) -> Image.Image:
        """Return an input of the test set to look at, in W&B's table and in overview.png."""
        pixels = self.test_set.images[index].permute(1, 2, 0).squeeze(2)  # (H, W) or (H, W, 3)
        return Image.fromarray(pixels.numpy())

    def new_inputs(self, paths: list[Path]) -> ImageFiles:
        """Return the image files to predict for, with each folder's images in its place.

        Raises:
            UserError: If a path does not exist or a folder holds no image.
        """
        endings = tuple(Image.registered_extensions())
        files = []
        for path in paths:
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings)
            if not inside and not path.is_file():
                raise UserError(f"{path} is neither an image file nor a folder with images in it")
            files += inside or [path]
        return ImageFiles(files)


def already_a_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Stand in for `default_collate`, which would stack what `__getitems__` has indexed at once."""
    return batch

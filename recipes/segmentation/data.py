"""Images of discs and squares on a noisy ground, drawn here, and the mask of each. Replace them by yours."""

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

CLASSES = ["ground", "disc", "square"]


class Shapes(Dataset):
    """Images float32 (1, size, size) and masks int64 (size, size); each is drawn when it is asked for.

    An image is a function of its number, so every process and every epoch sees the same.
    """

    def __init__(self, first: int, count: int, size: int):
        self.first = first
        self.count = count
        self.size = size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng(self.first + index)
        y, x = np.mgrid[: self.size, : self.size]
        image = random.uniform(0.2, 0.5) + 0.1 * random.normal(size=(self.size, self.size))
        mask = np.zeros((self.size, self.size), dtype=np.int64)
        for _ in range(random.integers(1, 5)):
            kind = random.integers(1, 3)
            radius = random.uniform(0.08, 0.2) * self.size
            center_y, center_x = random.uniform(0.1, 0.9, size=2) * self.size
            if kind == 1:
                inside = (y - center_y) ** 2 + (x - center_x) ** 2 < radius**2
            else:
                inside = np.maximum(abs(y - center_y), abs(x - center_x)) < radius
            image[inside] += random.uniform(0.2, 0.4)
            mask[inside] = kind
        return torch.from_numpy(image).float()[None], torch.from_numpy(mask)


class DataModule(LightningDataModule):
    """Shapes to train on, to validate on and to test on.

    Args:
        size: Pixels of an image's side; a multiple of 8.
        examples: Images to train on; there are a fifth of them to validate on, and as many to test on.
        batch_size: Images in a batch, on each device.
        num_workers: Processes that draw images.
    """

    def __init__(self, size: int = 64, examples: int = 2000, batch_size: int = 32, num_workers: int = 0):
        super().__init__()
        self.save_hyperparameters(logger=False)
        few = examples // 5
        self.train_set = Shapes(0, examples, size)
        self.val_set = Shapes(examples, few, size)
        self.test_set = Shapes(examples + few, few, size)

    @property
    def classes(self) -> list[str]:
        """What a pixel may belong to."""
        return CLASSES

    def loader(self, data: Dataset, **options) -> DataLoader:
        settings = self.hparams
        return DataLoader(data, batch_size=settings.batch_size, num_workers=settings.num_workers, **options)

    def train_dataloader(self) -> DataLoader:
        return self.loader(self.train_set, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        return self.loader(self.test_set)

    def predict_dataloader(self) -> DataLoader:
        images = [self.test_set[index][0] for index in range(len(self.test_set))]
        return self.loader(images)

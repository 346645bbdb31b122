"""Images that show any of three shapes, drawn here: a yes or no for each. Replace them by yours."""

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

CLASSES = ["disc", "square", "cross"]


class Shapes(Dataset):
    """Images float32 (1, 32, 32), and float32 (3,) with 1 for each shape that is there."""

    def __init__(self, first: int, count: int):
        self.first = first
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.first + index)
        there = torch.rand(3, generator=generator) < 0.5
        image = 0.3 * torch.rand(1, 32, 32, generator=generator)
        y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        for kind in torch.nonzero(there)[:, 0].tolist():
            top, left = torch.randint(6, 26, (2,), generator=generator)
            down, right = (y - top).abs(), (x - left).abs()
            inside = {
                "disc": down**2 + right**2 < 25,
                "square": torch.maximum(down, right) < 4,
                "cross": (torch.minimum(down, right) < 1) & (torch.maximum(down, right) < 6),
            }
            image[0, inside[CLASSES[kind]]] = 1
        return image, there.float()


class DataModule(LightningDataModule):
    """Images of shapes.

    Args:
        examples: Images to train on; there are a fifth of them to validate on, and as many to test on.
        batch_size: Images in a batch, on each device.
    """

    def __init__(self, examples: int = 4000, batch_size: int = 64):
        super().__init__()
        self.save_hyperparameters(logger=False)
        few = examples // 5
        self.train_set = Shapes(0, examples)
        self.val_set = Shapes(examples, few)
        self.test_set = Shapes(examples + few, few)

    @property
    def labels(self) -> list[str]:
        """What an image may show."""
        return CLASSES

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.hparams.batch_size)

    def predict_dataloader(self) -> DataLoader:
        images = [self.test_set[index][0] for index in range(len(self.test_set))]
        return DataLoader(images, batch_size=self.hparams.batch_size)

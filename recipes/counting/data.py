"""Images of discs, drawn here, and how many there are. Replace them by yours."""

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Discs(Dataset):
    """Images uint8 (1, 48, 48) of 0 to `most` discs, which may overlap, and their number."""

    def __init__(self, first: int, count: int, most: int):
        self.first = first
        self.count = count
        self.most = most

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.first + index)
        number = torch.randint(self.most + 1, (), generator=generator)
        image = 60 * torch.rand(1, 48, 48, generator=generator)
        y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
        for top, left in torch.randint(4, 44, (int(number), 2), generator=generator).tolist():
            image[0, (y - top) ** 2 + (x - left) ** 2 < 12] += 120
        return image.clamp(max=255).byte(), number.float()


class DataModule(LightningDataModule):
    """Images of discs.

    Args:
        most: Discs in an image, at most.
        examples: Images to train on; there are a fifth of them to validate on, and as many to test on.
        batch_size: Images in a batch, on each device.
    """

    def __init__(self, most: int = 12, examples: int = 4000, batch_size: int = 64):
        super().__init__()
        self.save_hyperparameters(logger=False)
        few = examples // 5
        self.train_set = Discs(0, examples, most)
        self.val_set = Discs(examples, few, most)
        self.test_set = Discs(examples + few, few, most)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.hparams.batch_size)

    def predict_dataloader(self) -> DataLoader:
        images = [self.test_set[index][0] for index in range(len(self.test_set))]
        return DataLoader(images, batch_size=self.hparams.batch_size)

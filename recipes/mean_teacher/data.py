"""scikit-learn's digits, of which a hundred have labels: learn from the others as well."""

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset


class DataModule(LightningDataModule):
    """Digits, uint8 (1, 8, 8).

    Args:
        labelled: Images whose labels are known.
        batch_size: Images without labels in a batch, on each device; there are a quarter as many with labels.
    """

    def __init__(self, labelled: int = 100, batch_size: int = 128):
        super().__init__()
        self.save_hyperparameters(logger=False)
        digits = load_digits()
        images = torch.tensor(digits.images / 16 * 255).round().byte()[:, None]
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        self.images, self.labels = images[order], labels[order]

    def part(self, start: int, end: int) -> Dataset:
        """Return images and labels from one number to another."""
        return TensorDataset(self.images[start:end], self.labels[start:end])

    def train_dataloader(self) -> CombinedLoader:
        """Return batches {"labelled": (images, labels), "unlabelled": (images,)}.

        The loader of the labelled images begins again as often as the other one needs it.
        """
        settings = self.hparams
        labelled = self.part(0, settings.labelled)
        unlabelled = TensorDataset(self.images[:1200])
        few = settings.batch_size // 4
        return CombinedLoader(
            {
                "labelled": DataLoader(labelled, batch_size=few, shuffle=True, drop_last=True),
                "unlabelled": DataLoader(
                    unlabelled, batch_size=settings.batch_size, shuffle=True, drop_last=True
                ),
            },
            "max_size_cycle",
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.part(1200, 1400), batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.part(1400, 1797), batch_size=self.hparams.batch_size)

    def predict_dataloader(self) -> DataLoader:
        images: list[Tensor] = list(self.images[1400:])
        return DataLoader(images, batch_size=self.hparams.batch_size)

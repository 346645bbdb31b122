"""scikit-learn's digits without their labels: each image is seen twice, changed at random."""

import torch
from lightning import LightningDataModule
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, random_split


class TwoViews(Dataset):
    """Two views of each image, uint8 (1, H, W): moved, turned and with another contrast."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return view(image), view(image)


def view(image: Tensor) -> Tensor:
    """Return an image (C, H, W) turned by up to 20°, scaled and moved by 15 %, with another contrast."""
    angle = torch.empty(()).uniform_(-0.35, 0.35)
    scale = torch.empty(()).uniform_(0.85, 1.15)
    move = torch.empty(2).uniform_(-0.3, 0.3)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([torch.stack([cosine, -sine, move[0]]), torch.stack([sine, cosine, move[1]])])
    grid = F.affine_grid(matrix[None], [1, *image.shape], align_corners=False)
    moved = F.grid_sample(image[None].float(), grid, align_corners=False)[0]
    contrast = torch.empty(()).uniform_(0.6, 1.4)
    noisy = moved * contrast + 10 * torch.randn_like(moved)
    return noisy.clamp(0, 255).byte()


class DataModule(LightningDataModule):
    """Images without labels.

    Args:
        batch_size: Images in a batch, on each device; each of them is compared with all the others.
        num_workers: Processes that load batches.
    """

    def __init__(self, batch_size: int = 256, num_workers: int = 0):
        super().__init__()
        self.save_hyperparameters(logger=False)
        images = torch.tensor(load_digits().images / 16 * 255).round().byte()[:, None]  # (N, 1, 8, 8)
        generator = torch.Generator().manual_seed(0)
        self.train_set, self.val_set = random_split(TwoViews(images), [0.9, 0.1], generator)

    def train_dataloader(self) -> DataLoader:
        settings = self.hparams
        return DataLoader(
            self.train_set,
            batch_size=settings.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=settings.num_workers,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(
            self.val_set, batch_size=self.hparams.batch_size, num_workers=self.hparams.num_workers
        )

"""A generator and a discriminator of images of 8×8 pixels, as small as they can be."""

from torch import Tensor, nn


class Generator(nn.Module):
    """Make images (B, 1, 8, 8) between -1 and 1 of noise (B, noise)."""

    def __init__(self, noise: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(noise, 4 * width * 4),
            nn.Unflatten(1, (4 * width, 2, 2)),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1),  # 4×4
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1),  # 8×8
            nn.Tanh(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise)


class Discriminator(nn.Module):
    """Score images (B, 1, 8, 8): above 0 what seems real; (B,)."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),  # 4×4
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # 2×2
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(2 * width * 4, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)[:, 0]

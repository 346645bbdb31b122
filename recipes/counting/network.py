"""A density whose sum over the image is the number of objects (Lempitsky & Zisserman 2010)."""

from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    """Count objects.

    A count is a sum over places, so the network gives a density at each place, never below 0, and adds it up.
    An image twice as large, with twice as many objects, needs no other training.

    Args:
        channels: Colour channels of an image.
        width: Features of the convolutions.
    """

    def __init__(self, channels: int = 1, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 5, padding=2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 1, 1),
        )
        nn.init.constant_(self.layers[-1].bias, -4.0)  # the first densities are small

    def density(self, images: Tensor) -> Tensor:
        """Return the density (B, 1, H / 2, W / 2) of uint8 images (B, channels, H, W)."""
        return F.softplus(self.layers(images / 127.5 - 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return counts (B,) of uint8 images (B, channels, H, W)."""
        return self.density(images).sum(dim=(1, 2, 3))

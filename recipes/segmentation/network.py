"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597), with batch normalisation and three levels."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Sequential):
    """Two convolutions of 3×3 with batch normalisation and ReLU: (B, inputs, H, W) → (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Network(nn.Module):
    """Score each pixel for each class.

    Args:
        channels: Colour channels of an image.
        num_classes: Scores for each pixel.
        width: Features of the first level; each level down has twice as many.
        depth: Levels below the first; height and width must be multiples of 2**depth.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 16, depth: int = 3):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.first = Block(channels, width)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for above, below in pairwise(widths):
            self.down.append(Block(above, below))
            self.up.insert(0, nn.ConvTranspose2d(below, above, 2, stride=2))
            self.merge.insert(0, Block(2 * above, above))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B, num_classes, H, W) for images (B, channels, H, W)."""
        x = self.first(images)
        skipped = []
        for down in self.down:
            skipped.append(x)
            x = down(F.max_pool2d(x, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skipped.pop(), up(x)], dim=1))
        return self.head(x)

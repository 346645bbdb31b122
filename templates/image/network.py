"""The network: a plain `nn.Module`, from pixels to scores. Replace it by yours."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Add a learned share of two convolutions to the input, channel by channel.

    The residual branch is that of He et al. 2016 (arXiv:1512.03385), its learned scale is LayerScale of
    Touvron et al. 2021 (arXiv:2103.17239). Input and output: (B, channels, H, W).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(channels, channels),
            nn.ReLU(),
            conv_norm(channels, channels),
        )
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.scale * self.branch(x))


class Network(nn.Module):
    """Score an image for each class, or predict a number, with a small residual network.

    Args:
        channels: Colour channels of an image.
        num_classes: Scores to return.
        target_scale: Mean and standard deviation of the numbers to predict; None for classes.
        width: Channels of the first stage; the second has twice as many at half the resolution.
        dropout: Share of the pooled features that training sets to zero.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        target_scale: list[float] | None = None,
        width: int = 32,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.channels = channels
        self.mean, self.std = target_scale or (0.0, 1.0)
        self.backbone = nn.Sequential(
            conv_norm(channels, width),
            nn.ReLU(),
            ResidualBlock(width),
            conv_norm(width, 2 * width, stride=2),
            nn.ReLU(),
            ResidualBlock(2 * width),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B, num_classes) for uint8 images (B, channels, H, W) of any size.

        They are those of classes, or a number in the units of the labels.
        """
        features = self.backbone(images / 127.5 - 1)  # (B, 2 * width, H / 2, W / 2)
        return self.mean + self.std * self.head(features.mean(dim=(2, 3)))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise of some size, to export the network with."""
        height, width = torch.randint(16, 64, (2,)).tolist()
        return torch.randint(256, (batch, self.channels, height, width), dtype=torch.uint8)


def conv_norm(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3×3 convolution that keeps the image size divided by `stride`, batch-normalised."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )

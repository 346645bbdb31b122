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

    Its stages halve the image and double the channels until at most four pixels a side are left. Most of the
    time of a convolution goes into the number of pixels, so there are residual blocks where at most 16 pixels
    a side are left, and large images are made coarser by the first convolution.

    Args:
        channels: Colour channels of an image.
        num_classes: Scores to return.
        size: Height and width of an image; the number of stages depends on it.
        target_scale: Mean and standard deviation of the numbers to predict; None for classes.
        mirror: Whether a mirror image shows the same. Then scores are, but for training, the mean of those of
            an image and its mirror image (Krizhevsky et al. 2012, doi:10.1145/3065386).
        width: Channels after the first convolution.
        dropout: Share of the pooled features that training sets to zero.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        size: list[int],
        target_scale: list[float] | None = None,
        mirror: bool = False,
        width: int = 24,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.channels = channels
        self.mirror = mirror
        self.mean, self.std = target_scale or (0.0, 1.0)
        stride = 1
        while min(size) >= 48 * stride:
            stride *= 2
        pixels = min(size) // stride
        layers = [conv_norm(channels, width, kernel_size=2 * stride + 1, stride=stride), nn.ReLU()]
        if pixels <= 16:
            layers.append(ResidualBlock(width))
        while pixels > 4:
            layers += [conv_norm(width, 2 * width, stride=2), nn.ReLU()]
            width *= 2
            pixels = (pixels + 1) // 2
            if pixels <= 16:
                layers.append(ResidualBlock(width))
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B, num_classes) for uint8 images (B, channels, H, W) of any size.

        They are those of classes, or a number in the units of the labels.
        """
        scores = self.score(images)
        if self.mirror and not self.training:
            scores = (scores + self.score(images.flip(3))) / 2
        return scores

    def score(self, images: Tensor) -> Tensor:
        """Return the scores of images as they are."""
        features = self.backbone(images / 127.5 - 1)  # (B, channels, H', W')
        return self.mean + self.std * self.head(features.mean(dim=(2, 3)))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise of some size, to export the network with."""
        height, width = torch.randint(16, 64, (2,)).tolist()
        return torch.randint(256, (batch, self.channels, height, width), dtype=torch.uint8)


def conv_norm(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the image size divided by `stride`, batch-normalised."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )

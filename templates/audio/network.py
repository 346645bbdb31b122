"""The network: a plain `nn.Module`, from the samples of a sound to scores. Replace it by yours."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RANGE = 8.0  # of the logarithm of power that is heard, down from the loudest: 35 dB


class LogMel(nn.Module):
    """Turn samples (B, T) into the logarithm of their power in mel bands: (B, 1, bands, frames).

    Windows of about 32 ms overlap by half; the bands are the triangles of Davis & Mermelstein 1980
    (doi:10.1109/TASSP.1980.1163420), equally wide on O'Shaughnessy's mel scale.
    """

    def __init__(self, rate: int, bands: int):
        super().__init__()
        self.window_size = 2 ** round(math.log2(0.032 * rate))
        self.hop = self.window_size // 2
        self.window = nn.Buffer(torch.hann_window(self.window_size), persistent=False)
        self.filters = nn.Buffer(mel_filters(rate, bands, self.window_size), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        spectrum = torch.stft(
            samples,
            self.window_size,
            self.hop,
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )  # (B, window_size / 2 + 1, frames)
        power = self.filters @ spectrum.abs().square()  # (B, bands, frames)
        return (power + 1e-6).log().unsqueeze(1)


class ResidualBlock(nn.Module):
    """Add a learned share of two convolutions to the input, channel by channel: (B, channels, bands, frames).

    The residual branch is that of He et al. 2016 (arXiv:1512.03385), its learned scale is LayerScale of
    Touvron et al. 2021 (arXiv:2103.17239).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = conv_norm(channels, channels)
        self.second = conv_norm(channels, channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        inner = F.relu(self.first(x)) * mask
        return F.relu(x + self.scale * self.second(inner)) * mask


class Backbone(nn.Module):
    """Turn samples (B, T), of which the first lengths (B,) count, into features (B, 4 * width)."""

    def __init__(self, rate: int, bands: int, width: int):
        super().__init__()
        self.spectrogram = LogMel(rate, bands)
        self.first = conv_norm(1, width, kernel_size=5, stride=2)
        self.second = conv_norm(width, 2 * width, stride=2)
        self.block = ResidualBlock(2 * width)

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        x = self.spectrogram(samples)  # (B, 1, bands, frames)
        frames = torch.arange(x.shape[3], device=x.device)
        mask = frames <= lengths[:, None] // self.spectrogram.hop  # (B, frames)
        mask = mask[:, None, None]  # (B, 1, 1, frames)
        floor = x.amax(dim=(1, 2, 3), keepdim=True) - RANGE
        x = torch.maximum(x, floor)  # the noise of a recording says nothing of what is recorded
        loudness = average(x.mean(dim=2, keepdim=True), mask)  # (B, 1)
        x = (x - loudness[..., None, None]) * mask
        mask = mask[..., ::2]
        x = F.relu(self.first(x)) * mask  # (B, width, bands / 2, frames / 2)
        mask = mask[..., ::2]
        x = F.relu(self.second(x)) * mask  # (B, 2 * width, bands / 4, frames / 4)
        x = self.block(x, mask)
        bands = x.mean(dim=2, keepdim=True)
        return torch.cat([average(bands, mask), bands.amax(dim=(2, 3))], dim=1)


class Network(nn.Module):
    """Score a sound for each class, or predict a number, with a small residual network on its spectrogram.

    Args:
        rate: Samples a second.
        num_classes: Scores to return.
        target_scale: Mean and standard deviation of the numbers to predict; None for classes.
        bands: Mel bands of the spectrogram.
        width: Channels after the first convolution; the others have twice as many.
        dropout: Share of the pooled features that training sets to zero.
    """

    def __init__(
        self,
        rate: int,
        num_classes: int,
        target_scale: list[float] | None = None,
        bands: int = 40,
        width: int = 32,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.rate = rate
        self.mean, self.std = target_scale or (0.0, 1.0)
        self.backbone = Backbone(rate, bands, width)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * width, num_classes))

    def forward(self, sounds: tuple[Tensor, Tensor]) -> Tensor:
        """Return scores (B, num_classes) for samples (B, T), of which the first lengths (B,) count.

        They are those of classes, or a number in the units of the labels.
        """
        samples, lengths = sounds
        return self.mean + self.std * self.head(self.backbone(samples, lengths))

    def example_input(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return a batch of noise of random lengths, to export the network with."""
        lengths = torch.randint(1, self.rate, (batch,))
        samples = torch.randn(batch, int(lengths.max()))
        inside = torch.arange(samples.shape[1]) < lengths[:, None]
        return samples * inside, lengths


def average(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over frames that are no padding: (B, channels)."""
    return (x * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3))


def mel_filters(rate: int, bands: int, window_size: int) -> Tensor:
    """Return triangular filters (bands, window_size / 2 + 1) that overlap by half."""
    highest = 2595 * math.log10(1 + rate / 2 / 700)  # mel
    edges = 700 * (10 ** (torch.linspace(0, highest, bands + 2) / 2595) - 1)  # Hz
    frequencies = torch.linspace(0, rate / 2, window_size // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def conv_norm(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps bands and frames divided by `stride`, batch-normalised."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size, stride=stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )

"""A small network. Paste your nn.Module here."""

from torch import Tensor, nn


class Network(nn.Module):
    """Return numbers (B, 1) for numbers (B, 1), with one hidden layer of `width` features."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

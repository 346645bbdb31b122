"""Blocks that each explain a part of the past and the future.

N-BEATS (Oreshkin et al. 2020, arXiv:1905.10437), with three blocks.
"""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Return what the block explains of the past, (B, past), and what follows from it, (B, future)."""

    def __init__(self, past: int, future: int, width: int):
        super().__init__()
        self.past = past
        self.layers = nn.Sequential(
            nn.Linear(past, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, past + future),
        )

    def forward(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        explained = self.layers(rest)
        return explained[:, : self.past], explained[:, self.past :]


class Network(nn.Module):
    """Predict how series go on.

    Args:
        past: Values that are seen.
        future: Values that are predicted.
        width: Features of the hidden layers.
        depth: Blocks.
    """

    def __init__(self, past: int, future: int, width: int = 256, depth: int = 3):
        super().__init__()
        self.future = future
        self.blocks = nn.ModuleList([Block(past, future, width) for _ in range(depth)])

    def forward(self, past: Tensor) -> Tensor:
        """Return (B, future) for (B, past). Each series is seen relative to its own mean and scale."""
        mean = past.mean(dim=1, keepdim=True)
        scale = past.std(dim=1, keepdim=True) + 1e-6
        rest = (past - mean) / scale
        future = torch.zeros(len(past), self.future, device=past.device)
        for block in self.blocks:
            explained, follows = block(rest)
            rest = rest - explained
            future = future + follows
        return mean + scale * future

"""A small GPT: blocks of causal self-attention and two linear layers, normalised before each.

Radford et al. 2019, "Language models are unsupervised multitask learners"; the shape is that of nanoGPT.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Self-attention that sees what came before, and a network for each place: (B, T, width) → the same."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.layers_norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def attention(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.projection(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.layers(self.layers_norm(x))


class Network(nn.Module):
    """Score the character that comes next, at each place of a text.

    Args:
        characters: How many characters there are.
        length: The longest text.
        width: Features of a character.
        depth: Blocks.
        heads: Heads of the attention.
        dropout: Share of features that training sets to zero.
    """

    def __init__(self, characters: int, length: int, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head.weight = self.embedding.weight  # as in Press & Wolf 2017 (arXiv:1608.05859)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores (B, T, characters) for tokens (B, T), at most `length` of them."""
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))

"""The network: a plain `nn.Module`, from the bytes of a text to class scores. Replace it by yours."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

END = 256  # stands before and after a text, where bytes are 0 to 255
LONGEST = 5  # bytes of the longest n-gram
PRIME = 2**31 - 1


class GatedConv(nn.Module):
    """Add to each byte what a gated convolution sees around it.

    Gates are those of Dauphin et al. 2017 (arXiv:1612.08083). Input, output: (B, L, width); mask: (B, L, 1).
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, 2 * width, kernel_size=5, padding=2)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        seen = self.norm(x) * mask  # what is padded looks like the end of the text
        gated = F.glu(self.conv(seen.mT), dim=1)  # (B, width, L)
        return x + self.out(gated.mT)


class NGrams(nn.Module):
    """Add up learned vectors of all runs of one to five bytes, start and end of the text among them.

    This is fastText (Joulin et al. 2017, arXiv:1607.01759): there are so many that they share vectors, by a
    hash. Input: bytes (B, L); output: (B, width).
    """

    def __init__(self, buckets: int, width: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(buckets, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        buckets = self.embedding.num_embeddings
        started = F.pad(tokens, (1, 0), value=END)
        marked = F.pad(started, (0, LONGEST))
        places = torch.arange(tokens.shape[1] + 2, device=tokens.device)
        end = (tokens > 0).sum(dim=1, keepdim=True) + 1  # (B, 1)
        hashes = torch.zeros_like(places)
        found = []
        inside = []
        for n in range(LONGEST):  # the hashes of all n-grams of n + 1 bytes, from those of n
            hashes = (hashes * 257 + marked[:, n : n + len(places)]) % PRIME  # (B, L + 2)
            found.append(hashes * 48271 % PRIME % buckets)
            inside.append(places + n <= end)
        vectors = self.embedding(torch.cat(found, dim=1))  # (B, 5 * (L + 2), width)
        shares = self.dropout(torch.cat(inside, dim=1).to(vectors.dtype))  # (B, 5 * (L + 2))
        total = shares.unsqueeze(1) @ vectors  # (B, 1, width)
        return self.norm(total.squeeze(1))


class Backbone(nn.Module):
    """Turn bytes (B, L), where 0 is padding, into features of the text: (B, 3 * width)."""

    def __init__(self, max_length: int, width: int, depth: int, buckets: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.position = nn.Parameter(0.02 * torch.randn(max_length, width))
        self.layers = nn.ModuleList(GatedConv(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.ngrams = NGrams(buckets, width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens > 0).unsqueeze(2)  # (B, L, 1)
        x = self.dropout(self.embedding(tokens) + self.position[: tokens.shape[1]])  # (B, L, width)
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        mean = (x * mask).sum(dim=1) / mask.sum(dim=1)
        largest = x.masked_fill(~mask, float("-inf")).amax(dim=1)
        return self.dropout(torch.cat([mean, largest, self.ngrams(tokens)], dim=1))


class Network(nn.Module):
    """Score a text by convolutions over its bytes, as Zhang et al. 2015 (arXiv:1509.01626), and its n-grams.

    Args:
        num_classes: Scores to return.
        max_length: Bytes of the longest text.
        width: Features of each byte.
        depth: Gated convolutions, each over five bytes.
        buckets: Vectors that the n-grams share.
        dropout: Share of the features that training sets to zero, and of the n-grams that it leaves out.
    """

    def __init__(
        self,
        num_classes: int,
        max_length: int = 256,
        width: int = 64,
        depth: int = 1,
        buckets: int = 50_000,
        dropout: float = 0.4,
    ):
        super().__init__()
        self.max_length = max_length
        self.backbone = Backbone(max_length, width, depth, buckets, dropout)
        self.head = nn.Linear(3 * width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return class scores (B, num_classes) for bytes (B, L), where 0 is padding."""
        return self.head(self.backbone(tokens))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise of some length, to export the network with."""
        length = int(torch.randint(1, self.max_length + 1, ()))
        return torch.randint(1, 256, (batch, length))

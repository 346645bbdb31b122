"""The network: a plain `nn.Module`, from the bytes of a text to class scores. Replace it by yours."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

END = 256  # stands before and after a text, where bytes are 0 to 255
LONGEST = 5  # bytes of the longest n-gram
LONGEST_WORD = 16  # bytes by which words are told apart
WORD_SHARE = 4.0  # how much the vector of a whole word counts, beside those of its n-grams
PRIME = 2**31 - 1
FIRST = 8  # words that are known by their place as well


def find_words(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return which bytes start a word, and which continue one, bool (B, L), for texts in lower case.

    A word is a run of letters and digits. Chinese and Japanese are written without spaces: each of their
    characters is a word. A text of L bytes has at most L / 2 + 1 words.
    """
    digit = (tokens >= ord("0")) & (tokens <= ord("9"))
    latin = (tokens >= ord("a")) & (tokens <= ord("z"))
    other = tokens >= 128  # UTF-8 spells all letters that are not ASCII with such bytes
    letter = digit | latin | other
    after_letter = F.pad(letter[:, :-1], (1, 0))
    ideograph = (tokens >= 0xE3) & (tokens <= 0xE9)  # the first of its three bytes
    starts = (letter & ~after_letter) | ideograph
    return starts, letter & ~starts


class WordVectors(nn.Module):
    """Add up, for each word, its learned vector and those of all runs of one to five bytes that start in it.

    So Bojanowski et al. 2017 (arXiv:1607.04606) spell words that were not seen in training. Here the runs go
    on into the next word, which tells how it begins. There are so many different words and runs that they
    share vectors, by a hash.
    """

    def __init__(self, buckets: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(buckets, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors of words (B, W, width), and whether a text has so many, bool (B, W, 1).

        Word 0 is what stands before the first one; signs and spaces belong to the word before them.
        """
        length = tokens.shape[1]
        buckets = self.embedding.num_embeddings
        capital = (tokens >= ord("A")) & (tokens <= ord("Z"))
        lower = tokens + 32 * capital
        starts, continues = find_words(lower)
        followed = F.pad(lower, (0, LONGEST_WORD))
        continued = F.pad(continues, (0, LONGEST_WORD))
        within = starts  # whether the run that begins at a byte is the beginning of a word
        whole = torch.zeros_like(tokens)
        hashes = torch.zeros_like(tokens)
        found = []
        shares = []
        for n in range(LONGEST_WORD):  # the hashes of all runs of n + 1 bytes, from those of n
            last = followed[:, n : n + length]  # (B, L)
            hashes = (hashes * 257 + last) % PRIME
            if n > 0:
                within = within & continued[:, n : n + length]
            whole = torch.where(within, hashes, whole)
            if n < LONGEST:
                found.append(hashes * 48271 % PRIME % buckets)
                shares.append((last > 0).float())
        found.append(whole * 69621 % PRIME % buckets)
        shares.append(WORD_SHARE * starts)
        vectors = self.embedding(torch.stack(found, dim=2))  # (B, L, 6, width)
        weights = torch.stack(shares, dim=2).to(vectors.dtype)  # (B, L, 6)
        at_bytes = weights.unsqueeze(2) @ vectors  # (B, L, 1, width)
        number = starts.cumsum(dim=1)  # of the word that a byte belongs to
        words = torch.arange(length // 2 + 2, device=tokens.device)
        belongs = words.unsqueeze(1) == number.unsqueeze(1)  # (B, W, L)
        summed = belongs.to(vectors.dtype) @ at_bytes.squeeze(2)  # (B, W, width)
        mask = words <= number[:, -1:]  # (B, W)
        return self.norm(summed), mask.unsqueeze(2)


class NGrams(nn.Module):
    """Add up learned vectors of all runs of one to five bytes of a text, its start and end among them.

    This is fastText (Joulin et al. 2017, arXiv:1607.01759), which needs no words: it tells languages apart.
    Input: bytes (B, L); output: (B, width).
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
        for n in range(LONGEST):
            hashes = (hashes * 257 + marked[:, n : n + len(places)]) % PRIME  # (B, L + 2)
            found.append(hashes * 48271 % PRIME % buckets)
            inside.append(places + n <= end)
        vectors = self.embedding(torch.cat(found, dim=1))  # (B, 5 * (L + 2), width)
        shares = self.dropout(torch.cat(inside, dim=1).to(vectors.dtype))  # (B, 5 * (L + 2))
        total = shares.unsqueeze(1) @ vectors  # (B, 1, width)
        return self.norm(total.squeeze(1))


class Backbone(nn.Module):
    """Turn bytes (B, L), where 0 is padding, into features of the text: (B, 2 * width + 3 * channels).

    They are those of its n-grams, the mean of its words (Iyyer et al. 2015, doi:10.3115/v1/P15-1162, with
    their word dropout), and the largest values of convolutions over one, two and three words (Kim 2014,
    arXiv:1408.5882).
    """

    def __init__(self, buckets: int, width: int, channels: int, dropout: float, word_dropout: float):
        super().__init__()
        self.ngrams = NGrams(buckets, width, dropout)
        self.words = WordVectors(buckets, width)
        self.position = nn.Parameter(0.02 * torch.randn(FIRST, width))
        self.convs = nn.ModuleList(nn.Conv1d(width, channels, size) for size in (1, 2, 3))
        self.word_dropout = nn.Dropout(word_dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        x, mask = self.words(tokens)  # (B, W, width), (B, W, 1)
        count = x.shape[1]
        position = F.pad(self.position, (0, 0, 0, count))[:count]
        kept = self.word_dropout(mask.to(x.dtype))
        x = (x + position) * kept
        features = [self.ngrams(tokens), x.sum(dim=1) / mask.sum(dim=1)]
        for more, conv in enumerate(self.convs):  # words that it sees beside one
            padded = F.pad(x.mT, (more // 2, more - more // 2))
            seen = F.relu(conv(padded)) * mask.mT  # (B, channels, W)
            features.append(seen.amax(dim=2))
        return self.dropout(torch.cat(features, dim=1))


class Network(nn.Module):
    """Score a text by its n-grams, and by its words: by their mean, and by convolutions over neighbours.

    Args:
        num_classes: Scores to return.
        max_length: Bytes of the longest text.
        width: Features of each word.
        channels: Features of each convolution.
        buckets: Vectors that the n-grams share.
        dropout: Share of the features of a text that training sets to zero, and of the n-grams it leaves out.
        word_dropout: Share of the words that training leaves out.
    """

    def __init__(
        self,
        num_classes: int,
        max_length: int = 256,
        width: int = 64,
        channels: int = 64,
        buckets: int = 50_000,
        dropout: float = 0.4,
        word_dropout: float = 0.1,
    ):
        super().__init__()
        self.max_length = max_length
        self.backbone = Backbone(buckets, width, channels, dropout, word_dropout)
        self.head = nn.Linear(2 * width + 3 * channels, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return class scores (B, num_classes) for bytes (B, L), where 0 is padding."""
        return self.head(self.backbone(tokens))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise of some length, to export the network with."""
        length = int(torch.randint(1, self.max_length + 1, ()))
        return torch.randint(1, 256, (batch, length))

"""The network: a plain `nn.Module`, from the cells of a row to scores. Replace it by yours."""

import math

import torch
from torch import Tensor, nn


class Numbers(nn.Module):
    """Turn each number into a vector that may bend at the edges of bins: (B, numbers) to (B, numbers, width).

    These are the piecewise-linear embeddings of Gorishniy et al. 2022 (arXiv:2203.05556). A number fills all
    bins below it, and its own in part; the vector is a weighted sum of how full each bin is. These weights
    start at zero, beside a plain linear function of the standardised number. Numbers far out are drawn in, to
    three standard deviations at most, as in Holzmüller et al. 2024 (arXiv:2407.04491).
    """

    def __init__(self, columns: list[dict], width: int):
        super().__init__()
        bins = max([1] + [len(column["edges"]) - 1 for column in columns])
        lower = torch.full((len(columns), bins), math.inf)  # columns with fewer bins never fill the others
        size = torch.ones(len(columns), bins)
        for place, column in enumerate(columns):
            edges = torch.tensor(column["edges"])
            lower[place, : len(edges) - 1] = edges[:-1]
            size[place, : len(edges) - 1] = edges.diff()
        self.lower = nn.Buffer(lower, persistent=False)  # of these data, not learned
        self.size = nn.Buffer(size, persistent=False)
        self.mean = nn.Buffer(torch.tensor([column["mean"] for column in columns]), persistent=False)
        self.std = nn.Buffer(torch.tensor([column["std"] for column in columns]), persistent=False)
        self.bends = nn.Parameter(torch.zeros(len(columns), bins, width))
        self.slope = nn.Parameter(torch.empty(len(columns), width).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(len(columns), width).uniform_(-1, 1))

    def forward(self, numbers: Tensor) -> Tensor:
        filled = ((numbers.unsqueeze(2) - self.lower) / self.size).clamp(0, 1)  # (B, numbers, bins)
        bent = torch.einsum("bnk,nkw->bnw", filled, self.bends)
        scaled = (numbers - self.mean) / self.std
        scaled = scaled / (1 + (scaled / 3).square()).sqrt()
        return bent + scaled.unsqueeze(2) * self.slope + self.bias


class Columns(nn.Module):
    """Turn a row into features: vectors for numbers and for texts, and a mark for a missing number.

    Vectors for texts are those of Guo & Berkhahn 2016 (arXiv:1604.06737). The mean stands for a missing
    number, and where training has some, a feature says so. Input: (B, columns), numbers first; output:
    (B, features).
    """

    def __init__(self, columns: list[dict], number_width: int, category_width: int, category_dropout: float):
        super().__init__()
        numbers = [column for column in columns if "mean" in column]
        categories = [column for column in columns if "values" in column]
        if numbers + categories != columns:
            raise ValueError("columns of numbers must come before columns of texts")
        gaps = [place for place, column in enumerate(numbers) if column.get("missing")]
        self.gaps = nn.Buffer(torch.tensor(gaps, dtype=torch.long), persistent=False)
        self.count = len(numbers)
        self.numbers = Numbers(numbers, number_width)
        self.embeddings = nn.ModuleList()
        for column in categories:
            places = len(column["values"]) + 1  # and one for others
            self.embeddings.append(nn.Embedding(places, category_width))
        self.category_dropout = category_dropout
        self.features = number_width * len(numbers) + len(gaps) + category_width * len(categories)

    def forward(self, rows: Tensor) -> Tensor:
        numbers = rows[:, : self.count]
        missing = numbers.isnan()
        numbers = torch.where(missing, self.numbers.mean, numbers)
        parts = [self.numbers(numbers).flatten(1), missing[:, self.gaps].to(rows.dtype)]
        places = rows[:, self.count :].long()  # (B, columns of texts)
        if self.training and self.category_dropout > 0:
            # So that the vector for others is learned: it serves values that training has never seen.
            kept = torch.rand(places.shape, device=places.device) >= self.category_dropout
            places = places * kept
        for place, embedding in enumerate(self.embeddings):
            parts.append(embedding(places[:, place]))
        return torch.cat(parts, dim=1)


class Backbone(nn.Module):
    """Turn a row (B, columns) into features for each member of an ensemble: (B, members, width).

    It is TabM-mini of Gorishniy et al. 2025 (arXiv:2410.24210): members share these layers, and differ in the
    scale that each gives to what it sees of a row. They overfit less than as many separate networks.
    """

    def __init__(self, columns: Columns, members: int, width: int, depth: int, dropout: float):
        super().__init__()
        self.columns = columns
        signs = 2.0 * torch.randint(2, (members, columns.features)) - 1  # so members start far apart
        self.scale = nn.Parameter(signs)
        self.layers = nn.Sequential()
        size = columns.features
        for _ in range(depth):
            self.layers.append(nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Dropout(dropout)))
            size = width
        self.features = size

    def forward(self, rows: Tensor) -> Tensor:
        x = self.columns(rows).unsqueeze(1)  # (B, 1, features)
        return self.layers(x * self.scale)


class Head(nn.Module):
    """A linear layer for each member: (B, members, features) to (B, members, num_classes)."""

    def __init__(self, members: int, features: int, num_classes: int):
        super().__init__()
        bound = features**-0.5
        self.weight = nn.Parameter(torch.empty(members, features, num_classes).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bmf,mfc->bmc", x, self.weight) + self.bias


class Network(nn.Module):
    """Score a row for each class, or predict a number: the mean of an ensemble whose members share layers.

    Args:
        columns: What is known of each column, numbers first: its name; mean, std and edges of bins, or
            the values of a text.
        num_classes: Scores to return; 1 for a number.
        target_scale: Mean and standard deviation of the numbers to predict; scores of classes have 0 and 1.
        members: Networks in the ensemble.
        width: Features of each layer.
        depth: Hidden layers.
        number_width: Features of each column of numbers.
        category_width: Features of each column of texts.
        category_dropout: Share of the texts that training replaces by "another", which it knows nothing of.
        dropout: Share of the features that training sets to zero.
    """

    def __init__(
        self,
        columns: list[dict],
        num_classes: int,
        target_scale: list[float],
        members: int = 8,
        width: int = 256,
        depth: int = 2,
        number_width: int = 12,
        category_width: int = 8,
        category_dropout: float = 0.01,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.columns = columns
        self.num_classes = num_classes
        self.mean, self.std = target_scale
        features = Columns(columns, number_width, category_width, category_dropout)
        self.backbone = Backbone(features, members, width, depth, dropout)
        self.head = Head(members, self.backbone.features, num_classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Return scores for rows (B, columns), in the units of the targets: (B, num_classes).

        In training they are those of each member, (B, num_classes, members), so that each learns by itself.
        Otherwise they are the mean of the members' numbers, or the logarithm of that of their probabilities.
        """
        scores = self.mean + self.std * self.head(self.backbone(rows))  # (B, members, num_classes)
        if self.training:
            return scores.mT
        if self.num_classes == 1:
            return scores.mean(dim=1)
        return scores.log_softmax(dim=2).logsumexp(dim=1) - math.log(scores.shape[1])

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise, to export the network with."""
        cells = []
        for column in self.columns:
            if "mean" in column:
                cells.append(torch.normal(column["mean"], column["std"], (batch,)))
            else:
                cells.append(torch.randint(len(column["values"]) + 1, (batch,)).float())
        return torch.stack(cells, dim=1)

"""The network: a plain `nn.Module`, from the cells of a row to scores. Replace it by yours."""

import torch
from torch import Tensor, nn


class Columns(nn.Module):
    """Turn a row into features: standardised numbers, and learned vectors for texts.

    Numbers far out are drawn in, to three standard deviations at most, and each feature has a learned scale,
    as in Holzmüller et al. 2024 (arXiv:2407.04491); vectors for texts are those of Guo & Berkhahn 2016
    (arXiv:1604.06737). The mean stands for a missing number, and where training has some, a feature says so.
    Input: (B, columns), numbers first; output: (B, features).
    """

    def __init__(self, columns: list[dict], category_width: int, category_dropout: float):
        super().__init__()
        numbers = [column for column in columns if "mean" in column]
        categories = [column for column in columns if "values" in column]
        if numbers + categories != columns:
            raise ValueError("columns of numbers must come before columns of texts")
        self.numbers = len(numbers)
        mean = torch.tensor([column["mean"] for column in numbers])
        std = torch.tensor([column["std"] for column in numbers])
        gaps = [place for place, column in enumerate(numbers) if column.get("missing")]
        self.mean = nn.Buffer(mean, persistent=False)  # of these data, not learned
        self.std = nn.Buffer(std, persistent=False)
        self.gaps = nn.Buffer(torch.tensor(gaps, dtype=torch.long), persistent=False)
        self.embeddings = nn.ModuleList()
        for column in categories:
            places = len(column["values"]) + 1  # and one for others
            self.embeddings.append(nn.Embedding(places, category_width))
        self.category_dropout = category_dropout
        self.features = self.numbers + len(gaps) + category_width * len(categories)
        self.scale = nn.Parameter(torch.ones(self.features))

    def forward(self, rows: Tensor) -> Tensor:
        numbers = (rows[:, : self.numbers] - self.mean) / self.std
        missing = numbers.isnan()
        numbers = numbers.masked_fill(missing, 0.0)
        parts = [numbers / (1 + (numbers / 3).square()).sqrt(), missing[:, self.gaps].to(numbers.dtype)]
        places = rows[:, self.numbers :].long()  # (B, columns of texts)
        if self.training and self.category_dropout > 0:
            # So that the vector for others is learned: it serves values that training has never seen.
            kept = torch.rand(places.shape, device=places.device) >= self.category_dropout
            places = places * kept
        for place, embedding in enumerate(self.embeddings):
            parts.append(embedding(places[:, place]))
        return self.scale * torch.cat(parts, dim=1)


class Backbone(nn.Module):
    """Turn a row (B, columns) into the features of its cells, and those that hidden layers make of them."""

    def __init__(
        self,
        columns: list[dict],
        width: int,
        depth: int,
        category_width: int,
        category_dropout: float,
        dropout: float,
    ):
        super().__init__()
        self.columns = Columns(columns, category_width, category_dropout)
        self.layers = nn.Sequential()
        size = self.columns.features
        for _ in range(depth):
            self.layers.append(
                nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(dropout))
            )
            size = width
        self.features = self.columns.features + size

    def forward(self, rows: Tensor) -> Tensor:
        x = self.columns(rows)
        return torch.cat([x, self.layers(x)], dim=1)  # (B, features)


class Network(nn.Module):
    """Score a row for each class, or predict a number: a linear model plus hidden layers.

    Both learn together, as those of Cheng et al. 2016 (arXiv:1606.07792); their first scores are small.

    Args:
        columns: What is known of each column, numbers first: its name, and mean and std, or the values of a
            text.
        num_classes: Scores to return.
        target_scale: Mean and standard deviation of the numbers to predict; scores of classes have 0 and 1.
        width: Features of each layer.
        depth: Hidden layers.
        category_width: Features of each column of texts.
        category_dropout: Share of the texts that training replaces by "another", which it knows nothing of.
        dropout: Share of the features that training sets to zero.
    """

    def __init__(
        self,
        columns: list[dict],
        num_classes: int,
        target_scale: list[float],
        width: int = 32,
        depth: int = 1,
        category_width: int = 8,
        category_dropout: float = 0.05,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.columns = columns
        self.mean, self.std = target_scale
        self.backbone = Backbone(columns, width, depth, category_width, category_dropout, dropout)
        self.head = nn.Linear(self.backbone.features, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, rows: Tensor) -> Tensor:
        """Return scores (B, num_classes) for rows (B, columns), in the units of the targets."""
        return self.mean + self.std * self.head(self.backbone(rows))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise, to export the network with."""
        cells = []
        for column in self.columns:
            if "mean" in column:
                cells.append(torch.normal(column["mean"], column["std"], (batch,)))
            else:
                cells.append(torch.randint(len(column["values"]) + 1, (batch,)).float())
        return torch.stack(cells, dim=1)

"""The reference: training written by hand in plain PyTorch, for a network and data in memory."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Examples = tuple[Tensor, Tensor]  # inputs (N, ...) and labels (N,)


def fit(
    network: nn.Module, train: Examples, val: Examples, best: Path, options: dict
) -> list[dict[str, float]]:
    """Train with AdamW, warm-up and cosine; keep the weights of the lowest validation loss; stop early.

    Returns the losses and accuracies of each epoch. They are read from the device once an epoch.
    """
    epochs, batch_size, smoothing = options["max_epochs"], options["batch_size"], options["label_smoothing"]
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options["lr"], weight_decay=options["weight_decay"]
    )
    total = len(train[1]) // batch_size * epochs
    warmup = max(1, round(options["warmup"] * total))
    step, lowest, waited, history = 0, math.inf, 0, []
    for _ in range(epochs):
        network.train()
        loss_sum, correct, seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for indices in shuffled(len(train[1])).split(batch_size):
            if len(indices) < batch_size:
                break
            x, y = train[0][indices], train[1][indices]
            optimizer.param_groups[0]["lr"] = options["lr"] * factor(step, warmup, total)
            logits = network(x)
            loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(y)
            correct += (logits.argmax(dim=1) == y).sum()
            seen += len(y)
            step += 1
        val_loss, val_acc = evaluate(network, val, batch_size, smoothing)
        train_loss, train_acc = loss_sum.item() / seen, correct.item() / seen
        history.append(
            {"train/loss": train_loss, "train/acc": train_acc, "val/loss": val_loss, "val/acc": val_acc}
        )
        waited += 1
        if val_loss < lowest:
            lowest, waited = val_loss, 0
            torch.save(network.state_dict(), best)
        if waited == options["patience"]:
            break
    return history


@torch.no_grad()
def evaluate(network: nn.Module, val: Examples, batch_size: int, smoothing: float) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    network.eval()
    torch.empty((), dtype=torch.int64).random_()  # drawn by a DataLoader too: see `shuffled`
    loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    for x, y in zip(val[0].split(batch_size), val[1].split(batch_size), strict=True):
        logits = network(x)
        loss_sum += F.cross_entropy(logits, y, label_smoothing=smoothing) * len(y)
        correct += (logits.argmax(dim=1) == y).sum()
    return loss_sum.item() / len(val[1]), correct.item() / len(val[1])


def factor(step: int, warmup: int, total: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def shuffled(n: int) -> Tensor:
    """Return a random order by the draws of `DataLoader(shuffle=True)`, so that both see the same batches."""
    torch.empty((), dtype=torch.int64).random_()  # the DataLoader's seed for workers
    seed = int(torch.empty((), dtype=torch.int64).random_())
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))

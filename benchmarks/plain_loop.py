"""The reference: training written by hand in plain PyTorch, for any network and batches."""

import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batches = Iterable[tuple[Tensor, Tensor]]  # gone through once an epoch


def fit(
    network: nn.Module, train: Batches, val: Batches, steps: int, best: Path, options: dict
) -> list[dict[str, float]]:
    """Train with AdamW, warm-up and cosine; keep the weights of the lowest validation loss; stop early.

    Returns the losses and accuracies of each epoch, of `steps` steps. They are read once an epoch.
    """
    smoothing, device = options["label_smoothing"], next(network.parameters()).device
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options["lr"], weight_decay=options["weight_decay"], fused=options["fused"]
    )
    total = steps * options["max_epochs"]
    warmup = max(1, round(options["warmup"] * total))
    step, lowest, waited, history = 0, math.inf, 0, []
    for epoch in range(options["max_epochs"]):
        network.train()
        loss_sum, correct, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
        for number, (x, y) in enumerate(train):
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            seed("step", 0, epoch, number, 0)
            optimizer.param_groups[0]["lr"] = options["lr"] * factor(step, warmup, total)
            with torch.autocast(device.type, torch.bfloat16, enabled=options["bfloat16"]):
                logits = network(x)
                loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(y)
            correct += (logits.argmax(dim=1) == y).sum()
            seen += len(y)
            step += 1
        val_loss, val_acc = evaluate(network, val, options)
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
def evaluate(network: nn.Module, val: Batches, options: dict) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    network.eval()
    device = next(network.parameters()).device
    loss_sum, correct, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
    for x, y in val:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=options["bfloat16"]):
            logits = network(x)
            loss = F.cross_entropy(logits, y, label_smoothing=options["label_smoothing"])
        loss_sum += loss * len(y)
        correct += (logits.argmax(dim=1) == y).sum()
        seen += len(y)
    return loss_sum.item() / seen, correct.item() / seen


def factor(step: int, warmup: int, total: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class InMemory:
    """Batches of tensors in memory: all as they are, or shuffled and without a smaller last one."""

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int, shuffle: bool):
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size
        self.order = Order(len(labels)) if shuffle else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.order is None:
            yield from zip(
                self.inputs.split(self.batch_size), self.labels.split(self.batch_size), strict=True
            )
        else:
            for indices in self.order.draw().split(self.batch_size):
                if len(indices) == self.batch_size:
                    yield self.inputs[indices], self.labels[indices]


class Order:
    """A sampler that draws as the project does, so that both see the same batches."""

    def __init__(self, count: int):
        self.count, self.epoch = count, 0

    def draw(self) -> Tensor:
        seed("order", 0, "train", 0, self.epoch, 0, 0)
        self.epoch += 1
        drawn = int(torch.empty((), dtype=torch.int64).random_())
        return torch.randperm(self.count, generator=torch.Generator().manual_seed(drawn))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw().tolist())


def seed(*key: int | str) -> None:
    """Make what is drawn next, such as dropout, the same as in the project; it takes 3 µs."""
    torch.default_generator.manual_seed(zlib.crc32(repr(key).encode()))

"""An IterableDataset that draws as it reads: with or without a length or a state, read by some workers."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Stream(IterableDataset):
    def __init__(self, count: int):
        self.count = count

    def __iter__(self):
        worker = get_worker_info()
        first = worker.id if worker else 0
        step = worker.num_workers if worker else 1
        for number in range(first, self.count, step):
            yield torch.tensor([float(number), 1.0]) + torch.rand(2)


class SizedStream(Stream):
    """A length is given; it may promise more than there is."""

    def __init__(self, count: int, promised: int):
        super().__init__(count)
        self.promised = promised

    def __len__(self) -> int:
        return self.promised


class StatefulStream(Stream):
    """A stream that can be told where to begin, once, like those of Hugging Face; it counts what it reads."""

    def __init__(self, count: int):
        super().__init__(count)
        self.first = 0
        self.place = 0

    def __iter__(self):
        first = self.first
        self.first = 0
        for number in range(first, self.count):
            self.place = number + 1
            yield torch.tensor([float(number), 1.0]) + torch.rand(2)

    def state_dict(self) -> dict:
        return {"place": self.place}

    def load_state_dict(self, state_dict: dict) -> None:
        self.first = state_dict["place"]


class DataModule(LightningDataModule):
    def __init__(self, kind: str = "plain", num_workers: int = 0, batch_size: int | None = 4):
        super().__init__()
        self.kind = kind
        self.num_workers = num_workers
        self.batch_size = batch_size

    def setup(self, stage):
        streams = {
            "plain": Stream(22),
            "sized": SizedStream(22, promised=22),
            "too_long": SizedStream(22, promised=40),
            "stateful": StatefulStream(22),
        }
        self.stream = streams[self.kind]

    def train_dataloader(self):
        return DataLoader(self.stream, batch_size=self.batch_size, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(Stream(8), batch_size=4)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        self.log("mean", batch.mean())
        return self.net(batch / 20).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch / 20).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

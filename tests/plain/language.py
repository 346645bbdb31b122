"""A language model: dicts of tensors that are not contiguous, two loaders to validate on and two to test."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Text(Dataset):
    def __init__(self, count: int, seed: int):
        self.tokens = torch.randint(12, (count, 9), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index):
        return self.tokens[index]


def collate(rows):
    tokens = torch.stack(rows)  # (B, T + 1)
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "meta": {"kind": ["text"] * len(rows)}}


class DataModule(LightningDataModule):
    def loader(self, seed: int, count: int = 16, **options):
        return DataLoader(Text(count, seed), batch_size=4, collate_fn=collate, **options)

    def train_dataloader(self):
        return self.loader(0, shuffle=True)

    def val_dataloader(self):
        return [self.loader(1), self.loader(2, count=8)]

    def test_dataloader(self):
        return [self.loader(3), self.loader(4, count=8)]

    def predict_dataloader(self):
        return self.loader(5)


class Model(LightningModule):
    def __init__(self, width: int = 8):
        super().__init__()
        self.embedding = nn.Embedding(12, width)
        self.rnn = nn.GRU(width, width, batch_first=True, num_layers=2, dropout=0.2)
        self.head = nn.Linear(width, 12)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])  # (B, T, 12)

    def loss(self, batch):
        logits = self(batch["input_ids"])
        return F.cross_entropy(logits.transpose(1, 2), batch["labels"])

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss, "tokens": batch["labels"].numel()}

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        loss = self.loss(batch)
        self.log("test/loss", loss)
        return {"loss": loss}

    def predict_step(self, batch, batch_idx):
        return {"token": self(batch["input_ids"])[:, -1].argmax(dim=1), "length": batch["input_ids"].size(1)}

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)

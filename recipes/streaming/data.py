"""A table that is larger than the memory, or than the disk: read row by row, from Parquet files.

Hugging Face `datasets` reads them from a folder, a web address or the hub, without keeping them. A run that
stopped goes on at its row, without reading the rows before: the stream says where it is. That is exact
because rows come in the order of the files: shuffle them once, when you write them.
"""

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset as Table
from datasets import IterableDataset as Stream
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

COLUMNS = 8


def write_example(folder: Path, shards: int = 8, rows: int = 2000) -> None:
    """Write Parquet files of made-up rows: columns x0 to x7, and a label that depends on their sum."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for shard in range(shards):
        x = random.normal(size=(rows, COLUMNS)).astype(np.float32)
        label = (x.sum(axis=1) + random.normal(size=rows) > 0).astype(np.int64)
        columns = {f"x{column}": x[:, column] for column in range(COLUMNS)}
        part = "val" if shard == 0 else "train"
        Table.from_dict({**columns, "label": label}).to_parquet(folder / f"{part}-{shard:05}.parquet")


class DataModule(LightningDataModule):
    """Rows of Parquet files called train-*.parquet and val-*.parquet.

    Args:
        path: Their folder, or web address; null: an example is written into data/stream.
        batch_size: Rows in a batch, on each device.
        num_workers: Processes that read; each reads files of its own.
    """

    def __init__(self, path: str | None = None, batch_size: int = 64, num_workers: int = 2):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.folder = path or "data/stream"

    def prepare_data(self) -> None:
        """Lightning calls this in one process only."""
        if self.hparams.path is None and not Path(self.folder).exists():
            write_example(Path(self.folder))

    def stream(self, part: str) -> Stream:
        """Return the share of this process of the rows of a part."""
        files = f"{self.folder}/{part}-*.parquet"
        rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
        if self.trainer is not None and self.trainer.world_size > 1:
            rows = split_dataset_by_node(rows, self.trainer.global_rank, self.trainer.world_size)
        return rows.with_format("torch")

    def train_dataloader(self) -> DataLoader:
        settings = self.hparams
        return DataLoader(
            self.stream("train"),
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            collate_fn=collate,
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.stream("val"), batch_size=self.hparams.batch_size, collate_fn=collate)

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()


def collate(rows: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return float32 (B, columns) and int64 labels (B,)."""
    inputs = []
    for row in rows:
        inputs.append(torch.stack([row[f"x{column}"] for column in range(COLUMNS)]))
    labels = torch.stack([row["label"] for row in rows])
    return torch.stack(inputs).float(), labels

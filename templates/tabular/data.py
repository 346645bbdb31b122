"""The data: rows of a table, split and loaded by a LightningDataModule. Replace them by yours."""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .harness.batches import balanced_sampler, check_batch_size, drops_last, worker_options
from .harness.errors import UserError
from .harness.files import files_in
from .harness.splits import (
    check_shares,
    class_names,
    class_numbers,
    deciles,
    fingerprint,
    share_out,
    warn_of_other_data,
)
from .harness.tables import (
    ENDINGS,
    TARGETS,
    column_values,
    find_column,
    read_table,
    read_tables,
    table_of,
)

if TYPE_CHECKING:
    from datasets import Dataset as Table


class TableDataset(Dataset):
    """Rows and their targets in memory, four bytes a cell.

    Args:
        rows: float32 (N, columns): a number, or the place of a category among the known ones,
            from 1, and 0 for others.
        targets: int64 classes or float32 numbers (N,); None for rows to predict on.
    """

    def __init__(self, rows: Tensor, targets: Tensor | None):
        self.rows = rows
        self.targets = targets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index) -> Tensor | tuple[Tensor, Tensor]:
        """Return a row (columns,), and its target if there are any."""
        if self.targets is None:
            return self.rows[index]
        return self.rows[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> Tensor | tuple[Tensor, Tensor]:
        """Return a whole batch, (B, columns) and (B,), by one indexing rather than B of them."""
        return self[torch.tensor(indices)]


class DataModule(LightningDataModule):
    """A table: scikit-learn's breast cancer (classes) or diabetes (numbers), or yours in `path`.

    Args:
        path: Your table: a CSV, JSON lines or Parquet file, a folder of them, or a name on the Hugging Face
            hub; null: the one that `dataset` names.
        dataset: Which table where `path` is null: 569 tumours, or the progress of 442 diabetics.
        target: Column to predict; null: the one called label, target, class or category.
        regression: Whether targets are numbers; null: if they have decimals.
        max_categories: Values of a column of texts that are told apart; rarer ones are all alike.
        val_share: Share of the rows to validate on, unless the data have a validation split.
        test_share: Share of the rows to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which rows are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Rows in a batch, on each device.
        num_workers: Processes that load batches; null: none, since the rows are in memory.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training rows so that all classes are equally frequent.
    """

    def __init__(
        self,
        path: str | None = None,
        dataset: Literal["breast_cancer", "diabetes"] = "breast_cancer",
        target: str | None = None,
        regression: bool | None = None,
        max_categories: int = 100,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        num_folds: int = 5,
        batch_size: int = 64,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool | None = None,
        drop_last: bool | None = None,
        timeout: float = 0.0,
        shuffle: bool = True,
        balanced: bool = False,
    ):
        super().__init__()
        check_shares(val_share, test_share, fold, num_folds)
        check_batch_size(batch_size)
        self.save_hyperparameters(logger=False)
        self.predict_set: Dataset | None = None

    def read(self) -> dict[str, tuple]:
        """Return the table without the targets, and the targets, of each split that the data have."""
        settings = self.hparams
        if settings.path is None:
            return {"train": built_in(settings.dataset)}
        examples: dict[str, tuple] = {}
        for split, table in read_tables(settings.path).items():
            target = find_column(table, settings.target, "target", TARGETS)
            for column in table.column_names:
                column_values(table, column, settings.path)  # none is missing
            examples[split] = table.remove_columns(target), column_values(table, target, settings.path)
        return examples

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """What `read` returns, for all of the splits "train", "val" and "test"."""
        settings = self.hparams
        examples = self.read()
        _, targets = examples["train"]
        strata = targets
        if self.is_regression(targets):
            for split, (_, values) in examples.items():
                check_numbers(values, split)
            strata = deciles(targets)
        return share_out(
            examples,
            strata=strata,
            val_share=settings.val_share,
            test_share=settings.test_share,
            seed=settings.split_seed,
            fold=settings.fold,
            num_folds=settings.num_folds,
        )

    def is_regression(self, targets: list) -> bool:
        """Return whether to predict numbers: as it is set, or else if the targets have decimals."""
        if self.hparams.regression is not None:
            return self.hparams.regression
        return isinstance(targets[0], float)

    @cached_property
    def facts(self) -> dict:
        """What the training rows say about how to treat others; it travels in the checkpoint."""
        table, targets = self.parts["train"]
        numbers = []
        categories = []
        for name in table.column_names:
            cells = table[name][:]
            if is_number(cells[0]):
                numbers.append(describe_numbers(name, cells))
            else:
                categories.append(describe_categories(name, cells, self.hparams.max_categories))
        # A category without frequent values is a name or number of its own in each row: it says nothing.
        columns = numbers + [column for column in categories if column["values"]]
        if self.is_regression(targets):
            classes = []
            target_scale = [float(np.mean(targets)), float(np.std(targets)) or 1.0]
        else:
            classes = class_names(targets)
            target_scale = [0.0, 1.0]
        return {
            "classes": classes,
            "columns": columns,
            "target_scale": target_scale,
            "fingerprint": fingerprint(self.parts),
        }

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores; none in a regression."""
        return self.facts["classes"]

    @property
    def columns(self) -> list[dict]:
        """What is known of each column, numbers first: name, and mean and std or the values of a category."""
        return self.facts["columns"]

    @property
    def target_scale(self) -> list[float]:
        """Mean and standard deviation of the training targets of a regression."""
        return self.facts["target_scale"]

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps of the data."""
        return self.facts

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the facts of the training; a run that goes on must find the same in the data."""
        if "facts" in vars(self) and self.facts != state_dict:
            raise UserError("the data or their split changed since the run was started; start a new run")
        self.facts = state_dict

    def setup(self, stage: str) -> None:
        """Make the three data sets, once; prediction needs none of them."""
        if stage == "predict" or "train_set" in vars(self):
            return
        warn_of_other_data(self.parts, self.facts["fingerprint"])
        self.train_set = self.dataset("train")
        self.val_set = self.dataset("val")
        self.test_set = self.dataset("test")

    def dataset(self, split: str) -> TableDataset:
        """Return the rows of a split."""
        table, values = self.parts[split]
        rows = self.encode(table, self.hparams.path)
        if self.classes:
            targets = torch.tensor(class_numbers(values, self.classes, split))
        else:
            targets = torch.tensor(values, dtype=torch.float32)
        return TableDataset(rows, targets)

    def encode(self, table: "Table", file: str | Path) -> Tensor:
        """Return the cells of the known columns as float32 (N, columns).

        Raises:
            UserError: If a column is missing, or a cell of it is missing or not a number.
        """
        encoded = []
        for column in self.columns:
            cells = column_values(table, column["name"], file)
            if "mean" in column:
                for row, cell in enumerate(cells, 1):
                    if isinstance(cell, str):
                        raise UserError(f"{file}, row {row}: {column['name']} is {cell}, not a number")
                encoded.append(torch.tensor(cells, dtype=torch.float32))
            else:
                places = {value: place for place, value in enumerate(column["values"], 1)}
                numbers = [places.get(str(cell), 0) for cell in cells]
                encoded.append(torch.tensor(numbers, dtype=torch.float32))
        return torch.stack(encoded, dim=1)

    @property
    def workers(self) -> dict:
        """How batches get to the device: num_workers, pin_memory and other options of each DataLoader."""
        settings = self.hparams
        return worker_options(
            self.trainer,
            in_memory=True,
            num_workers=settings.num_workers,
            pin_memory=settings.pin_memory,
            prefetch_factor=settings.prefetch_factor,
            persistent_workers=settings.persistent_workers,
            timeout=settings.timeout,
        )

    def train_dataloader(self) -> DataLoader:
        settings = self.hparams
        examples = len(self.train_set)
        sampler = None
        if settings.balanced:
            if not self.classes:
                raise UserError("data.balanced true is not possible: a regression has no classes")
            labels = class_numbers(self.parts["train"][1], self.classes, "train")
            sampler = balanced_sampler(labels)
        return DataLoader(
            self.train_set,
            batch_size=settings.batch_size,
            shuffle=settings.shuffle and not settings.balanced,
            sampler=sampler,
            drop_last=drops_last(settings.drop_last, examples, settings.batch_size, self.trainer),
            collate_fn=collate,
            **self.workers,
        )

    def val_dataloader(self) -> DataLoader:
        size = self.hparams.batch_size
        return DataLoader(self.val_set, batch_size=size, collate_fn=collate, **self.workers)

    def test_dataloader(self) -> DataLoader:
        size = self.hparams.batch_size
        return DataLoader(self.test_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_dataloader(self) -> DataLoader:
        if self.predict_set is None:
            raise UserError("there is nothing to predict on; give tables")
        size = self.hparams.batch_size
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take the rows of tables to predict on; return `file:row` of each.

        Raises:
            UserError: If a file, a column or a cell is missing.
        """
        names = []
        rows = []
        for path in paths:
            for file in files_in(path, ENDINGS):
                found = self.encode(read_table([file]), file)
                rows.append(found)
                names += [f"{file}:{row}" for row in range(1, len(found) + 1)]
        self.predict_set = TableDataset(torch.cat(rows), None)
        return names

    def test_example(self, index: int) -> dict:
        """Return a row of the test split, to look at."""
        table, _ = self.parts["test"]
        return table[index]


def collate(batch):
    """Stand in for `default_collate`, which would stack what `__getitems__` has indexed at once."""
    return batch


def built_in(name: str) -> tuple["Table", list]:
    """Return one of scikit-learn's tables, and its targets: names of classes or numbers."""
    if name == "diabetes":
        source = load_diabetes(scaled=False)
        targets = source.target
    else:
        source = load_breast_cancer()
        targets = source.target_names[source.target]
    columns = dict(zip(source.feature_names, source.data.T, strict=True))
    return table_of(columns), targets.tolist()


def is_number(cell) -> bool:
    """Return whether a cell is a number; True and False are categories."""
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def check_numbers(values: list, split: str) -> None:
    """Raise a UserError unless the targets of a regression are numbers."""
    if not is_number(values[0]):
        raise UserError(
            f"data.regression: the targets of split '{split}' are not numbers, but such as '{values[0]}'"
        )


def describe_numbers(name: str, cells: list) -> dict:
    """Return mean and standard deviation of a column of numbers."""
    return {"name": name, "mean": float(np.mean(cells)), "std": float(np.std(cells)) or 1.0}


def describe_categories(name: str, cells: list, most: int) -> dict:
    """Return the frequent values of a column of categories, those of at least two rows."""
    frequent = Counter(map(str, cells)).most_common(most)
    return {"name": name, "values": [value for value, count in frequent if count > 1]}

"""The data: rows of a table, split and loaded by a LightningDataModule. Replace them by yours."""

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from lightning import LightningDataModule
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .harness.batches import (
    balanced_sampler,
    check_batch_size,
    chosen_batch_size,
    drops_last,
    worker_options,
)
from .harness.columns import (
    choose_columns,
    describe,
    encode,
    kinds_of,
    leave_out,
    note_copies,
    note_unknown,
    strengths,
)
from .harness.errors import UserError
from .harness.kinds import find_kinds, read_kinds
from .harness.splits import (
    check_shares,
    class_numbers,
    deciles,
    fingerprint,
    known_classes,
    share_out,
    warn_of_other_data,
)
from .harness.tables import TARGETS, find_column, read_table, read_tables, table_files, texts_of
from .harness.targets import find_targets


class TableDataset(Dataset):
    """Rows and their targets in memory, four bytes a cell.

    Args:
        rows: float32 (N, columns): a number, NaN where it is missing, or the place of a text among the
            values of its column, from 1, and 0 for others.
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
        path: Your table: a CSV, TSV, JSON, Parquet or Excel file, a folder of them, or a name on the Hugging
            Face hub; null: the one that `dataset` names.
        dataset: Which table where `path` is null: 569 tumours, or the progress of 442 diabetics.
        target: Column to predict; null: the one called label, target, class or category.
        regression: Whether targets are numbers; null: if they have decimals, or are many whole numbers.
        separator: What is between two cells of a CSV file, such as ";" or "\\t"; null: it is recognised.
        decimal: Decimal sign, "." or ","; null: it is recognised.
        missing: Words or numbers that stand for a missing cell of numbers or dates, besides "?" and "NA".
        ignore: Columns to leave out.
        only: The only columns to learn from; null: all.
        categories: Columns of texts, even if they look like numbers: codes such as those of places.
        group: Column whose equal values stay together in one split, such as that of a patient.
        max_categories: Values of a column of texts that are told apart; rarer ones are all alike.
        val_share: Share of the rows to validate on, unless the data have a validation split.
        test_share: Share of the rows to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which rows are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Rows in a batch, on each device; null: 64, more in a large table, fewer in a small one.
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
        separator: str | None = None,
        decimal: Literal[".", ","] | None = None,
        missing: list[str | int | float] | None = None,
        ignore: list[str] | None = None,
        only: list[str] | None = None,
        categories: list[str] | None = None,
        group: str | None = None,
        max_categories: int = 100,
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        num_folds: int = 5,
        batch_size: int | None = None,
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
        self.predict_set: TableDataset | None = None
        self.notes: list[str] = []  # what was found in the data, and what was made of it
        self.kinds: dict[str, dict] = {}  # what the columns are, once they are read
        self.target = ""  # name of the column of targets

    @property
    def source(self) -> str:
        """What messages call the table."""
        return self.hparams.path or self.hparams.dataset

    def read(self) -> dict[str, pl.DataFrame]:
        """Return the table of each split that the data have."""
        settings = self.hparams
        if settings.path is None:
            return {"train": built_in(settings.dataset)}
        return read_tables(settings.path, separator=settings.separator, notes=self.notes)

    def read_examples(self) -> tuple[dict[str, pl.DataFrame], dict[str, tuple], list | None]:
        """Return the rows of each split, which of them have a target, with it, and the groups in training.

        In rows, numbers are Float64, dates Datetime and texts String; a missing cell is null. Out of a
        checkpoint, the columns are those of the training.
        """
        settings = self.hparams
        missing = [str(word) for word in settings.missing or []]
        categories = settings.categories or []
        tables = self.read()
        train = tables["train"]
        self.target = find_column(train, settings.target, "target", TARGETS)
        targets = find_targets(
            tables,
            self.target,
            self.source,
            regression=not self.classes if self.is_trained else settings.regression,
            decimal=settings.decimal,
            missing=missing,
            notes=self.notes,
        )
        groups = None
        if settings.group is not None:
            with_target, _ = targets["train"]
            column = find_column(train, settings.group, "group", [])
            groups = texts_of(train, column)[with_target].to_list()
            self.notes.append(f"{column} keeps rows together in one split, and is not learned from")
        if self.is_trained:
            self.kinds = kinds_of(self.columns)
        else:
            names = choose_columns(train, self.target, settings.ignore, settings.only, settings.group)
            del train  # or its texts would stay in memory beside the numbers
            kinds, tables["train"] = find_kinds(
                tables.pop("train").select(names),
                self.source,
                decimal=settings.decimal,
                missing=missing,
                categories=categories,
                notes=self.notes,
            )
            self.kinds = leave_out(tables["train"], kinds, categories, self.notes)
        rows = {}
        for split in targets:
            rows[split] = read_kinds(
                tables[split], self.kinds, self.source, missing=missing, notes=self.notes
            )
        return rows, targets, groups

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """The rows, and their targets, of the splits "train", "val" and "test"."""
        settings = self.hparams
        rows, targets, groups = self.read_examples()
        _, labels = targets["train"]
        strata = labels if isinstance(labels, list) else deciles(labels).tolist()
        shared = share_out(
            targets,
            strata=strata,
            groups=groups,
            val_share=settings.val_share,
            test_share=settings.test_share,
            seed=settings.split_seed,
            fold=settings.fold,
            num_folds=settings.num_folds,
            notes=self.notes,
        )
        parts = {}
        for split, (chosen, values) in shared.items():
            table = rows.get(split, rows["train"])
            parts[split] = table[chosen], values
        return parts

    @cached_property
    def facts(self) -> dict:
        """What the training rows say about how to treat others; it travels in the checkpoint."""
        table, targets = self.parts["train"]
        classes: list[str] = []
        target_scale = [0.0, 1.0]
        if isinstance(targets, list):
            classes = known_classes(self.parts, self.hparams.fold)
        else:
            target_scale = [float(np.mean(targets)), float(np.std(targets)) or 1.0]
        return {
            "classes": classes,
            "columns": describe(table, self.kinds, self.hparams.max_categories, self.notes),
            "target": self.target,
            "target_scale": target_scale,
            "fingerprint": fingerprint(self.parts),
        }

    @property
    def is_trained(self) -> bool:
        """Whether the columns and classes are those of a training, out of a checkpoint."""
        return "facts" in vars(self)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores; none in a regression."""
        return self.facts["classes"]

    @property
    def columns(self) -> list[dict]:
        """What is known of each column, numbers first: name; mean, std and edges of bins, or values."""
        return self.facts["columns"]

    @property
    def target_name(self) -> str:
        """Name of what is predicted, for pictures."""
        return self.facts["target"]

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
        note_copies(self.strengths, self.target_name, self.notes)

    def dataset(self, split: str) -> TableDataset:
        """Return the rows of a split."""
        table, values = self.parts[split]
        rows = torch.from_numpy(encode(table, self.columns))
        if self.classes:
            targets = torch.tensor(class_numbers(values, self.classes, split))
        else:
            targets = torch.tensor(values, dtype=torch.float32)
        return TableDataset(rows, targets)

    @cached_property
    def batch_size(self) -> int:
        """Rows in a batch, on each device."""
        if self.hparams.path is None:
            return self.hparams.batch_size or 32
        world_size = 1 if self.trainer is None else self.trainer.world_size
        rows = len(self.train_set)
        usual = usual_batch_size(rows)
        return chosen_batch_size(self.hparams.batch_size, rows, world_size, self.notes, usual)

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
            sampler = balanced_sampler(labels.tolist())
        return DataLoader(
            self.train_set,
            batch_size=self.batch_size,
            shuffle=settings.shuffle and not settings.balanced,
            sampler=sampler,
            drop_last=drops_last(settings.drop_last, examples, self.batch_size, self.trainer),
            collate_fn=collate,
            **self.workers,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.batch_size, collate_fn=collate, **self.workers)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.batch_size, collate_fn=collate, **self.workers)

    def predict_dataloader(self) -> DataLoader:
        if self.predict_set is None:
            raise UserError("there is nothing to predict on; give tables")
        size = self.hparams.batch_size or usual_batch_size(len(self.predict_set))
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take the rows of tables to predict on; return `file:row` of each.

        Raises:
            UserError: If a file or columns are missing, or a cell is not what its column is.
        """
        settings = self.hparams
        kinds = kinds_of(self.columns)
        missing = [str(word) for word in settings.missing or []]
        names = []
        tables = []
        for path in paths:
            for file in table_files(path):
                table = read_table([file], separator=settings.separator, notes=self.notes)
                names += [f"{file}:{row}" for row in range(1, len(table) + 1)]
                tables.append(read_kinds(table, kinds, str(file), missing=missing, notes=self.notes))
                del table  # its texts need more memory than what is read of them
        table = pl.concat(tables)
        rows = encode(table, self.columns)
        note_unknown(table, rows, self.columns, self.notes)
        self.predict_set = TableDataset(torch.from_numpy(rows), None)
        return names

    @cached_property
    def strengths(self) -> dict[str, float]:
        """How much each column says of the target, from 1 for all to 0 for nothing, the strongest first."""
        rows, targets = self.train_set[:10_000]
        found: dict[str, float] = {}
        values = strengths(rows.numpy(), targets.numpy(), self.columns, len(self.classes))
        for place in np.argsort(-values):
            column = self.columns[place]
            found.setdefault(column.get("of", column["name"]), float(values[place]))
        return found

    def test_example(self, index: int) -> dict:
        """Return a row of the test split, to look at, with the columns first that say most of the target."""
        table, _ = self.parts["test"]
        return table.select(list(self.strengths)).row(index, named=True)


def collate(batch):
    """Stand in for `default_collate`, which would stack what `__getitems__` has indexed at once."""
    return batch


def usual_batch_size(rows: int) -> int:
    """Return more rows for large tables: more steps in an epoch would only take longer."""
    if rows < 10_000:
        return 64
    if rows < 100_000:
        return 256
    return 1024


def built_in(name: str) -> pl.DataFrame:
    """Return one of scikit-learn's tables; the column "target" holds names of classes or numbers."""
    if name == "diabetes":
        source = load_diabetes(scaled=False)
        targets = source.target
    else:
        source = load_breast_cancer()
        targets = source.target_names[source.target]
    columns = dict(zip(source.feature_names, source.data.T, strict=True))
    return pl.DataFrame({**columns, "target": targets})

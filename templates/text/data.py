"""The data: texts, split and loaded by a LightningDataModule. Replace them by yours."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import emoji
import numpy as np
import polars as pl
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from .harness.backbones import TOKENIZER, load_tokenizer
from .harness.batches import (
    SimilarLengths,
    balanced_sampler,
    check_batch_size,
    chosen_batch_size,
    drops_last,
    worker_options,
)
from .harness.errors import UserError, first_few
from .harness.files import files_in
from .harness.splits import (
    check_shares,
    class_numbers,
    fingerprint,
    known_classes,
    share_out,
    warn_of_other_data,
)
from .harness.tables import ENDINGS, TARGETS, find_column, read_table, read_tables, texts_of
from .harness.targets import find_targets
from .texts import (
    check_classes,
    find_text_column,
    is_folder_of_texts,
    is_table,
    read_lines,
    read_text,
    text_files,
)

LANGUAGES = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "id": "Indonesian",
    "it": "Italian",
    "pt": "Portuguese",
    "tr": "Turkish",
}
BATCH_SIZE = 128  # unless there are few texts
CHUNK = 100_000  # texts of which copies are in memory at a time


class Texts:
    """Texts as UTF-8 bytes, one after the other in one array: a million take the memory of their bytes.

    Args:
        content: The bytes of all texts, uint8; 0 is left to the padding.
        starts: Where each text starts, int64 (N,).
        ends: Where each text ends, int64 (N,).
    """

    def __init__(self, content: Tensor, starts: Tensor, ends: Tensor):
        self.content = content
        self.starts = starts
        self.ends = ends

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        """Return the bytes of a text, uint8 (length,)."""
        return self.content[self.starts[index] : self.ends[index]]

    def select(self, indices: np.ndarray) -> "Texts":
        """Return some of the texts, without copying their bytes."""
        return Texts(self.content, self.starts[indices], self.ends[indices])


class TextDataset(Dataset):
    """Texts as UTF-8 bytes, which spell any script without a vocabulary (Xue et al. 2022, arXiv:2105.13626).

    Args:
        texts: The texts.
        labels: int64 (N,); None for texts to predict on.
        readable: bool (N,), False for each of these whose file cannot be read: predict.py leaves them out.
        padding: What stands behind the end of shorter texts of a batch.
    """

    def __init__(self, texts: Texts, labels: Tensor | None, readable: Tensor | None = None, padding: int = 0):
        self.texts = texts
        self.padding = padding
        self.labels = labels
        self.readable = readable

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, Tensor]:
        """Return int64 (length,) with values 1 to 255, and a label if there are any."""
        tokens = self.texts[index].long()
        if self.labels is None:
            return tokens
        return tokens, self.labels[index]

    def __getitems__(self, indices: list[int]) -> Tensor | tuple[Tensor, Tensor]:
        """Return a whole batch, padded to its longest text: int64 (B, L), and labels (B,)."""
        texts = [self.texts[index] for index in indices]
        tokens = pad_sequence(texts, batch_first=True, padding_value=self.padding).long()
        if self.labels is None:
            return tokens
        return tokens, self.labels[indices]


class DataModule(LightningDataModule):
    """Texts: names of emoji in eight languages, which are the classes, or yours in `path`.

    The names are those of the Unicode CLDR; the names of one emoji are all in the same split.

    Args:
        path: Your texts: a CSV, TSV, JSON, Parquet or Excel file, a folder of them, a folder with a folder of
            .txt files for each class, or a name on the Hugging Face hub; null: the names of emoji.
        target: Column of the labels; null: the one called label, target, class or category.
        text_column: Column of the texts; null: the one called text, sentence or content, or the only one of
            texts beside the labels.
        separator: What is between two cells of a CSV file, such as ";" or "\\t"; null: it is recognised.
        group: Column whose equal values stay together in one split, such as that of an author; for .txt files
            a regular expression, whose first group in the path is what stays together.
        max_length: Bytes of a text that are read, or with a pretrained model tokens; the rest is cut off.
        val_share: Share of the texts to validate on, unless the data have a validation split.
        test_share: Share of the texts to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which texts are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Texts in a batch, on each device; null: 128, or less where there are few.
        num_workers: Processes that load batches; null: none, since the texts are in memory.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training texts so that all classes are equally frequent.
        backbone: The pretrained model whose tokenizer makes tokens of the texts; of a trained run, the folder
            of the tokenizer.
        backbone_config: What is to be known of a pretrained model, for which the data are made.
    """

    def __init__(
        self,
        path: str | None = None,
        target: str | None = None,
        text_column: str | None = None,
        separator: str | None = None,
        group: str | None = None,
        max_length: int = 256,
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
        backbone: str | None = None,
        backbone_config: dict | None = None,
    ):
        super().__init__()
        check_shares(val_share, test_share, fold, num_folds)
        check_batch_size(batch_size)
        self.save_hyperparameters(logger=False)
        self.predict_set: Dataset | None = None
        self.notes: list[str] = []  # what was found in the data, and what was made of it
        self.found_column: str | None = None  # of the texts, once a table is read

    @staticmethod
    def describe_backbone(name: str) -> dict:
        """Return what is to be known of a pretrained model, once, when a new run starts."""
        from .pretrained import describe

        return describe(name)

    def read(self) -> tuple[dict[str, tuple[pl.Series, list[str]]], list[str] | None]:
        """Return texts and labels of each split that the data have, and the group of each training text."""
        settings = self.hparams
        if settings.path is None:
            texts, languages, emojis = emoji_names()
            return {"train": (texts, languages)}, emojis
        if is_folder_of_texts(settings.path):
            return text_files(settings.path, settings.target, settings.group, self.notes)
        return self.read_tables()

    def read_tables(self) -> tuple[dict[str, tuple[pl.Series, list[str]]], list[str] | None]:
        """Do what `read` does for tables: say which columns are used, and leave out rows without a label."""
        settings = self.hparams
        tables = read_tables(settings.path, separator=settings.separator, notes=self.notes)
        train = tables["train"]
        target = find_column(train, settings.target, "target", TARGETS)
        self.found_column = self.text_column(train, [target, settings.group])
        found = find_targets(
            tables, target, settings.path, regression=False, decimal=None, missing=[], notes=self.notes
        )
        rows, names = found["train"]
        check_classes(list(names), target, self.notes)
        unused = [name for name in train.columns if name not in (target, self.found_column, settings.group)]
        if unused:
            self.notes.append(f"not used: {first_few(unused)}; the texts are in {self.found_column}")
        examples = {}
        for split, (chosen, labels) in found.items():
            column = find_column(tables[split], self.found_column, "text_column", [])
            examples[split] = texts_of(tables[split], column)[chosen], list(labels)
        groups: list[str] | None = None
        if settings.group is not None:
            column = find_column(train, settings.group, "group", [])
            groups = texts_of(train, column)[rows].to_list()
        return examples, groups

    def text_column(self, table: pl.DataFrame, others: Sequence[str | None]) -> str:
        """Return the column of the texts: the one that is set, that of training, or the likely one."""
        name = self.hparams.text_column
        if name is None and "facts" in vars(self) and self.facts["text_column"] in table.columns:
            name = self.facts["text_column"]
        return find_text_column(table, name, others, self.notes)

    def encode(self, texts: pl.Series) -> Texts:
        """Return texts as bytes, of each at most `max_length`; one without any is a space."""
        missing = texts.is_null() | (texts == "")
        if missing.any():
            self.notes.append(
                f"{missing.sum()} of {len(texts)} texts are missing or empty; each is read as a space"
            )
            texts = texts.set(missing, " ")
        if self.hparams.backbone_config is not None:
            return self.tokenize(texts)
        lengths = texts.str.len_bytes().cast(pl.Int64)
        encoded = texts.cast(pl.Binary)
        too_long = int((lengths > self.max_length).sum())
        if too_long:
            self.notes.append(
                f"{too_long} of {len(texts)} texts ({too_long / len(texts):.0%}) are longer than "
                f"{self.max_length} bytes; the rest of them is not read (--data.max_length)"
            )
            lengths = lengths.clip(upper_bound=self.max_length)
            encoded = encoded.bin.slice(0, self.max_length)
        content = bytearray()
        for start in range(0, len(encoded), CHUNK):
            content += b"".join(encoded[start : start + CHUNK].to_list()).replace(b"\0", b" ")
        ends = torch.tensor(lengths.cum_sum().to_numpy())
        starts = ends - torch.tensor(lengths.to_numpy())
        return Texts(torch.frombuffer(content, dtype=torch.uint8), starts, ends)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the pretrained model."""
        return load_tokenizer(self.hparams.backbone, self.hparams.backbone_config["tokenizer"])

    def tokenize(self, texts: pl.Series) -> Texts:
        """Return texts as numbers of tokens, of each at most `max_length`."""
        name = self.hparams.backbone_config["name"]
        tokens = []
        too_long = 0
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK].to_list()
            for text, numbers in zip(chunk, self.tokenizer(chunk)["input_ids"], strict=True):
                if len(numbers) > self.max_length:
                    too_long += 1
                    numbers = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
                tokens.append(np.array(numbers, dtype=np.int32))
        self.notes.append(f"{len(texts)} texts are read as the tokens of {name}")
        if too_long:
            self.notes.append(
                f"{too_long} of {len(texts)} texts ({too_long / len(texts):.0%}) are longer than "
                f"{self.max_length} tokens; the rest of them is not read (--data.max_length)"
            )
        ends = torch.tensor([len(numbers) for numbers in tokens]).cumsum(dim=0)
        starts = ends - torch.tensor([len(numbers) for numbers in tokens])
        return Texts(torch.from_numpy(np.concatenate(tokens)), starts, ends)

    def save_tokenizer(self, folder: Path) -> None:
        """Put the tokenizer into the folder of a run, which starts."""
        if self.hparams.backbone_config is not None:
            self.tokenizer.save_pretrained(str(folder / TOKENIZER))

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """Texts and labels of the splits "train", "val" and "test"."""
        settings = self.hparams
        found, groups = self.read()
        examples = {}
        for split, (texts, labels) in found.items():
            examples[split] = self.encode(texts), labels
        return share_out(
            examples,
            strata=None if settings.path is None else examples["train"][1],
            groups=groups,
            val_share=settings.val_share,
            test_share=settings.test_share,
            seed=settings.split_seed,
            fold=settings.fold,
            num_folds=settings.num_folds,
            notes=self.notes,
        )

    @cached_property
    def facts(self) -> dict:
        """What the training texts say about how to treat others; it travels in the checkpoint."""
        return {
            "classes": known_classes(self.parts, self.hparams.fold),
            "text_column": self.found_column,
            "whole_files": self.hparams.path is not None and self.found_column is None,
            "fingerprint": fingerprint(self.parts),
        }

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores."""
        return self.facts["classes"]

    @property
    def max_length(self) -> int:
        """Bytes, or tokens, of the longest text."""
        settings = self.hparams
        if settings.backbone_config is not None:
            return min(settings.max_length, settings.backbone_config["longest"])
        return settings.max_length

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

    def dataset(self, split: str) -> TextDataset:
        """Return the texts of a split."""
        texts, labels = self.parts[split]
        targets = torch.from_numpy(class_numbers(labels, self.classes, split))
        return TextDataset(texts, targets, padding=self.padding)

    @property
    def padding(self) -> int:
        """What stands behind the end of shorter texts."""
        if self.hparams.backbone_config is not None:
            return self.hparams.backbone_config["padding"]
        return 0

    @cached_property
    def batch_size(self) -> int:
        """Texts in a batch, on each device."""
        world_size = 1 if self.trainer is None else self.trainer.world_size
        texts = len(self.train_set)
        return chosen_batch_size(self.hparams.batch_size, texts, world_size, self.notes, usual=BATCH_SIZE)

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
        texts = self.train_set.texts
        sampler = None
        if settings.balanced:
            labels = class_numbers(self.parts["train"][1], self.classes, "train")
            sampler = balanced_sampler(labels)
        elif settings.shuffle:
            sampler = SimilarLengths(texts.ends - texts.starts, self.batch_size)
        return DataLoader(
            self.train_set,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drops_last(settings.drop_last, len(texts), self.batch_size, self.trainer),
            collate_fn=collate,
            **self.workers,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.batch_size, collate_fn=collate, **self.workers)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.batch_size, collate_fn=collate, **self.workers)

    def predict_dataloader(self) -> DataLoader:
        if self.predict_set is None:
            raise UserError("there is nothing to predict on; give .txt files or tables")
        size = self.hparams.batch_size or BATCH_SIZE
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take texts to predict on: rows of tables and lines of .txt files, or whole files as in training.

        Return `file:row` of each, or the name of the file.

        Raises:
            UserError: If a file is missing or cannot be read.
        """
        names: list[str] = []
        texts: list[pl.Series] = []
        unreadable: list[int] = []
        problems: list[str] = []
        for path in paths:
            for file in files_in(path, (".txt", *ENDINGS), self.notes):
                try:
                    found = self.texts_in(file)
                except UserError as problem:
                    problems.append(str(problem))
                    unreadable.append(len(names))
                    names.append(str(file))
                    texts.append(pl.Series([" "]))
                    continue
                texts.append(found)
                if self.facts["whole_files"] and file.suffix.lower() == ".txt":
                    names.append(str(file))
                else:
                    names += [f"{file}:{row}" for row in range(1, len(found) + 1)]
        if problems and len(problems) == len(texts):
            raise UserError(first_few(problems, 3))
        if problems:
            self.notes.append(f"not read: {first_few(problems, 2)}")
        if not names:
            return names
        readable = torch.ones(len(names), dtype=torch.bool)
        readable[unreadable] = False
        self.predict_set = TextDataset(self.encode(pl.concat(texts)), None, readable, self.padding)
        return names

    def texts_in(self, file: Path) -> pl.Series:
        """Return the texts in a table, the lines of a text file, or all of it if training had a text a file.

        Raises:
            UserError: If the file cannot be read.
        """
        if is_table(file, self.facts["text_column"]):
            table = read_table([file], separator=self.hparams.separator, notes=self.notes)
            return texts_of(table, self.text_column(table, []))
        if self.facts["whole_files"]:
            return pl.Series([read_text(file, self.notes).strip()])
        return pl.Series(read_lines(file, self.notes), dtype=pl.String)

    def test_example(self, index: int) -> str:
        """Return a text of the test split, to look at."""
        text = self.test_set.texts[index].tolist()
        if self.hparams.backbone_config is not None:
            return self.tokenizer.decode(text, skip_special_tokens=True)
        return bytes(text).decode(errors="ignore")


def collate(batch):
    """Stand in for `default_collate`, which would stack what `__getitems__` has put together."""
    return batch


def emoji_names() -> tuple[pl.Series, list[str], list[str]]:
    """Return names of emoji, their languages, and the English names, by which they are grouped."""
    emoji.config.load_language(list(LANGUAGES))
    texts = []
    languages = []
    groups = []
    seen = {}
    for names in emoji.EMOJI_DATA.values():
        if "skin_tone" not in names["en"]:
            seen[names["en"]] = names  # variants of an emoji have the same names
    for english, names in seen.items():
        for code, language in LANGUAGES.items():
            if code in names:
                texts.append(names[code].strip(":").replace("_", " "))
                languages.append(language)
                groups.append(english)
    return pl.Series(texts), languages, groups

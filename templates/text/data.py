"""The data: texts, split and loaded by a LightningDataModule. Replace them by yours."""

from functools import cached_property
from pathlib import Path

import emoji
import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from .harness.batches import (
    SimilarLengths,
    balanced_sampler,
    check_batch_size,
    drops_last,
    worker_options,
)
from .harness.errors import UserError
from .harness.files import files_in
from .harness.splits import (
    check_shares,
    class_names,
    class_numbers,
    fingerprint,
    share_out,
    warn_of_other_data,
)
from .harness.tables import (
    ENDINGS,
    TARGETS,
    Column,
    column_values,
    find_column,
    read_table,
    read_tables,
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
TEXTS = ("text", "sentence", "content")  # usual names of the column of texts
CSV: dict = {"keep_default_na": False, "na_values": [""]}  # "NA" and "null" are texts as well


class TextDataset(Dataset):
    """Texts as UTF-8 bytes, which spell any script without a vocabulary (Xue et al. 2022, arXiv:2105.13626).

    Args:
        texts: An array of texts, or a column of a table.
        labels: One for each text; None for texts to predict on.
        max_length: Bytes of a text that are kept.
    """

    def __init__(self, texts: np.ndarray | Column, labels: list[int] | None, max_length: int):
        self.texts = texts
        self.labels = labels
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, int]:
        """Return int64 (length,) with values 1 to 255, and a label if there are any."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list:
        """Return the examples of a batch: one look into a table is faster than many."""
        examples: list = []
        for index, text in zip(indices, self.texts[indices], strict=True):
            tokens = self.encode(text)
            if self.labels is None:
                examples.append(tokens)
            else:
                examples.append((tokens, self.labels[index]))
        return examples

    def encode(self, text: str) -> Tensor:
        """Return the bytes of a text; 0 is left to the padding, and an empty text is a space."""
        kept = text.encode().replace(b"\0", b" ")[: self.max_length]
        return torch.tensor(list(kept or b" "))


class DataModule(LightningDataModule):
    """Texts: names of emoji in eight languages, which are the classes, or yours in `path`.

    The names are those of the Unicode CLDR; the names of one emoji are all in the same split.

    Args:
        path: Your texts: a CSV, JSON lines or Parquet file, a folder of them, or a name on the Hugging Face
            hub; null: the names of emoji.
        target: Column of the labels; null: the one called label, target, class or category.
        text_column: Column of the texts; null: the one called text, sentence or content.
        max_length: Bytes of a text that are read; the rest is cut off.
        val_share: Share of the texts to validate on, unless the data have a validation split.
        test_share: Share of the texts to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which texts are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Texts in a batch, on each device.
        num_workers: Processes that load batches; null: for `path` as the cores allow, at most 8; else none.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training texts so that all classes are equally frequent.
    """

    def __init__(
        self,
        path: str | None = None,
        target: str | None = None,
        text_column: str | None = None,
        max_length: int = 256,
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

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """Texts and labels of the splits "train", "val" and "test"."""
        settings = self.hparams
        examples: dict[str, tuple] = {}
        groups = None
        if settings.path is None:
            texts, languages, groups = emoji_names()
            examples["train"] = texts, languages
            strata = None
        else:
            for split, table in read_tables(settings.path, **CSV).items():
                target = find_column(table, settings.target, "target", TARGETS)
                labels = column_values(table, target, settings.path)
                examples[split] = self.text_of(table, settings.path), labels
            strata = examples["train"][1]
        return share_out(
            examples,
            strata=strata,
            groups=groups,
            val_share=settings.val_share,
            test_share=settings.test_share,
            seed=settings.split_seed,
            fold=settings.fold,
            num_folds=settings.num_folds,
        )

    def text_of(self, table, file: str | Path) -> Column:
        """Return the column of texts, having seen that none is missing; a number is a text, too."""
        import datasets  # takes a second, so only who has tables of their own waits for it

        name = find_column(table, self.hparams.text_column, "text_column", TEXTS)
        column_values(table, name, file)
        return Column(table.cast_column(name, datasets.Value("string")), name)

    @cached_property
    def facts(self) -> dict:
        """What the training texts say about how to treat others; it travels in the checkpoint."""
        _, labels = self.parts["train"]
        return {"classes": class_names(labels), "fingerprint": fingerprint(self.parts)}

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores."""
        return self.facts["classes"]

    @property
    def max_length(self) -> int:
        """Bytes of the longest text."""
        return self.hparams.max_length

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
        return TextDataset(texts, class_numbers(labels, self.classes, split), self.max_length)

    @property
    def workers(self) -> dict:
        """How batches get to the device: num_workers, pin_memory and other options of each DataLoader."""
        settings = self.hparams
        return worker_options(
            self.trainer,
            in_memory=settings.path is None,
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
            labels = class_numbers(self.parts["train"][1], self.classes, "train")
            sampler = balanced_sampler(labels)
        elif settings.shuffle:
            lengths = [min(len(text), self.max_length) for text in self.train_set.texts]
            sampler = SimilarLengths(lengths, settings.batch_size)
        return DataLoader(
            self.train_set,
            batch_size=settings.batch_size,
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
            raise UserError("there is nothing to predict on; give .txt files or tables")
        size = self.hparams.batch_size
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take texts to predict on, one a line in .txt files or a row in tables; return `file:row` of each.

        Raises:
            UserError: If a file is missing or cannot be read.
        """
        names = []
        texts: list[str] = []
        for path in paths:
            for file in files_in(path, (".txt", *ENDINGS)):
                found = self.texts_in(file)
                texts += found
                names += [f"{file}:{row}" for row in range(1, len(found) + 1)]
        self.predict_set = TextDataset(np.array(texts, dtype=object), None, self.max_length)
        return names

    def texts_in(self, file: Path) -> list[str]:
        """Return the lines of a text file, or the texts in a table."""
        if file.suffix.lower() in ENDINGS:
            return list(self.text_of(read_table([file], **CSV), file))
        try:
            return file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not a text in UTF-8: {error}") from error

    def test_example(self, index: int) -> str:
        """Return a text of the test split, to look at."""
        return self.test_set.texts[index]


def collate(examples: list) -> Tensor | tuple[Tensor, Tensor]:
    """Pad with 0 to the longest text of the batch: int64 (B, L), and labels (B,) if there are any."""
    if isinstance(examples[0], Tensor):
        return pad_sequence(examples, batch_first=True)
    tokens = [example[0] for example in examples]
    labels = [example[1] for example in examples]
    return pad_sequence(tokens, batch_first=True), torch.tensor(labels)


def emoji_names() -> tuple[np.ndarray, list[str], list[str]]:
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
    return np.array(texts, dtype=object), languages, groups

"""Characters of a text: the help of Python, 700,000 letters of English and code, or a file of yours."""

from pathlib import Path
from pydoc_data.topics import topics

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Pieces(Dataset):
    """Pieces of `length` characters, and the same moved by one: what comes next after each."""

    def __init__(self, tokens: Tensor, length: int, step: int):
        self.tokens = tokens
        self.length = length
        self.starts = range(0, len(tokens) - length, step)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return int64 (length,) and int64 (length,)."""
        start = self.starts[index]
        piece = self.tokens[start : start + self.length + 1]
        return piece[:-1], piece[1:]


class DataModule(LightningDataModule):
    """A text, of which the last tenth validates and tests.

    Args:
        path: A text file; null: the help of Python.
        length: Characters that the network sees at once.
        batch_size: Pieces in a batch, on each device.
    """

    def __init__(self, path: str | None = None, length: int = 128, batch_size: int = 64):
        super().__init__()
        self.save_hyperparameters(logger=False)
        if path is None:
            self.text = "\n\n".join(topics[name] for name in sorted(topics))
        else:
            self.text = Path(path).read_text(encoding="utf-8")
        self.prompts = ["The "]

    @property
    def characters(self) -> str:
        """All characters of the text, in order: the place of one is its token."""
        return "".join(sorted(set(self.text)))

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, int64 (len(text),); characters that are not known are left out."""
        places = {character: place for place, character in enumerate(self.characters)}
        return torch.tensor([places[character] for character in text if character in places])

    def setup(self, stage: str) -> None:
        length = self.hparams.length
        tokens = self.encode(self.text)
        train, val, test = tokens.tensor_split([int(0.9 * len(tokens)), int(0.95 * len(tokens))])
        self.train_set = Pieces(train, length, step=length // 2)
        self.val_set = Pieces(val, length, step=length)
        self.test_set = Pieces(test, length, step=length)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.hparams.batch_size)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take text files, each of which the model goes on with; return their names."""
        self.prompts = [path.read_text(encoding="utf-8") for path in paths]
        return [str(path) for path in paths]

    def predict_dataloader(self) -> DataLoader:
        return DataLoader([self.encode(prompt) for prompt in self.prompts], batch_size=1)

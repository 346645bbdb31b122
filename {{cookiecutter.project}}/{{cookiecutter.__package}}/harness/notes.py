"""What a data module says of its data in `notes`: on the terminal, in the run's data.txt, and in W&B.

`notes` is a list of sentences, such as "x: 12 of 240 cells are missing". Any LightningDataModule may have
one, and may add to it until its loaders are made, and in its `teardown`.
"""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from .folder import whole_file
from .quiet import Quiet

FILE = "data.txt"


class DataNotes(Quiet):
    """Print what was found in the data, each sentence once, before the first step or when it is over."""

    def __init__(self) -> None:
        self.printed: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.print_new(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print_new(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print_new(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print_new(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print what was found on the way, such as files passed over; the data module's hook came first."""
        self.print_new(trainer)
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (folder / FILE).exists():
            write_notes(trainer, folder)

    @rank_zero_only
    def print_new(self, trainer: Trainer) -> None:
        """Print the notes that were not printed yet."""
        for note in notes_of(trainer):
            if note not in self.printed:
                print(f"data: {note}")
            self.printed.add(note)


def notes_of(trainer: Any) -> list[str]:
    """Return what the data module of a trainer says of its data."""
    return list(getattr(trainer.datamodule, "notes", []))


def write_notes(trainer: Trainer, folder: Path) -> None:
    """Write the notes into the folder of a run."""
    notes = notes_of(trainer)
    if notes:
        with whole_file(folder / FILE) as file:
            file.write("\n".join([*notes, ""]).encode())

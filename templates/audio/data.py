"""The data: sounds, split and loaded by a LightningDataModule. Replace them by yours."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from scipy.signal import resample_poly
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
from .harness.files import class_folders, files_in, opened, readable
from .harness.splits import (
    check_shares,
    class_names,
    class_numbers,
    fingerprint,
    select,
    share_out,
    warn_of_other_data,
)
from .harness.tables import files_in_tables

FORMATS = [f".{name.lower()}" for name in soundfile.available_formats()]
ENDINGS = (*FORMATS, ".aif", ".oga", ".opus")
CLASSES = ["chirp down", "chirp up", "noise", "tone", "trill", "two tones"]
RATE = 8000  # of the synthetic sounds, in samples a second


class SoundDataset(Dataset):
    """Sounds in memory, or files that are read and resampled when they are asked for.

    Args:
        sounds: Samples at `rate` Hz; or paths, or what a table contains of the files.
        labels: One for each sound; None for sounds to predict on.
        rate: Samples a second that the network expects.
        max_seconds: Where longer sounds are cut off.
    """

    def __init__(self, sounds: Sequence, labels: list[int] | None, rate: int, max_seconds: float):
        self.sounds = sounds
        self.labels = labels
        self.rate = rate
        self.max_seconds = max_seconds

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, int]:
        """Return float32 (samples,) between -1 and 1, and a label if there are any."""
        sound = self.sounds[index]
        if not isinstance(sound, np.ndarray):
            sound, rate = read_sound(sound, self.max_seconds)
            if rate != self.rate:
                sound = resample_poly(sound, self.rate, rate)
        longest = int(self.max_seconds * self.rate)
        samples = torch.as_tensor(sound[:longest], dtype=torch.float32)
        if self.labels is None:
            return samples
        return samples, self.labels[index]


class DataModule(LightningDataModule):
    """Sounds: 1800 synthetic ones in six classes, or yours in `path`.

    Args:
        path: Your sounds: a folder with a folder for each class, a table, or a name on the Hugging Face hub;
            null: the synthetic ones.
        target: Column of the labels in a table; null: the one called label, target, class or category.
        max_seconds: Where longer sounds are cut off.
        skip_unreadable: Whether to leave out files that cannot be read instead of stopping.
        val_share: Share of the sounds to validate on, unless the data have a validation split.
        test_share: Share of the sounds to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which sounds are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Sounds in a batch, on each device.
        num_workers: Processes that load batches; null: for `path` as the cores allow, at most 8; else none.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training sounds so that all classes are equally frequent.
    """

    def __init__(
        self,
        path: str | None = None,
        target: str | None = None,
        max_seconds: float = 10.0,
        skip_unreadable: bool = False,
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
        """Return sounds, labels and (samples a second, samples) of each split that the data have."""
        settings = self.hparams
        if settings.path is None:
            return {"train": synthesise(300, np.random.default_rng(0))}
        if Path(settings.path).is_dir():
            found = class_folders(Path(settings.path), ENDINGS)
        else:
            found = files_in_tables(settings.path, settings.target)
        examples = {}
        for split, (files, labels) in found.items():
            kept, seen = readable(files, self.look, settings.skip_unreadable)
            examples[split] = select(files, kept), select(labels, kept), seen
        return examples

    def look(self, item: str | Path | dict) -> list[int]:
        """Return samples a second and samples of a sound, having read as much as training will."""
        samples, rate = read_sound(item, self.hparams.max_seconds)
        return [rate, len(samples)]

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """What `read` returns, for all of the splits "train", "val" and "test"."""
        settings = self.hparams
        examples = self.read()
        return share_out(
            examples,
            strata=examples["train"][1],
            val_share=settings.val_share,
            test_share=settings.test_share,
            seed=settings.split_seed,
            fold=settings.fold,
            num_folds=settings.num_folds,
        )

    @cached_property
    def facts(self) -> dict:
        """What the training sounds say about how to treat others; it travels in the checkpoint."""
        _, labels, seen = self.parts["train"]
        rates = Counter(rate for rate, _ in seen)
        rate, count = rates.most_common(1)[0]
        if count < len(seen):
            rank_zero_info(f"{len(seen) - count} of {len(seen)} sounds are resampled to {rate} Hz")
        return {
            "classes": class_names(labels),
            "rate": rate,
            "fingerprint": fingerprint(self.parts),
        }

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores."""
        return self.facts["classes"]

    @property
    def rate(self) -> int:
        """Samples a second to which all sounds are resampled."""
        return self.facts["rate"]

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

    def dataset(self, split: str) -> SoundDataset:
        """Return the sounds of a split."""
        sounds, labels, _ = self.parts[split]
        numbers = class_numbers(labels, self.classes, split)
        return SoundDataset(sounds, numbers, self.rate, self.hparams.max_seconds)

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
            seconds = [samples / rate for rate, samples in self.parts["train"][2]]
            sampler = SimilarLengths(seconds, settings.batch_size)
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
            raise UserError("there is nothing to predict on; give sound files or folders")
        size = self.hparams.batch_size
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take sound files, and folders of them, to predict on; return the name of each sound.

        Raises:
            UserError: If a path does not exist, or a folder contains no sound.
        """
        files = []
        for path in paths:
            for file in files_in(path, ENDINGS):
                files.append(str(file))
        self.predict_set = SoundDataset(files, None, self.rate, self.hparams.max_seconds)
        return files

    def test_example(self, index: int) -> tuple[np.ndarray, int]:
        """Return the samples of a sound of the test split, and how many there are a second."""
        return self.test_set[index][0].numpy(), self.rate


def collate(examples: list) -> tuple:
    """Pad sounds with 0 to the longest of the batch.

    Return samples (B, T) and lengths (B,), and if there are labels ((samples, lengths), labels (B,)).
    """
    if isinstance(examples[0], Tensor):
        lengths = [len(samples) for samples in examples]
        return pad_sequence(examples, batch_first=True), torch.tensor(lengths)
    sounds = [example[0] for example in examples]
    labels = [example[1] for example in examples]
    return collate(sounds), torch.tensor(labels)


def read_sound(item: str | Path | dict, max_seconds: float) -> tuple[np.ndarray, int]:
    """Return the mean of all channels, float32 (samples,), and samples a second.

    Raises:
        UserError: If the file cannot be read, or contains no sample.
    """
    name, file = opened(item)
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            samples = sound.read(int(max_seconds * rate), dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{name} is not a sound that can be read: {error}") from error
    if len(samples) == 0:
        raise UserError(f"{name} contains no sound")
    return samples.mean(axis=1), rate


def synthesise(count: int, random: np.random.Generator) -> tuple[list, list[str], list]:
    """Return `count` sounds of each class, their classes, and (samples a second, samples) of each.

    Pitch, onset, length and the noise around the sound are random; the signal is 0 to 20 dB above that noise.
    """
    sounds = []
    kinds = CLASSES * count
    for kind in kinds:
        sounds.append(synthesise_one(kind, random).astype(np.float32))
    return sounds, kinds, [[RATE, len(sound)] for sound in sounds]


def synthesise_one(kind: str, random: np.random.Generator) -> np.ndarray:
    """Return one sound of half a second to a second, in noise."""
    time = np.arange(int(random.uniform(0.2, 0.5) * RATE)) / RATE  # seconds
    pitch = random.uniform(200, 1500)  # Hz
    phase = 2 * np.pi * pitch * time
    end = random.uniform(1.3, 2.5)  # a chirp ends, or a second tone is, at this multiple of the pitch
    slide = phase * (1 + (end - 1) * time / time[-1] / 2)
    noise = random.normal(scale=0.5**0.5, size=len(time))
    trill = 1 + np.sin(2 * np.pi * random.uniform(10, 30) * time)
    signals = {
        "chirp down": np.sin(slide[::-1]),
        "chirp up": np.sin(slide),
        "noise": noise,
        "tone": np.sin(phase),
        "trill": np.sin(phase) * trill / np.sqrt(1.5),
        "two tones": (np.sin(phase) + np.sin(end * phase)) / np.sqrt(2),
    }
    signal = signals[kind]
    quieter = 10 ** (-random.uniform(0, 20) / 20)
    sound = quieter * random.normal(scale=0.5**0.5, size=int(random.uniform(0.5, 1) * RATE))
    onset = random.integers(len(sound) - len(signal) + 1)
    sound[onset : onset + len(signal)] += signal
    return 0.1 * sound

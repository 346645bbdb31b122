"""The data: sounds, split and loaded by a LightningDataModule. Replace them by yours."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from .augment import augment, chosen_augmentation
from .harness.batches import (
    SimilarLengths,
    balanced_sampler,
    check_batch_size,
    chosen_batch_size,
    drops_last,
    worker_options,
)
from .harness.errors import UserError, first_few
from .harness.files import ending_of, files_in
from .harness.labels import labelled_files, labelled_media
from .harness.opening import ADVICE, SAMPLE, look_at, opened, readable_files, sample_of, size_of
from .harness.splits import (
    check_shares,
    class_numbers,
    deciles,
    fingerprint,
    known_classes,
    select,
    share_out,
    warn_of_other_data,
)
from .sounds import BY_FFMPEG, ENDINGS, describe, look, read_sound

CLASSES = ["chirp down", "chirp up", "noise", "tone", "trill", "two tones"]
RATE = 8000  # of the synthetic sounds, in samples a second


class SoundDataset(Dataset):
    """Sounds in memory, or files that are read and resampled when they are asked for.

    Args:
        sounds: Samples at `rate` Hz; or paths, or what a table contains of the files.
        labels: One for each sound, (N,); None for sounds to predict on.
        rate: Samples a second that the network expects.
        max_seconds: Where longer sounds are cut off.
        skip: Whether to give None for a file that cannot be read, instead of an error.

    Attributes:
        readable: bool (N,), shared by all workers: False for each file that turned out unreadable.
    """

    def __init__(
        self, sounds: Sequence, labels: Tensor | None, rate: int, max_seconds: float, skip: bool = False
    ):
        self.sounds = sounds
        self.labels = labels
        self.rate = rate
        self.max_seconds = max_seconds
        self.skip = skip
        self.readable = torch.ones(len(sounds), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, Tensor] | None:
        """Return float32 (samples,) between -1 and 1, and a label if there are any.

        Without labels a file that cannot be read gives zeros, and `readable` says so.
        """
        try:
            samples = self.read(self.sounds[index])
        except UserError as error:
            self.readable[index] = False
            if self.labels is None:
                return torch.zeros(self.rate)
            if self.skip:
                return None
            raise UserError(f"{error}; {ADVICE}") from error
        if self.labels is None:
            return samples
        return samples, self.labels[index]

    def read(self, sound: np.ndarray | str | dict) -> Tensor:
        """Return the samples of a sound in memory or of a file."""
        if not isinstance(sound, np.ndarray):
            sound, rate = read_sound(sound, self.max_seconds)
            if rate != self.rate:
                sound = resample_poly(sound, self.rate, rate)
        longest = int(self.max_seconds * self.rate)
        return torch.as_tensor(sound[:longest], dtype=torch.float32)


class DataModule(LightningDataModule):
    """Sounds: 1800 synthetic ones in six classes, or yours in `path`.

    Args:
        path: Your sounds: a folder with a folder for each class, or with a table labels.csv (file_name,
            label); a table that contains sounds; or a name on the Hugging Face hub. null: the synthetic ones.
        target: Column of the labels in a table; null: the one called label, target, class or category.
        regression: Whether labels are numbers to predict; null: if a table has many different ones.
        class_folder: Where folders lie in folders, whether the outer or the inner one names the class; null:
            the outer one, unless it could be either.
        group: What must stay in one split: a regular expression, such as '^(speaker[0-9]+)', of which the
            first group is searched in the paths below `path`; or a column of labels.csv.
        max_seconds: Where longer sounds are cut off.
        augment: What training changes at random: none; noise: sounds are filtered, partly silenced, and put
            into noise; speed: they are played faster or slower as well, which changes their pitch. null:
            speed for classes, none for numbers to predict.
        skip_unreadable: Whether to pass over files that cannot be read, or do not exist, instead of stopping.
        check: Whether to read all files before training, to find those that cannot be read; null: if that
            takes about a second.
        val_share: Share of the sounds to validate on, unless the data have a validation split.
        test_share: Share of the sounds to test on, unless the data have a test split.
        split_seed: Seed of the split; it also decides which sounds are tested on.
        fold: Which of `num_folds` equal parts to test on, from 0, instead of `test_share`.
        num_folds: Parts of a cross-validation.
        batch_size: Sounds in a batch, on each device; null: 64, or less where there are few.
        num_workers: Processes that load batches; null: for `path` as the cores allow, at most 8; else none.
        pin_memory: Whether batches for a GPU are kept in page-locked memory; null: if there is one.
        prefetch_factor: Batches that each worker loads ahead; null: two.
        persistent_workers: Whether workers outlive an epoch; null: if there are any.
        drop_last: Whether to leave out a smaller last training batch; null: unless it is the only one.
        timeout: Seconds to wait for a batch from a worker; 0: for ever.
        shuffle: Whether each epoch has an order of its own.
        balanced: Whether to draw training sounds so that all classes are equally frequent.
        backbone_config: What is to be known of a pretrained model, for which the data are made.
    """

    def __init__(
        self,
        path: str | None = None,
        target: str | None = None,
        regression: bool | None = None,
        class_folder: Literal["outer", "inner"] | None = None,
        group: str | None = None,
        max_seconds: float = 10.0,
        augment: Literal["none", "noise", "speed"] | None = None,
        skip_unreadable: bool = False,
        check: bool | None = None,
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
        backbone_config: dict | None = None,
    ):
        super().__init__()
        check_shares(val_share, test_share, fold, num_folds)
        if batch_size is not None:
            check_batch_size(batch_size)
        self.save_hyperparameters(logger=False)
        self.notes: list[str] = []
        self.predict_set: Dataset | None = None

    @staticmethod
    def describe_backbone(name: str) -> dict:
        """Return what is to be known of a pretrained model, once, when a new run starts."""
        from .pretrained import describe

        return describe(name)

    def read(self) -> tuple[dict[str, tuple], list | None]:
        """Return sounds and labels of each split that the data have, and groups of the training sounds."""
        settings = self.hparams
        if settings.path is None:
            sounds, kinds = synthesise(300, np.random.default_rng(0))
            rate = RATE
            if settings.backbone_config is not None:
                rate = settings.backbone_config["rate"]
                sounds = [resample_poly(sound, rate, RATE).astype(np.float32) for sound in sounds]
            return {"train": (sounds, kinds)}, None
        regression = settings.regression
        if "facts" in vars(self):  # out of a checkpoint
            regression = not self.classes
        if Path(settings.path).is_dir():
            found, groups = labelled_files(
                settings.path,
                ENDINGS,
                target=settings.target,
                regression=regression,
                class_folder=settings.class_folder,
                group=settings.group,
                skip=settings.skip_unreadable,
                notes=self.notes,
            )
        else:
            found, groups = labelled_media(
                settings.path,
                target=settings.target,
                regression=regression,
                group=settings.group,
                notes=self.notes,
            )
        for split, (files, labels) in found.items():
            kept = readable_files(
                files,
                partial(read_sound, max_seconds=settings.max_seconds),
                check=settings.check,
                skip=settings.skip_unreadable,
                notes=self.notes,
            )
            if kept is not None:
                found[split] = select(files, kept), select(labels, kept)
                if groups is not None and split == "train":
                    groups = select(groups, kept)
        return found, groups

    @cached_property
    def parts(self) -> dict[str, tuple]:
        """What `read` returns, for all of the splits "train", "val" and "test"."""
        settings = self.hparams
        examples, groups = self.read()
        strata = examples["train"][1]
        if not isinstance(strata, list):
            strata = deciles(strata)
        return share_out(
            examples,
            strata=strata,
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
        """What the training sounds say about how to treat others; it travels in the checkpoint."""
        settings = self.hparams
        sounds, labels = self.parts["train"]
        classes = []
        target_scale = [0.0, 1.0]
        if isinstance(labels, np.ndarray):
            target_scale = [float(labels.mean()), float(labels.std()) or 1.0]
        else:
            classes = known_classes(self.parts, self.hparams.fold)
        rate = RATE
        if settings.path is not None:
            # ffmpeg takes a while for each file.
            most = 200 if any(ending_of(str(file)) in BY_FFMPEG for file in sample_of(sounds)) else SAMPLE
            read_header = partial(look, max_seconds=settings.max_seconds)
            seen = look_at(sample_of(sounds, most), read_header, settings.skip_unreadable)
            rate = describe(seen, len(sounds), settings.max_seconds, self.notes)
        if settings.backbone_config is not None:
            backbone = settings.backbone_config["name"]
            rate = settings.backbone_config["rate"]
            self.notes.append(f"sounds are resampled to {rate} Hz, as {backbone} expects")
        return {
            "classes": classes,
            "target_scale": target_scale,
            "rate": rate,
            "augment": chosen_augmentation(settings.augment, classes, self.notes),
            "fingerprint": fingerprint(self.parts),
        }

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the model's scores; none in a regression."""
        return self.facts["classes"]

    @property
    def rate(self) -> int:
        """Samples a second to which all sounds are resampled."""
        return self.facts["rate"]

    @property
    def target_scale(self) -> list[float]:
        """Mean and standard deviation of the training labels of a regression."""
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

    def dataset(self, split: str) -> SoundDataset:
        """Return the sounds of a split."""
        sounds, labels = self.parts[split]
        if self.classes:
            targets = torch.from_numpy(class_numbers(labels, self.classes, split))
        else:
            targets = torch.tensor(labels, dtype=torch.float32)
        settings = self.hparams
        return SoundDataset(sounds, targets, self.rate, settings.max_seconds, settings.skip_unreadable)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change the sounds of a training batch at random: all at once, and on the device."""
        changes = self.facts["augment"]
        only_sounds = len(batch) == 1  # the example for Lightning's summary of the layers
        if not self.trainer.training or changes == "none" or only_sounds:
            return batch
        (samples, lengths), labels = batch
        return augment(samples, lengths, self.rate, speed=changes == "speed"), labels

    def teardown(self, stage: str) -> None:
        """Add to the notes which files were passed over."""
        for split in ("train", "val", "test"):
            found = getattr(self, f"{split}_set", None)
            if found is not None and not found.readable.all():
                note = passed_over(found.sounds, found.readable, split)
                if note not in self.notes:
                    self.notes.append(note)

    @cached_property
    def batch_size(self) -> int:
        """Sounds in a batch, on each device."""
        world_size = 1 if self.trainer is None else self.trainer.world_size
        return chosen_batch_size(self.hparams.batch_size, len(self.train_set), world_size, self.notes)

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
            if not self.classes:
                raise UserError("data.balanced true is not possible: a regression has no classes")
            sampler = balanced_sampler(class_numbers(self.parts["train"][1], self.classes, "train").tolist())
        elif settings.shuffle and isinstance(self.train_set.sounds, list):
            # To open all files for their seconds would take long; their bytes grow with these.
            length = len if settings.path is None else size_of
            lengths = [length(sound) for sound in self.train_set.sounds]
            sampler = SimilarLengths(lengths, self.batch_size)
        return DataLoader(
            self.train_set,
            batch_size=self.batch_size,
            shuffle=settings.shuffle and sampler is None,
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
            raise UserError("there is nothing to predict on; give sound files or folders")
        size = self.hparams.batch_size or 64
        return DataLoader(self.predict_set, batch_size=size, collate_fn=collate, **self.workers)

    def predict_inputs(self, paths: list[Path]) -> list[str]:
        """Take sound files, and folders of them, to predict on; return the name of each sound.

        Raises:
            UserError: If a path does not exist, or a folder contains no sound.
        """
        files = []
        for path in paths:
            for file in files_in(path, ENDINGS, self.notes):
                files.append(str(file))
        self.predict_set = SoundDataset(files, None, self.rate, self.hparams.max_seconds)
        return files

    def test_example(self, index: int) -> tuple[np.ndarray, int]:
        """Return a sound of the test split and its samples a second; unreadable ones do not count."""
        sounds: Any = self.test_set
        index = int(sounds.readable.nonzero()[index])
        return sounds[index][0].numpy(), self.rate


def collate(examples: list) -> tuple:
    """Pad sounds with 0 to the longest of the batch; None is left out.

    Return samples (B, T) and lengths (B,), and if there are labels ((samples, lengths), labels (B,)).

    Raises:
        UserError: If all are None.
    """
    readable = [example for example in examples if example is not None]
    if not readable:
        raise UserError(f"none of the {len(examples)} files of a batch can be read; see --data.check true")
    if isinstance(readable[0], Tensor):
        lengths = [len(samples) for samples in readable]
        return pad_sequence(readable, batch_first=True), torch.tensor(lengths)
    sounds = [example[0] for example in readable]
    labels = [example[1] for example in readable]
    return collate(sounds), torch.stack(labels)


def passed_over(files: Sequence, readable: Tensor, split: str) -> str:
    """Return one line on the files that turned out unreadable."""
    names = [opened(files[index])[0] for index in (~readable).nonzero()[:5, 0].tolist()]
    count = int((~readable).sum())
    return f"{count} of {len(files)} files ({split}) cannot be read and were passed over: {first_few(names)}"


def synthesise(count: int, random: np.random.Generator) -> tuple[list, list[str]]:
    """Return `count` sounds of each class, and their classes.

    Pitch, onset, length and the noise around the sound are random; the signal is 0 to 20 dB above that noise.
    """
    sounds = []
    kinds = CLASSES * count
    for kind in kinds:
        sounds.append(synthesise_one(kind, random).astype(np.float32))
    return sounds, kinds


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

"""Hourly load of many households, made up here: days, weeks, a slow drift, and noise. Replace it by yours."""

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

DAY = 24


def households(count: int, hours: int) -> np.ndarray:
    """Return series, float32 (count, hours), each with a pattern of days and of weeks of its own."""
    random = np.random.default_rng(0)
    hour = np.arange(hours)
    series = []
    for _ in range(count):
        level = random.uniform(1, 3)
        morning, evening = random.uniform(6, 9), random.uniform(17, 22)
        day = np.exp(-((hour % DAY - morning) ** 2) / 6) + 2 * np.exp(-((hour % DAY - evening) ** 2) / 10)
        weekend = (hour // DAY % 7 >= 5) * random.uniform(0, 1)
        drift = np.cumsum(random.normal(scale=0.02, size=hours))
        noise = 0.1 * random.normal(size=hours)
        series.append(level * (1 + day * (1 + weekend)) + drift + noise)
    return np.array(series, dtype=np.float32)


class Windows(Dataset):
    """Pieces of series: `past` hours to see, float32 (past,), and `future` hours to predict, (future,)."""

    def __init__(self, series: Tensor, past: int, future: int, step: int):
        self.series = series
        self.past = past
        self.future = future
        self.step = step
        self.starts = (series.shape[1] - past - future) // step + 1  # in each series

    def __len__(self) -> int:
        return len(self.series) * self.starts

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row, place = divmod(index, self.starts)
        start = place * self.step
        middle = start + self.past
        return self.series[row, start:middle], self.series[row, middle : middle + self.future]


class DataModule(LightningDataModule):
    """Series, cut by time: the last fifth of the hours tests, the fifth before validates.

    Args:
        past: Hours that are seen.
        future: Hours that are predicted.
        households: Series.
        hours: Length of a series.
        batch_size: Windows in a batch, on each device.
    """

    def __init__(
        self,
        past: int = 7 * DAY,
        future: int = DAY,
        households: int = 50,
        hours: int = 100 * DAY,
        batch_size: int = 128,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str) -> None:
        settings = self.hparams
        series = torch.from_numpy(households(settings.households, settings.hours))
        train, val, test = series.tensor_split([int(0.6 * settings.hours), int(0.8 * settings.hours)], dim=1)
        self.train_set = Windows(train, settings.past, settings.future, step=6)
        self.val_set = Windows(val, settings.past, settings.future, step=settings.future)
        self.test_set = Windows(test, settings.past, settings.future, step=settings.future)
        self.last = series[:, -settings.past :]  # what comes after it nobody knows

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=self.hparams.batch_size)

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.last, batch_size=self.hparams.batch_size)

"""What training changes in a batch of sounds at random, so that others are understood as well."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Sounds = tuple[Tensor, Tensor]  # samples (B, T), 0 after the end of a sound; lengths (B,)

SPEED = 1.15  # how much faster or slower a sound is played at most
TONE = 4.0  # dB: standard deviation of the gain in each of six parts of the frequencies
BAND = 0.2  # of the mel scale: how wide the band that is taken out is at most
PAUSE = 0.2  # of a sound: how long the part that is silenced is at most
NOISE = (5.0, 35.0)  # dB that the noise is below the sound
DELAY = 0.1  # seconds that a sound begins later at most


def chosen_augmentation(setting: str | None, classes: list[str], notes: list[str]) -> str:
    """Return what training changes: the setting, or if it is None what suits the data; say what was chosen.

    The number that a sound stands for may depend on its pitch, its loudness or its length.
    """
    if setting is not None:
        return setting
    if not classes:
        notes.append("training sounds are not changed, as numbers may depend on that (--data.augment)")
        return "none"
    notes.append(
        "training sounds are changed at random: played faster or slower, which also changes their pitch, "
        "filtered, and put into noise (--data.augment)"
    )
    return "speed"


def augment(samples: Tensor, lengths: Tensor, rate: int, speed: bool) -> Sounds:
    """Return sounds that are filtered, partly silenced, later, in noise, and if `speed` faster or slower.

    Each sound draws its own changes. At another speed a voice is like that of another speaker (Ko et al.
    2015, doi:10.21437/Interspeech.2015-711); a filter is like another microphone; to take out a band of
    frequencies and a part of the time is SpecAugment (Park et al. 2019, arXiv:1904.08779), here of samples.
    """
    if speed:
        samples, lengths = at_other_speed(samples, lengths)
    samples = filtered(samples, lengths, rate)
    samples = silenced(samples, lengths)
    samples, lengths = delayed(samples, lengths, round(DELAY * rate))
    return in_noise(samples, lengths), lengths


def at_other_speed(samples: Tensor, lengths: Tensor) -> Sounds:
    """Return sounds played faster or slower, which makes them shorter and higher, or longer and lower.

    Between two samples it is interpolated linearly.
    """
    device = samples.device
    exponents = 2 * torch.rand(len(samples), device=device) - 1
    speeds = SPEED**exponents
    lengths = (lengths / speeds).long().clamp(min=1)
    numbers = torch.arange(int(lengths.max()), device=device)
    places = numbers * speeds[:, None]  # (B, T), in samples of the original
    before = places.long().clamp(max=samples.shape[1] - 1)
    after = (before + 1).clamp(max=samples.shape[1] - 1)
    share = (places - before).clamp(max=1)
    played = torch.lerp(samples.gather(1, before), samples.gather(1, after), share)
    return played * inside(lengths, played.shape[1]), lengths


def filtered(samples: Tensor, lengths: Tensor, rate: int) -> Tensor:
    """Return sounds with some frequencies louder, others softer, and a band of them nearly taken out."""
    batch, length = samples.shape
    device = samples.device
    spectrum = torch.fft.rfft(samples)  # (B, frequencies)
    count = spectrum.shape[1]
    gains = TONE * torch.randn(batch, 1, 6, device=device)  # dB
    gains = F.interpolate(gains, size=count, mode="linear", align_corners=True)[:, 0]
    frequencies = torch.linspace(0, rate / 2, count, device=device)  # Hz
    mel = torch.log1p(frequencies / 700)
    mel = mel / math.log1p(rate / 2 / 700)  # from 0 to 1
    gains = gains - 40 * within_span(mel.expand(batch, -1), BAND)
    samples = torch.fft.irfft(spectrum * 10 ** (gains / 20), n=length)
    return samples * inside(lengths, length)


def silenced(samples: Tensor, lengths: Tensor) -> Tensor:
    """Return sounds of which a part is silent."""
    share = torch.arange(samples.shape[1], device=samples.device) / lengths[:, None]
    return samples * ~within_span(share, PAUSE)


def delayed(samples: Tensor, lengths: Tensor, most: int) -> Sounds:
    """Return sounds with silence before them, of up to `most` samples."""
    delays = torch.randint(most + 1, (len(samples), 1), device=samples.device)
    samples = F.pad(samples, (most, 0))
    places = torch.arange(samples.shape[1], device=samples.device) + most - delays
    samples = samples.gather(1, places.clamp(max=samples.shape[1] - 1))
    return samples, lengths + delays[:, 0]


def in_noise(samples: Tensor, lengths: Tensor) -> Tensor:
    """Return sounds with white noise."""
    least, most = NOISE
    below = least + (most - least) * torch.rand(len(samples), device=samples.device)  # dB
    power = samples.square().sum(dim=1) / lengths
    loudness = (power * 10 ** (-below / 10)).sqrt()
    noisy = samples + loudness[:, None] * torch.randn_like(samples)
    return noisy * inside(lengths, samples.shape[1])


def within_span(places: Tensor, most: float) -> Tensor:
    """Return which places (B, N), from 0 to 1, lie in a span drawn for each sound, at most `most` wide."""
    width = most * torch.rand(len(places), 1, device=places.device)
    start = (1 - width) * torch.rand(len(places), 1, device=places.device)
    return (places >= start) & (places < start + width)


def inside(lengths: Tensor, count: int) -> Tensor:
    """Return which of `count` samples are no padding: bool (B, count)."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]

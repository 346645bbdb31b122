"""Sound files: what their headers say, and their samples."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from .harness.errors import UserError
from .harness.files import ending_of
from .harness.opening import opened

# What libsndfile reads: all of its formats but headerless ones.
FORMATS = [f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"]
COMMON = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aif", ".aiff")
# What it does not read, but ffmpeg does, if it is installed.
FFMPEG = shutil.which("ffmpeg")
BY_FFMPEG = (".m4a", ".mp4", ".aac", ".3gp", ".amr", ".webm", ".wma")
ENDINGS = (*COMMON, *FORMATS, ".aifc", ".snd", ".sph", *(BY_FFMPEG if FFMPEG else ()))
LOWEST_RATE = 1000  # samples a second; a damaged header says anything, and resampling would take for ever
HIGHEST_RATE = 1_000_000
LOST = 0.01  # of the power of a channel: if the mean of all has less, they cancel each other out
# How libsndfile logs that the header promises more bytes of samples than there are.
PROMISED = re.compile(r"(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)")
UNKNOWN = 2**31 - 1  # bytes or more are promised by a program that did not know how many would come


def read_sound(item: str | Path | dict, max_seconds: float) -> tuple[np.ndarray, int]:
    """Return the samples of a sound, all channels in one, float32 (samples,), and samples a second.

    Raises:
        UserError: If the file cannot be read, is cut off, or has no samples or such that are no numbers.
    """
    name, _ = opened(item)
    with open_sound(item, max_seconds) as sound:
        rate = sound.samplerate
        wanted = min(int(max_seconds * rate), promised_samples(sound))
        samples = sound.read(int(max_seconds * rate), dtype="float32", always_2d=True)
    if len(samples) == 0:
        raise UserError(f"{name} contains no sound")
    if len(samples) < 0.99 * wanted:
        raise UserError(f"{name} is cut off: it has {len(samples) / rate:.2f} of {wanted / rate:.2f} seconds")
    bad = ~np.isfinite(samples).all(axis=1)
    if bad.any():
        second = int(bad.argmax()) / rate
        raise UserError(f"{name} has {bad.sum()} samples that are no numbers, the first at {second:.3f} s")
    return one_channel(samples), rate


@contextmanager
def open_sound(item: str | Path | dict, max_seconds: float) -> Iterator[soundfile.SoundFile]:
    """Open a sound file.

    Raises:
        UserError: If it cannot be read, here or within the `with`.
    """
    name, file = opened(item)
    if FFMPEG and isinstance(file, Path) and ending_of(name) in BY_FFMPEG:
        file = converted(file, max_seconds)
    try:
        with soundfile.SoundFile(file) as sound:
            if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE:
                raise ValueError(f"{sound.samplerate} samples a second")
            yield sound
    except (OSError, TypeError, ValueError, soundfile.SoundFileError) as error:
        reason = getattr(error, "error_string", "") or str(error)
        raise UserError(f"{name} is not a sound that can be read: {reason}") from error


def converted(file: Path, max_seconds: float) -> BytesIO:
    """Return the beginning of a sound as WAV, made by ffmpeg.

    Raises:
        UserError: If ffmpeg cannot read the file.
    """
    limits = ["-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe", "-t", str(max_seconds + 1)]
    form = ["-vn", "-f", "wav", "-c:a", "pcm_f32le", "-"]
    done = subprocess.run([str(FFMPEG), *limits, "-i", f"file:{file}", *form], capture_output=True)
    if done.returncode or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(f"{file} is not a sound that ffmpeg can read: {reason[:100]}")
    return BytesIO(done.stdout)


def promised_samples(sound: soundfile.SoundFile) -> int:
    """Return how many samples a file has by its header, be it cut off or not."""
    found = PROMISED.search(sound.extra_info)
    if found and int(found[1]) < UNKNOWN:
        return sound.frames * int(found[1]) // max(1, int(found[2]))
    return sound.frames


def one_channel(samples: np.ndarray) -> np.ndarray:
    """Return the mean (N,) of channels (N, C); where they cancel each other out, the loudest of them."""
    mean = samples.mean(axis=1)
    powers = np.square(samples).mean(axis=0)
    if np.square(mean).mean() < LOST * powers.max():
        return samples[:, powers.argmax()]
    return mean


class Look(NamedTuple):
    """What the header of a sound file says."""

    rate: int
    seconds: float
    channels: int


def look(item: str | Path | dict, max_seconds: float) -> Look:
    """Return what the header of a sound file says."""
    with open_sound(item, max_seconds) as sound:
        return Look(sound.samplerate, sound.frames / sound.samplerate, sound.channels)


def describe(seen: list[Look], count: int, max_seconds: float, notes: list[str]) -> int:
    """Return the samples a second that sounds are read with; say what was found.

    Args:
        seen: What the headers of some sounds say.
        count: The sounds that these stand for.
        max_seconds: Where longer sounds are cut off.
        notes: What was found is appended to it.
    """
    of = f"{len(seen)} sounds"
    if len(seen) < count:
        of += f" looked at (of {count})"
    rates = Counter(one.rate for one in seen)
    rate, same = rates.most_common(1)[0]
    if same == len(seen):
        notes.append(f"{of}: all have {rate} samples a second")
    else:
        notes.append(f"{len(seen) - same} of {of} are resampled to {rate} Hz, as the others have")
    long = sum(one.seconds > max_seconds for one in seen)
    if long:
        share = 100 * long / len(seen)
        notes.append(
            f"{share:.0f} % of {of} are longer than {max_seconds:g} s and cut there: --data.max_seconds"
        )
    several = sum(one.channels > 1 for one in seen)
    if several:
        notes.append(
            f"{several} of {of} have several channels: their mean is read, or the loudest if they cancel out"
        )
    return rate

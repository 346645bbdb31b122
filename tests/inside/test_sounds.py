"""Sounds as people have them: found, labelled, and read for what they are."""

import io
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelSummary
from matplotlib.figure import Figure
from my_project import sounds
from my_project.augment import (
    NOISE,
    PAUSE,
    SPEED,
    at_other_speed,
    augment,
    chosen_augmentation,
    delayed,
    filtered,
    in_noise,
    silenced,
)
from my_project.data import DataModule, SoundDataset, collate
from my_project.harness.errors import UserError
from my_project.harness.pictures import draw_example
from my_project.model import Model
from my_project.sounds import read_sound
from torch import Tensor

RATE = 8000


def tone(pitch: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return 0.5 * np.sin(2 * np.pi * pitch * time)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def write_classes(folder: Path, count: int = 8) -> Path:
    for name, pitch in (("low", 300), ("high", 1200)):
        for number in range(count):
            write(folder / name / f"{number}.wav", tone(pitch, 0.3 + 0.02 * number))
    return folder


def set_up(folder: Path, **settings) -> DataModule:
    data = DataModule(path=str(folder), **settings)
    data.setup("fit")
    return data


def refusal(folder: Path, **settings) -> str:
    """Return the one line with which the data are refused."""
    with pytest.raises(UserError) as error:
        set_up(folder, **settings)
    line = str(error.value)
    assert "\n" not in line
    assert len(line) <= 400
    return line


def said(notes: list[str], *words: str) -> bool:
    assert all(len(note) < 300 for note in notes), notes
    return any(all(word in note for word in words) for note in notes)


def cut_wav(path: Path) -> None:
    write(path, tone(300))
    path.write_bytes(path.read_bytes()[:3000])


def cut_flac(path: Path) -> None:
    content = io.BytesIO()
    soundfile.write(content, tone(300), RATE, format="FLAC")
    path.write_bytes(content.getvalue()[:2000])


def not_a_number(path: Path) -> None:
    samples = tone(300)
    samples[2000] = np.nan
    write(path, samples, subtype="FLOAT")


DAMAGES = {
    "cut wav": (cut_wav, r"cut off: it has 0\.18 of 0\.50 seconds"),
    "cut flac": (cut_flac, "not a sound"),
    "not a number": (not_a_number, r"1 samples that are no numbers, the first at 0\.250 s"),
    "empty": (lambda path: path.write_bytes(b""), "not a sound"),
    "text": (lambda path: path.write_text("no sound"), "not a sound"),
    "no samples": (lambda path: write(path, np.zeros(0)), "contains no sound"),
    "link to nothing": (lambda path: path.symlink_to("gone.wav"), "not a sound"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_read_is_named_or_passed_over(tmp_path, damage):
    make, reason = DAMAGES[damage]
    write_classes(tmp_path)
    bad = tmp_path / "low" / "bad.wav"
    make(bad)
    with pytest.raises(UserError, match=reason):
        read_sound(str(bad), 10)
    for check in (None, True):
        line = refusal(tmp_path, check=check)
        assert "low/bad.wav" in line
        assert "--data.skip_unreadable true" in line
    data = set_up(tmp_path, skip_unreadable=True)
    assert said(data.notes, "1 of 17 files", "bad.wav")
    assert sum(len(part[0]) for part in data.parts.values()) == 16


def test_a_stream_without_a_length_is_whole(tmp_path):
    path = write(tmp_path / "x.wav", tone(300))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert len(read_sound(path, 10)[0]) == 4000


def test_a_cut_off_end_that_is_not_read_does_not_matter(tmp_path):
    path = write(tmp_path / "x.wav", tone(300, 2))
    path.write_bytes(path.read_bytes()[:20000])
    assert len(read_sound(path, 1)[0]) == RATE


@pytest.mark.parametrize("weight", [-1.0, -0.999, -0.9])
def test_channels_that_cancel_out_are_heard(tmp_path, weight):
    wave = tone(300)
    path = write(tmp_path / "x.wav", np.stack([wave, weight * wave], axis=1))
    samples, _ = read_sound(path, 10)
    assert np.abs(samples).max() > 0.4


def test_other_channels_are_averaged(tmp_path):
    path = write(tmp_path / "x.wav", np.stack([tone(300), tone(500)], axis=1))
    samples, _ = read_sound(path, 10)
    assert np.abs(samples - (tone(300) + tone(500)) / 2).max() < 0.001


def test_what_the_headers_say_is_told(tmp_path):
    write_classes(tmp_path)
    for name in ("low", "high"):
        for number in range(4):
            write(tmp_path / name / f"long{number}.flac", tone(300, 3, 16000), 16000)
            both = np.stack([tone(300), -tone(300)], axis=1)
            write(tmp_path / name / f"stereo{number}.ogg", both)
    data = set_up(tmp_path, max_seconds=1.0)
    assert data.rate == RATE
    assert said(data.notes, "resampled to 8000 Hz")
    assert said(data.notes, "longer than 1 s", "--data.max_seconds", "%")
    assert said(data.notes, "several channels")
    longest = max(len(sound) for sound, _ in data.train_set)
    assert longest == RATE


def test_what_ffmpeg_could_read_is_counted_and_named(tmp_path, monkeypatch):
    write_classes(tmp_path)
    for name in ("low", "high"):
        for number in range(5):
            (tmp_path / name / f"{number}.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    monkeypatch.setattr(sounds, "FFMPEG", None)
    without = [ending for ending in sounds.ENDINGS if ending not in sounds.BY_FFMPEG]
    monkeypatch.setattr("my_project.data.ENDINGS", tuple(without))
    data = set_up(tmp_path)
    assert said(data.notes, "10 files passed over", "10 .m4a", "ffmpeg")
    predicted = DataModule(path=str(tmp_path))
    predicted.load_state_dict(data.state_dict())
    assert len(predicted.predict_inputs([tmp_path])) == 16
    assert said(predicted.notes, "10 .m4a")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_ffmpeg_reads_m4a(tmp_path):
    wav = write(tmp_path / "x.wav", tone(300, 2, 16000), 16000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, tmp_path / "x.m4a"], check=True)
    samples, rate = read_sound(str(tmp_path / "x.m4a"), 1)
    assert rate == 16000
    assert len(samples) == 16000
    (tmp_path / "y.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(UserError, match=r"y\.m4a is not a sound that ffmpeg can read"):
        read_sound(str(tmp_path / "y.m4a"), 1)


def test_spectrograms_have_axes():
    axes = Figure().add_subplot()
    axes.set_axis_off()
    draw_example(axes, (tone(1000), RATE))
    assert axes.axison
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("milliseconds", "kHz")
    assert axes.get_xlim()[1] == pytest.approx(500, rel=0.1)
    assert axes.get_ylim()[1] == pytest.approx(4, rel=0.1)


def test_labels_in_a_table_and_speakers_as_groups(tmp_path):
    lines = ["file_name,label"]
    for number in range(40):
        write(tmp_path / "clips" / f"s{number % 8}_{number}.wav", tone(300 + 900 * (number % 2)))
        lines.append(f"s{number % 8}_{number}.wav,{'low' if number % 2 == 0 else 'high'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    data = set_up(tmp_path, group=r"(s\d)_")
    assert data.classes == ["high", "low"]
    speakers = []
    for split in ("train", "val", "test"):
        speakers.append({Path(file).name[:2] for file in data.parts[split][0]})
    assert sum(map(len, speakers)) == 8


def test_what_turns_out_unreadable_is_named_passed_over_or_silent(tmp_path):
    files = [str(write(tmp_path / "0.wav", tone(300))), str(tmp_path / "1.wav")]
    labels = torch.tensor([0, 1])
    with pytest.raises(UserError, match=r"1\.wav is not a sound.*--data\.skip_unreadable"):
        SoundDataset(files, labels, RATE, 10)[1]
    skipping = SoundDataset(files, labels, RATE, 10, skip=True)
    (samples, lengths), targets = collate([skipping[0], skipping[1]])
    assert samples.shape == (1, 4000)
    assert lengths.tolist() == [4000]
    assert targets.tolist() == [0]
    assert skipping.readable.tolist() == [True, False]
    unlabelled = SoundDataset(files, None, RATE, 10)
    assert not unlabelled[1].any()
    assert unlabelled.readable.tolist() == [True, False]


def test_damaged_bytes_never_end_in_a_traceback(tmp_path):
    random = np.random.default_rng(0)
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"):
        content = io.BytesIO()
        soundfile.write(content, tone(300), RATE, format=kind)
        for _ in range(12):
            damaged = bytearray(content.getvalue())
            for place in random.integers(0, 200, 4):
                damaged[place] = random.integers(256)
            path = tmp_path / f"x.{kind.lower()}"
            path.write_bytes(damaged[: random.integers(1, len(damaged))])
            with suppress(UserError):
                read_sound(path, 10)


# What training changes at random


def batch_of_tones(pitch: float = 500, seconds: float = 0.5, count: int = 40) -> tuple[Tensor, Tensor]:
    """Return equal tones, (B, T), and their lengths; the padding after them is a fifth of T."""
    samples = torch.from_numpy(tone(pitch, seconds)).float()
    padded = torch.cat([samples, torch.zeros(len(samples) // 4)])
    return padded.expand(count, -1).contiguous(), torch.full((count,), len(samples))


def pitches(samples: Tensor) -> Tensor:
    """Return the loudest frequency of each sound, in Hz: (B,)."""
    spectrum = torch.fft.rfft(samples, n=4 * RATE).abs()
    return spectrum.argmax(dim=1) / 4


def silent_after(samples: Tensor, lengths: Tensor) -> bool:
    return not samples[torch.arange(samples.shape[1]) >= lengths[:, None]].any()


def test_at_another_speed_pitch_and_length_change_together():
    torch.manual_seed(0)
    samples, lengths = at_other_speed(*batch_of_tones())
    assert silent_after(samples, lengths)
    assert samples.shape[1] == lengths.max()
    speeds = pitches(samples) / 500
    assert 1 / SPEED - 0.02 < speeds.min() < 0.93
    assert SPEED + 0.02 > speeds.max() > 1.07
    torch.testing.assert_close(lengths * speeds, torch.full((40,), 4000.0), rtol=0.01, atol=0)


def test_a_filter_changes_neither_pitch_nor_length():
    torch.manual_seed(0)
    samples, lengths = batch_of_tones()
    changed = filtered(samples, lengths, RATE)
    assert changed.shape == samples.shape
    assert silent_after(changed, lengths)
    loudness = changed.square().mean(dim=1).sqrt() / samples.square().mean(dim=1).sqrt()
    assert loudness.min() < 0.1  # its band was taken out
    assert loudness.max() > 1.1
    loud = loudness > 0.5
    torch.testing.assert_close(pitches(changed[loud]), pitches(samples[loud]), rtol=0, atol=2)


def test_noise_silence_and_delay_keep_the_length():
    torch.manual_seed(0)
    samples, lengths = batch_of_tones()
    noisy = in_noise(samples, lengths)
    assert silent_after(noisy, lengths)
    noise = (noisy - samples).square().sum(dim=1) / samples.square().sum(dim=1)
    decibels = 10 * noise.log10()
    assert -NOISE[1] - 1 < decibels.min() < decibels.max() < -NOISE[0] + 1
    pauses = (silenced(torch.ones(40, 4000), lengths) == 0).float().mean(dim=1)
    assert 0.1 < pauses.max() <= PAUSE
    later, ends = delayed(samples, lengths, 800)
    assert silent_after(later, ends)
    for one, end in zip(later, ends.tolist(), strict=True):
        assert torch.equal(one[end - 4000 : end], samples[0, :4000])
    assert 0 <= ends.min() - 4000 < 100
    assert 700 < ends.max() - 4000 <= 800


@pytest.mark.parametrize("seconds", [0.0002, 1.0])
def test_sounds_of_any_length_can_be_changed(seconds):
    samples, lengths = batch_of_tones(seconds=seconds)
    for _ in range(10):
        changed, ends = augment(samples, lengths, RATE, speed=True)
        assert changed.isfinite().all()
        assert silent_after(changed, ends)
        assert ends.min() >= 1


def test_what_is_changed_suits_the_labels_and_is_said():
    notes: list[str] = []
    assert chosen_augmentation("noise", [], notes) == "noise"
    assert chosen_augmentation("none", ["a", "b"], notes) == "none"
    assert notes == []
    assert chosen_augmentation(None, ["a", "b"], notes) == "speed"
    assert chosen_augmentation(None, [], notes) == "none"
    assert all("--data.augment" in note for note in notes)
    assert len(notes) == 2


class Watch(Callback):
    """Count the sounds of training and validation that are those of the data set, and those that are not."""

    def __init__(self, data: DataModule):
        self.originals = {sound.tobytes() for part in data.parts.values() for sound in part[0]}
        self.changed = {"training": 0, "validation": 0}

    def count(self, stage: str, samples: Tensor, lengths: Tensor) -> None:
        for sound, length in zip(samples, lengths.tolist(), strict=True):
            self.changed[stage] += sound[:length].numpy().tobytes() not in self.originals

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.count("training", *batch[0])

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.count("validation", *batch[0])


@pytest.mark.parametrize(("augment", "changed"), [(None, 128), ("none", 0)])
def test_training_batches_are_changed_and_no_others(augment, changed):
    """Lightning's summary of the layers gives the hook an input without labels, so it is on."""
    data = DataModule(augment=augment)
    watch = Watch(data)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=2,
        accelerator="cpu",
        callbacks=[watch, ModelSummary()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    model = Model(data.classes, rate=data.rate, width=4)
    data.hparams.batch_size = 64
    trainer.fit(model, data)
    assert watch.changed == {"training": changed, "validation": 0}

"""Pretrained models of sounds, of Hugging Face `transformers`: `--model.backbone facebook/wav2vec2-base`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .harness.backbones import (
    build,
    check_kind,
    fetch_config,
    fetch_processor,
    refuse_other_settings,
    width_of,
)
from .network import Network

SHORTEST = 0.025  # seconds that the first frame of wav2vec 2.0 sees


def describe(name: str) -> dict:
    """Return what is to be known of a pretrained model, as plain values.

    These are its config, the features that it gives, the samples a second that it was trained on, whether
    each sound is normalised, and whether it is told where a sound ends.

    Raises:
        UserError: If there is no such model, or it does not take the samples of sounds.
    """
    config = fetch_config(name)
    check_kind(name, config, "input_values")
    width = width_of(name, config, "input_values", (1, 16000))
    extractor = fetch_processor(name, "AutoFeatureExtractor")
    return {
        "name": name,
        "model": config,
        "width": width,
        "rate": extractor.sampling_rate,
        "normalize": bool(getattr(extractor, "do_normalize", False)),
        "mask": bool(getattr(extractor, "return_attention_mask", False)),
    }


class Pretrained(nn.Module):
    """Score a sound with a pretrained backbone and a new head, which sees the mean over all frames.

    Args:
        description: What `describe` returns. The weights are random: train.py loads the pretrained ones when
            a new run starts, and a checkpoint has its own.
        num_classes: Scores to return.
        settings: Those of `Network`, of which rate, target_scale and dropout are used.
    """

    def __init__(self, description: dict, num_classes: int, settings: dict):
        super().__init__()
        refuse_other_settings(settings, Network, used=("rate", "target_scale", "dropout"))
        self.rate = description["rate"]
        self.normalize = description["normalize"]
        self.masked = description["mask"]
        target_scale: list[float] = settings.get("target_scale") or [0.0, 1.0]
        self.target_mean, self.target_std = target_scale
        self.backbone = build(description["model"])
        self.head = nn.Sequential(
            nn.Dropout(settings.get("dropout", 0.1)),
            nn.Linear(description["width"], num_classes),
        )

    def forward(self, sounds: tuple[Tensor, Tensor]) -> Tensor:
        """Return scores (B, num_classes) for samples (B, T), of which the first lengths (B,) count.

        They are those of classes, or a number in the units of the labels.
        """
        samples, lengths = sounds
        samples = F.pad(samples, (0, int(SHORTEST * self.rate)))  # so that there is a frame
        inside = torch.arange(samples.shape[1], device=samples.device) < lengths[:, None]  # (B, T)
        if self.normalize:
            samples = normalized(samples, inside)
        if self.masked:
            output = self.backbone(input_values=samples, attention_mask=inside.long())
        else:
            output = self.backbone(input_values=samples)
        states = output.last_hidden_state  # (B, frames, width)
        frames = torch.arange(states.shape[1], device=samples.device)
        starts = frames * samples.shape[1] // states.shape[1]  # the sample at which each frame begins
        mask = (starts < lengths[:, None]).to(states.dtype).unsqueeze(2)  # (B, frames, 1)
        features = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return self.target_mean + self.target_std * self.head(features)

    def example_input(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return a batch of noise of random lengths, to export the network with."""
        lengths = torch.randint(self.rate // 10, self.rate, (batch,))
        samples = torch.randn(batch, int(lengths.max()))
        inside = torch.arange(samples.shape[1]) < lengths[:, None]
        return samples * inside, lengths


def normalized(samples: Tensor, inside: Tensor) -> Tensor:
    """Return sounds (B, T) with mean 0 and variance 1, each by itself; outside they are 0."""
    count = inside.sum(dim=1, keepdim=True)
    mean = (samples * inside).sum(dim=1, keepdim=True) / count
    centred = (samples - mean) * inside
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()

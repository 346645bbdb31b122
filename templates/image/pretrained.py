"""Pretrained models of images, of Hugging Face `transformers`: `--model.backbone facebook/dinov2-small`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .harness.backbones import (
    build,
    check_kind,
    fetch_config,
    fetch_processor,
    pooled,
    refuse_other_settings,
    width_of,
)
from .network import Network


def describe(name: str) -> dict:
    """Return what is to be known of a pretrained model, as plain values.

    These are its config, the features that it gives, and the images that it was trained on: their size in
    pixels, and the mean and standard deviation of each colour, between 0 and 1.

    Raises:
        UserError: If there is no such model, or it does not take images.
    """
    config = fetch_config(name)
    check_kind(name, config, "pixel_values")
    processor = fetch_processor(name, "AutoImageProcessor")
    size = processor.size
    if getattr(processor, "do_center_crop", False) and processor.crop_size:
        size = processor.crop_size
    height = size.height or size.shortest_edge
    width = size.width or size.shortest_edge
    return {
        "name": name,
        "model": config,
        "width": width_of(name, config, "pixel_values", (1, 3, height, width)),
        "size": [height, width],
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
    }


class Pretrained(nn.Module):
    """Score an image with a pretrained backbone and a new head.

    Args:
        description: What `describe` returns. The weights are random: train.py loads the pretrained ones when
            a new run starts, and a checkpoint has its own.
        num_classes: Scores to return.
        settings: Those of `Network`, of which channels, target_scale and dropout are used, and mirror is not.
    """

    def __init__(self, description: dict, num_classes: int, settings: dict):
        super().__init__()
        used = ("channels", "target_scale", "dropout", "mirror")
        refuse_other_settings(settings, Network, used)
        self.size = description["size"]
        self.channels = settings.get("channels", 3)
        target_scale: list[float] = settings.get("target_scale") or [0.0, 1.0]
        self.target_mean, self.target_std = target_scale
        self.mean = nn.Buffer(torch.tensor(description["mean"])[:, None, None], persistent=False)
        self.std = nn.Buffer(torch.tensor(description["std"])[:, None, None], persistent=False)
        self.backbone = build(description["model"])
        self.head = nn.Sequential(
            nn.Dropout(settings.get("dropout", 0.1)),
            nn.Linear(description["width"], num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B, num_classes) for uint8 images (B, channels, H, W) of any size.

        They are resized to what the backbone was trained on; grey ones become three equal colours. Scores are
        those of classes, or a number in the units of the labels.
        """
        images = F.interpolate(images / 255, self.size, mode="bilinear", align_corners=False)
        colours = (images - self.mean) / self.std  # (B, 3, *size)
        features = pooled(self.backbone(pixel_values=colours))  # (B, width)
        return self.target_mean + self.target_std * self.head(features)

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise, to export the network with."""
        return torch.randint(256, (batch, self.channels, *self.size), dtype=torch.uint8)

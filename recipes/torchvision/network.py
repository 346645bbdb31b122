"""A network of torchvision with its pretrained weights, for the image task."""

import torch
from torch import Tensor, nn
from torchvision import models


class Network(nn.Module):
    """Score an image for each class with a backbone that was trained on ImageNet.

    With timm: `self.backbone = timm.create_model(architecture, pretrained=pretrained, num_classes=0)` and
    `features = self.backbone.num_features`.

    Args:
        channels: Colour channels of an image; grey ones are repeated.
        num_classes: Scores to return.
        architecture: A name of `torchvision.models`, of a network whose last layer is called `fc`.
        pretrained: Whether a new run starts from weights that are downloaded once. A checkpoint has all of
            them, so that testing and predicting download nothing.
    """

    def __init__(
        self, channels: int, num_classes: int, architecture: str = "resnet18", pretrained: bool = True
    ):
        super().__init__()
        self.channels = channels
        self.backbone = models.get_model(architecture, weights="DEFAULT" if pretrained else None)
        features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        self.head = nn.Linear(features, num_classes)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))  # of ImageNet
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores (B, num_classes) for uint8 images (B, channels, H, W)."""
        colours = images.expand(-1, 3, -1, -1) / 255
        return self.head(self.backbone((colours - self.mean) / self.std))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise, to export the network with."""
        return torch.randint(256, (batch, self.channels, 64, 64), dtype=torch.uint8)

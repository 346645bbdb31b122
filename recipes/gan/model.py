"""A GAN (Goodfellow et al. 2014, arXiv:1406.2661) with two optimizers in manual optimization."""

from pathlib import Path

import torch
from lightning import LightningModule
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .network import Discriminator, Generator


class Model(LightningModule):
    """Train a generator and a discriminator against each other, one step each for a batch.

    Args:
        noise: Numbers that an image is made of.
        width: Features of the layer next to the images, in both networks.
        lr: Learning rate of both Adams.
    """

    def __init__(self, noise: int = 16, width: int = 32, lr: float = 1e-3):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.automatic_optimization = False
        self.generator = Generator(noise, width)
        self.discriminator = Discriminator(width)
        # The same noise in all pictures shows how the images grow.
        self.register_buffer("fixed_noise", torch.randn(64, noise))

    @property
    def example_input_array(self) -> Tensor:
        return torch.randn(2, self.hparams.noise)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)  # (B, 1, 8, 8)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        generator_optimizer, discriminator_optimizer = self.optimizers()
        noise = torch.randn(len(real), self.hparams.noise, device=self.device)
        fake = self(noise)

        # The discriminator learns to tell real from fake; smoothed labels keep it from being too sure.
        real_scores = self.discriminator(real)
        fake_scores = self.discriminator(fake.detach())
        real_loss = F.binary_cross_entropy_with_logits(real_scores, torch.full_like(real_scores, 0.9))
        fake_loss = F.binary_cross_entropy_with_logits(fake_scores, torch.zeros_like(fake_scores))
        discriminator_optimizer.zero_grad()
        self.manual_backward(real_loss + fake_loss)
        discriminator_optimizer.step()

        # The generator learns to be taken for real.
        self.toggle_optimizer(generator_optimizer)
        scores = self.discriminator(fake)
        generator_loss = F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores))
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss)
        generator_optimizer.step()
        self.untoggle_optimizer(generator_optimizer)

        losses = {"train/generator_loss": generator_loss, "train/discriminator_loss": real_loss + fake_loss}
        self.log_dict(losses, on_step=False, on_epoch=True, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Draw 64 images in eight rows into the run's folder."""
        if not self.trainer.is_global_zero:
            return
        self.generator.eval()
        with torch.no_grad():
            images = self(self.fixed_noise)
        self.generator.train()
        rows = images.view(8, 8, 8, 8).permute(0, 2, 1, 3).reshape(64, 64)
        pixels = ((rows + 1) * 127.5).byte().cpu().numpy()
        picture = Image.fromarray(pixels).resize((512, 512), Image.Resampling.NEAREST)
        picture.save(Path(self.trainer.default_root_dir, "generated.png"))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        lr = self.hparams.lr
        return [
            torch.optim.Adam(self.generator.parameters(), lr=lr, betas=(0.5, 0.999)),
            torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=(0.5, 0.999)),
        ]

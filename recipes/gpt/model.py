"""Train a small GPT on characters; predict.py lets it go on with a text."""

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from .network import Network


class Model(LightningModule):
    """Predict the next character.

    Args:
        characters: All characters of the text; the place of one is its token.
        lr: Learning rate of AdamW, after 100 steps of warm-up.
        length: Characters that the network sees at once; also a setting of the data.
        width: Features of a character.
        depth: Blocks of the network.
        heads: Heads of the attention.
        dropout: Share of features that training sets to zero.
        new_characters: How many characters predict.py writes.
        temperature: How boldly it writes: near 0 the most probable character, 1 as the network says.
    """

    def __init__(
        self,
        characters: str,
        lr: float = 2e-3,
        length: int = 128,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        new_characters: int = 300,
        temperature: float = 0.8,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.network = Network(len(characters), length, width, depth, heads, dropout)

    @property
    def example_input_array(self) -> Tensor:
        length = int(torch.randint(2, self.hparams.length, ()))
        return torch.randint(len(self.hparams.characters), (2, length))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network(tokens)  # (B, T, characters)

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Return the mean cross-entropy of a character, in nats."""
        tokens, following = batch  # (B, T) and (B, T)
        return F.cross_entropy(self(tokens).transpose(1, 2), following)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch))

    def predict_step(self, batch: Tensor, batch_idx: int) -> list[str]:
        """Return each text with `new_characters` more, each drawn as the network scores it."""
        tokens = batch
        for _ in range(self.hparams.new_characters):
            scores = self(tokens[:, -self.hparams.length :])[:, -1]
            probabilities = (scores / self.hparams.temperature).softmax(dim=1)
            tokens = torch.cat([tokens, torch.multinomial(probabilities, 1)], dim=1)
        texts = []
        for row in tokens.tolist():
            texts.append("".join(self.hparams.characters[token] for token in row))
        return texts

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, betas=(0.9, 0.99))
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}

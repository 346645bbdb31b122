"""Pretrained models of texts, of Hugging Face `transformers`: `--model.backbone distilbert-base-uncased`."""

import torch
from torch import Tensor, nn

from .harness.backbones import (
    build,
    check_kind,
    fetch_config,
    fetch_processor,
    fingerprint,
    refuse_other_settings,
    width_of,
)
from .harness.errors import UserError
from .network import Network


def describe(name: str) -> dict:
    """Return what is to be known of a pretrained model, as plain values.

    These are its config, the features that it gives, the tokens of the longest text, the token that pads
    texts, and a fingerprint of its tokenizer, which itself goes into the run's folder.

    Raises:
        UserError: If there is no such model, or it does not take texts.
    """
    config = fetch_config(name)
    check_kind(name, config, "input_ids")
    width = width_of(name, config, "input_ids", (1, 8))
    tokenizer = fetch_processor(name, "AutoTokenizer")
    mark = fingerprint(tokenizer)
    if len(tokenizer) > config["vocab_size"]:
        raise UserError(
            f"model.backbone {name} knows {config['vocab_size']} tokens, its tokenizer {len(tokenizer)}"
        )
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = tokenizer.eos_token_id or 0
    longest = min(tokenizer.model_max_length, config.get("max_position_embeddings") or 512)
    return {
        "name": name,
        "model": config,
        "width": width,
        "longest": longest,
        "padding": padding,
        "tokenizer": mark,
    }


class Pretrained(nn.Module):
    """Score a text with a pretrained backbone and a new head, which sees the mean over all tokens.

    Args:
        description: What `describe` returns. The weights are random: train.py loads the pretrained ones when
            a new run starts, and a checkpoint has its own.
        num_classes: Scores to return.
        settings: Those of `Network`, of which max_length and dropout are used.
    """

    def __init__(self, description: dict, num_classes: int, settings: dict):
        super().__init__()
        refuse_other_settings(settings, Network, used=("max_length", "dropout"))
        self.padding = description["padding"]
        self.vocabulary = description["model"]["vocab_size"]
        self.max_length = settings.get("max_length", description["longest"])
        self.backbone = build(description["model"])
        self.head = nn.Sequential(
            nn.Dropout(settings.get("dropout", 0.1)),
            nn.Linear(description["width"], num_classes),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return class scores (B, num_classes) for numbers of tokens (B, L), padded as the tokenizer does."""
        mask = (tokens != self.padding).long()  # (B, L)
        states = self.backbone(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, L, width)
        total = (states * mask.unsqueeze(2)).sum(dim=1)
        return self.head(total / mask.sum(dim=1, keepdim=True).clamp(min=1))

    def example_input(self, batch: int) -> Tensor:
        """Return a batch of noise of some length, to export the network with."""
        length = int(torch.randint(2, self.max_length + 1, ()))
        tokens = torch.randint(self.vocabulary, (batch, length))
        return tokens.where(tokens != self.padding, (self.padding + 1) % self.vocabulary)

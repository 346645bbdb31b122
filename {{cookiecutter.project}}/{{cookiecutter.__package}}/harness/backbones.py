"""Pretrained models of Hugging Face `transformers`: what they are, their weights, their tokenizers.

Importing `transformers` takes seconds, so that is done only where a model is asked for. What is to be known
of one is fetched once, when a new run starts, and travels as plain values in the hyper-parameters of the
model: a checkpoint needs neither the network nor the files that the run started from.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from .errors import UserError, first_few
from .names import same_shape

TOKENIZER = "tokenizer"  # folder in that of a run

# The name of what a model takes, and what that is.
INPUTS = {
    "pixel_values": "images",
    "input_ids": "texts",
    "input_values": "sounds",
    "input_features": "spectrograms",
}
# Of no use here. Weights that no step uses would be an error where several processes train.
LEFT_OUT = ("_name_or_path", "architectures", "id2label", "label2id", "transformers_version")
CHANGED = {
    "apply_spec_augment": False,
    "dtype": "float32",
    "layerdrop": 0.0,
    "mask_feature_prob": 0.0,
    "mask_time_prob": 0.0,
    "use_cache": False,
    "use_mask_token": False,
}


def library() -> Any:
    """Return the package `transformers`.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UserError(
            f"model.backbone needs the package transformers: pip install '.[pretrained]' ({error})"
        ) from error
    transformers.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    return transformers


def fetch_config(name: str) -> dict[str, Any]:
    """Return the config of a model as plain values, from the hub or a folder.

    Raises:
        UserError: If it cannot be had.
    """
    with one_line(name):
        found = library().AutoConfig.from_pretrained(name, trust_remote_code=False)
    config = json.loads(found.to_json_string(use_diff=False))
    for key in LEFT_OUT:
        config.pop(key, None)
    for key, value in CHANGED.items():
        if key in config:
            config[key] = value
    return config


def fetch_processor(name: str, kind: str) -> Any:
    """Return how a model wants its inputs: kind is AutoImageProcessor, AutoFeatureExtractor or AutoTokenizer.

    Raises:
        UserError: If it cannot be had.
    """
    with one_line(name):
        return getattr(library(), kind).from_pretrained(name, trust_remote_code=False)


def build(config: dict[str, Any]) -> nn.Module:
    """Return a model with random weights.

    A pooling layer with weights is left out: most checkpoints have none for it.
    """
    transformers = library()
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config))
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and list(pooler.parameters()):
        model.pooler = None
    return model


def pooled(output: Any) -> Tensor:
    """Return features (B, width) of an output: what the model has pooled, else the mean over all places."""
    found = getattr(output, "pooler_output", None)
    if found is not None:
        return found.flatten(1)
    states = output.last_hidden_state
    if states.ndim == 4:  # (B, width, H, W)
        return states.mean(dim=(2, 3))
    return states.mean(dim=1)


def check_kind(name: str, config: dict[str, Any], takes: str) -> None:
    """Raise a UserError unless a model takes what `takes` says, a key of INPUTS."""
    wanted = f"this project needs one that takes {INPUTS[takes]}"
    kind = f"{name} is a model of the kind {config.get('model_type')}"
    try:
        with torch.device("meta"):  # without memory
            found = str(build(config).main_input_name)
    except (KeyError, ValueError) as error:
        raise UserError(f"{kind}, which cannot be used; {wanted} ({error})") from error
    if found != takes:
        raise UserError(f"{kind}, which takes {INPUTS.get(found, found)}; {wanted}")


def width_of(name: str, config: dict[str, Any], takes: str, shape: tuple[int, ...]) -> int:
    """Return how many features a model gives for a batch of inputs of this shape, by trying.

    Most models can be tried without memory; some look at values, so they are made in earnest.

    Raises:
        UserError: If it does not take such inputs, or not alone.
    """
    problem = ""
    for device in ("meta", "cpu"):
        with torch.device(device), torch.no_grad():
            model = build(config).eval()
            inputs = torch.zeros(shape, dtype=torch.long if takes == "input_ids" else torch.float32)
            try:
                return pooled(model(**{takes: inputs})).shape[1]
            except Exception as error:  # each model says it in its own way
                problem = " ".join(str(error).split())[:200]
    raise UserError(f"model.backbone {name} does not take {INPUTS[takes]} alone: {problem}")


def load_weights(name: str, model: Any) -> None:
    """Load the pretrained weights into `network.backbone` of a model, and say so.

    Raises:
        UserError: If they cannot be had, or do not fit.
    """
    with one_line(name):
        source, report = library().AutoModel.from_pretrained(
            name, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
        )
    backbone = model.network.backbone
    weights = source.state_dict()
    found = {}
    new = []
    for key, mine in backbone.state_dict().items():
        if key in weights and key not in report["missing_keys"] and same_shape(weights[key], mine):
            found[key] = weights[key]
        else:
            new.append(key)
    if not found:
        raise UserError(f"none of the weights of {name} fit its config: it has {first_few(weights, 2)}")
    backbone.load_state_dict(found, strict=False)
    rank_zero_info(f"Weights from {name}")
    rank_zero_info(f"  loaded:  network.backbone ({len(found)} tensors)")
    rank_zero_info(f"  new:     {first_few(['network.head', *new])}")


def refuse_other_settings(settings: dict[str, Any], network: type, used: tuple[str, ...]) -> None:
    """Raise a UserError if a setting of a network is set that has no use with a pretrained one."""
    for name, parameter in signature(network).parameters.items():
        default = parameter.default
        if name in used or default is Parameter.empty or settings.get(name, default) == default:
            continue
        raise UserError(
            f"model.{name} {settings[name]} has no use: model.backbone replaces Network; leave it out"
        )


def fingerprint(tokenizer: Any) -> str:
    """Return a text that changes with what a tokenizer makes of texts."""
    rules = getattr(tokenizer, "backend_tokenizer", None)
    if rules is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = json.loads(rules.to_str())
        for changing in ("truncation", "padding"):  # set by each use
            content.pop(changing, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_tokenizer(place: str, expected: str) -> Any:
    """Return a tokenizer: for a new run that of a model, else the one in the run's folder.

    Args:
        place: Name or folder of the model; or the folder of the tokenizer.
        expected: Its fingerprint.

    Raises:
        UserError: If it is missing, or another one than that of the training.
    """
    if Path(place).name == TOKENIZER and not Path(place).is_dir():
        raise UserError(f"{place} is missing: the tokenizer that the run was trained with")
    tokenizer = fetch_processor(place, "AutoTokenizer")
    if fingerprint(tokenizer) != expected:
        raise UserError(f"the tokenizer in {place} is not the one that the run was trained with")
    return tokenizer


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """Turn what `transformers` and the hub raise into one line about the model that was asked for."""
    try:
        yield
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(reason(name, error)) from error


def reason(name: str, error: BaseException) -> str:
    """Return why a model cannot be had; the first cause says it best."""
    causes = set()
    cause: BaseException | None = error
    while cause is not None:
        causes.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "GatedRepoError" in causes:
        return (
            f"model.backbone {name} is gated: accept its conditions at https://huggingface.co/{name}, "
            "then log in with `hf auth login`"
        )
    if causes & {"RepositoryNotFoundError", "HFValidationError"}:
        return (
            f"model.backbone {name}: there is no folder and no model on the Hugging Face hub of this name "
            "(for a private one, log in with `hf auth login`)"
        )
    if causes & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectTimeout"}:
        return (
            f"model.backbone {name} is no folder, it was not fetched before, and the Hugging Face hub cannot "
            "be reached: start once with a network, or give a folder"
        )
    text = " ".join(str(error).split())
    return f"model.backbone {name} cannot be used: {text[:300]}"

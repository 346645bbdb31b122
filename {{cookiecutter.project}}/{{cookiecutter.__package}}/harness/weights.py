"""Start from the weights of another model, and let what is new in this one learn first."""

import json
from collections import Counter
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import UserError

COMPILED = "_orig_mod."  # torch.compile(module) puts it into the names of the module's weights
HEAD = "network.head."  # what depends on the classes


def start_from(path: str, model: LightningModule) -> None:
    """Load the weights in `path`, runs/<id> or a .ckpt or .safetensors file, and say which.

    Weights are loaded where their name and shape are those of one in the model. If the classes are
    others, the head is left as it is.

    Raises:
        UserError: If there are no weights in `path`, or none that fit.
    """
    if path.endswith(".safetensors"):
        found, classes = _from_safetensors(path)
    else:
        found, classes = _from_checkpoint(path)
    mine = model.state_dict()
    weights = match_names(found, mine)
    other_classes = classes is not None and classes != list(model.hparams.get("classes", classes))
    loaded = {}
    for name, value in weights.items():
        if name not in mine or not _same_shape(value, mine[name]):
            continue
        if other_classes and name.startswith(HEAD):
            continue
        loaded[name] = value

    if not loaded.keys() & dict(model.named_parameters()).keys():
        theirs = ", ".join(_shapes(found)[:2])
        ours = ", ".join(_shapes(mine)[:2])
        raise UserError(f"no weights of --model.init_from {path} fit: it has {theirs}; the model has {ours}")
    model.load_state_dict(loaded, strict=False)

    skipped = {name: value for name, value in weights.items() if name not in loaded}
    new = {name: value for name, value in mine.items() if name not in loaded}
    parts = Counter(".".join(name.split(".")[:2]) for name in loaded)
    note = ", for other classes" if other_classes else ""
    rank_zero_info(f"Weights from {path}{note}")
    rank_zero_info(f"  loaded:  {', '.join(f'{part} ({count} tensors)' for part, count in parts.items())}")
    rank_zero_info(f"  skipped: {', '.join(_shapes(skipped)) or 'nothing'}")
    rank_zero_info(f"  new:     {', '.join(_shapes(new)) or 'nothing'}")
    for before, after in zip(found, weights, strict=True):
        if before != after:
            rank_zero_info(f"  renamed: {before} to {after}, and others alike")
            break


def match_names(weights: dict[str, Tensor], mine: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` in the same order, under the names that the model has for them.

    Two differences are understood: `_orig_mod.`, which torch.compile puts into names, on either side,
    and, if no name is known, a prefix that the names have or lack. Other names stay as they are.
    """
    names = {name.replace(COMPILED, ""): name for name in mine}
    plain = {name.replace(COMPILED, ""): value for name, value in weights.items()}
    removed, added = "", ""
    if not plain.keys() & names.keys():
        removed, added = _prefixes(plain, {name: mine[full] for name, full in names.items()})
    matched = {}
    for name, value in plain.items():
        known = name
        if name.startswith(removed):
            known = added + name.removeprefix(removed)
        matched[names.get(known, known)] = value
    return matched


def _prefixes(weights: dict[str, Tensor], mine: dict[str, Tensor]) -> tuple[str, str]:
    """Return the prefix to remove from `weights` and the one to add so that most of them fit `mine`."""
    most = 0
    best = "", ""
    for removed in _beginnings(weights):
        for added in _beginnings(mine):
            fitting = 0
            for name, value in weights.items():
                known = added + name.removeprefix(removed)
                if name.startswith(removed) and known in mine and _same_shape(value, mine[known]):
                    fitting += 1
            if fitting > most:
                most = fitting
                best = removed, added
    return best


def _beginnings(names: dict[str, Tensor]) -> list[str]:
    """Return no prefix, and the first one and two parts of all names, each once."""
    found = {"": None}
    for name in names:
        parts = name.split(".")
        for length in range(1, min(3, len(parts))):
            found[".".join(parts[:length]) + "."] = None
    return list(found)


def _same_shape(value: Tensor, mine: Tensor) -> bool:
    """Return whether a tensor fits; what is lazy takes any shape."""
    return is_lazy(mine) or value.shape == mine.shape


def _shapes(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors with their shapes."""
    found = []
    for name, value in tensors.items():
        shape = "of any shape" if is_lazy(value) else list(value.shape)
        found.append(f"{name} {shape}")
    return found


def _from_checkpoint(path: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """Return the tensors in a checkpoint, and its classes if it names them."""
    from .checkpoints import find_checkpoint, read_checkpoint  # it imports match_names from here

    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file)
    weights = {}
    if isinstance(checkpoint, dict):
        for name, value in checkpoint.get("state_dict", checkpoint).items():
            if isinstance(value, Tensor):
                weights[name] = value
    if not weights:
        raise UserError(f"--model.init_from {file} holds no weights")
    return weights, checkpoint.get("hyper_parameters", {}).get("classes")


def _from_safetensors(path: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """Return the tensors in a safetensors file, and the classes that export.py wrote beside them."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise UserError("safetensors is not installed: pip install safetensors") from error
    if not Path(path).is_file():
        raise UserError(f"--model.init_from {path}: there is no such file")
    try:
        with safe_open(path, "pt") as file:
            classes = json.loads((file.metadata() or {}).get("classes", "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no safetensors file, or it is damaged: {error}") from error
    return weights, classes


class FreezeBackbone(Callback):
    """Keep the network's `backbone` as it is for some epochs, while the rest learns.

    The optimizer has all parameters from the start, so any scheduler works: those that are frozen have
    no gradient, and are not stepped. The backbone's batch normalisation learns from the start.

    Args:
        frozen_epochs: Epochs before the backbone learns, too.
    """

    def __init__(self, frozen_epochs: int = 2):
        self.frozen_epochs = frozen_epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze the backbone before DDP looks which parameters need gradients."""
        if stage == "fit":
            BaseFinetuning.freeze(backbone_of(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise a UserError if a parameter of the backbone would never learn."""
        optimized = set()
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                optimized.update(group["params"])
        for name, parameter in backbone_of(pl_module).named_parameters():
            if parameter not in optimized:
                raise UserError(
                    f"configure_optimizers leaves out network.backbone.{name}, which FreezeBackbone lets "
                    f"learn after {self.frozen_epochs} epochs; give the optimizer all parameters"
                )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the backbone learn if it is time; `--resume` calls this within an epoch as well."""
        backbone = backbone_of(pl_module)
        frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
        if not frozen or trainer.current_epoch < self.frozen_epochs:
            return
        BaseFinetuning.make_trainable(backbone)
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            # DDP averages only the gradients that were needed when it was set up.
            strategy.model = pl_module
            strategy.configure_ddp()


def backbone_of(model: LightningModule) -> nn.Module:
    """Return `model.network.backbone`.

    Raises:
        UserError: If there is none.
    """
    network = getattr(model, "network", None)
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise UserError(
            f"FreezeBackbone needs {type(model).__name__}.network.backbone, an nn.Module; name the layers "
            "to freeze so, or leave trainer.callbacks out"
        )
    return backbone

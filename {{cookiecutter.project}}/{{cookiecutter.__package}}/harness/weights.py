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

from .checkpoints import find_checkpoint, read_checkpoint
from .errors import UserError
from .names import match_names, same_shape

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
        if name not in mine or not same_shape(value, mine[name]):
            continue
        if other_classes and name.startswith(HEAD):
            continue
        loaded[name] = value

    if not loaded.keys() & dict(model.named_parameters()).keys():
        theirs = ", ".join(_shapes(found)[:2])
        ours = ", ".join(_shapes(mine)[:2])
        raise UserError(f"no weights of --model.init_from {path} fit: it has {theirs}; the model has {ours}")
    model.load_state_dict(loaded, strict=False)

    note = ", for other classes" if other_classes else ""
    rank_zero_info(f"Weights from {path}{note}")
    rank_zero_info(f"  loaded:  {', '.join(_parts(loaded))}")
    for label, tensors in (("skipped:", weights), ("new:", mine)):
        rest = dict(tensors)
        for name in loaded:
            rest.pop(name, None)
        rank_zero_info(f"  {label:8} {', '.join(_shapes(rest)) or 'nothing'}")
    for before, after in zip(found, weights, strict=True):
        if before != after:
            rank_zero_info(f"  renamed: {before} to {after}, and others alike")
            break


def _parts(names: dict[str, Tensor]) -> list[str]:
    """Return the parts of the model that the names begin with, and how many tensors are in each."""
    counts: Counter[str] = Counter()
    for name in names:
        counts[".".join(name.split(".")[:2])] += 1
    return [f"{part} ({count} tensors)" for part, count in counts.items()]


def _shapes(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors with their shapes."""
    found = []
    for name, value in tensors.items():
        if is_lazy(value):
            found.append(f"{name} of any shape")
        else:
            found.append(f"{name} {list(value.shape)}")
    return found


def _from_checkpoint(path: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """Return the tensors in a checkpoint, and its classes if it names them."""
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

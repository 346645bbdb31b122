"""Start from the weights of another model, and train what is new in this one first."""

import json
from collections import Counter
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .errors import UserError
from .run import find_checkpoint

HEAD = "network.head."  # what depends on the classes


def start_from(path: str, model: LightningModule) -> None:
    """Take over the weights in `path`, runs/<id> or a .ckpt or .safetensors file, and say which.

    Those that have the name and the shape of one in the model are loaded; where the classes are others, the
    head is not.

    Raises:
        UserError: If there are no weights in `path`, or none that fit.
    """
    weights, classes = _from_safetensors(path) if path.endswith(".safetensors") else _from_checkpoint(path)
    mine = model.state_dict()
    others = classes is not None and classes != list(model.hparams.get("classes", classes))
    loaded = {
        name: value
        for name, value in weights.items()
        if name in mine and value.shape == mine[name].shape and not (others and name.startswith(HEAD))
    }
    if not loaded.keys() & dict(model.named_parameters()).keys():
        examples = [", ".join(_shapes(tensors)[:2]) for tensors in (weights, mine)]
        raise UserError(f"--model.init_from {path}: no weights fit: it has {examples[0]}; not {examples[1]}")
    model.load_state_dict(loaded, strict=False)
    parts = Counter(".".join(name.split(".")[:2]) for name in loaded)
    rank_zero_info(f"Weights from {path}{', for other classes' if others else ''}")
    rank_zero_info(f"  loaded:  {', '.join(f'{part} ({count} tensors)' for part, count in parts.items())}")
    for label, tensors in {"skipped": weights, "new": mine}.items():
        rest = {name: value for name, value in tensors.items() if name not in loaded}
        rank_zero_info(f"  {label + ':':8} {', '.join(_shapes(rest)) or 'nothing'}")


def _shapes(tensors: dict[str, Tensor]) -> list[str]:
    return [f"{name} {list(value.shape)}" for name, value in tensors.items()]


def _from_checkpoint(path: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """Return the tensors in a checkpoint, and its classes if it names them."""
    file = find_checkpoint(path)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        weights = checkpoint.get("state_dict", checkpoint)
        weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
        return weights, checkpoint.get("hyper_parameters", {}).get("classes")
    except Exception as error:  # what is no checkpoint comes out in many ways
        raise UserError(f"{file} holds more than plain values, or no weights: it is not loaded") from error


def _from_safetensors(path: str) -> tuple[dict[str, Tensor], list[str] | None]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise UserError("install the extra first: pip install safetensors") from error
    if not Path(path).is_file():
        raise UserError(f"--model.init_from: there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            classes = json.loads((file.metadata() or {}).get("classes", "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, classes  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no safetensors file, or it is damaged: {error}") from error


class Finetuning(BaseFinetuning):
    """Freeze the network's `backbone` for some epochs, and give it a lower learning rate than the rest.

    Lightning's own `BackboneFinetuning` adds the backbone to the optimizer when it thaws, which LambdaLR does
    not bear, leaves it frozen in a run that is resumed after that, and averages its gradients over no other
    processes. Here the optimizer has it from the start.

    Args:
        frozen_epochs: Epochs before the backbone learns, too; its batch normalisation does from the start.
        lr_share: Learning rate of the backbone, as a share of that of the rest.
    """

    def __init__(self, frozen_epochs: int = 2, lr_share: float = 0.3):
        super().__init__()
        self.frozen_epochs, self.lr_share = frozen_epochs, lr_share

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.network.backbone)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone = set(pl_module.network.backbone.parameters())
        for optimizer in trainer.optimizers:
            slower = []
            for group in optimizer.param_groups:
                rates = {key: value * self.lr_share for key, value in group.items() if key.endswith("lr")}
                slower.append({**group, **rates, "params": [p for p in group["params"] if p in backbone]})
                group["params"] = [p for p in group["params"] if p not in backbone]
            optimizer.param_groups += slower
        for schedule in [config.scheduler for config in trainer.lr_scheduler_configs]:
            if hasattr(schedule, "base_lrs"):
                schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]
            if isinstance(schedule, LambdaLR):
                schedule.lr_lambdas *= 2

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a run that goes on within an epoch does not start it

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        backbone, strategy = pl_module.network.backbone, pl_module.trainer.strategy
        if epoch >= self.frozen_epochs and not all(p.requires_grad for p in backbone.parameters()):
            self.make_trainable(backbone)
            if isinstance(strategy, DDPStrategy):  # it averages what it has seen to need gradients
                strategy.model = pl_module
                strategy.configure_ddp()

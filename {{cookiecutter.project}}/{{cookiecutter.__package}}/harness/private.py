"""Every private attribute of Lightning, torchmetrics, W&B and argparse that the machinery needs, and why.

`tests/test_private.py` of the template names the attribute that a new version has lost.
"""

from typing import Any

from lightning import Trainer
from lightning.pytorch.trainer import call
from torchmetrics import Metric


def not_restarting(trainer: Trainer) -> None:
    """End the special treatment of the epoch within which a run goes on.

    Without it ReduceLROnPlateau misses a step at the end of that epoch. The public `restarting` sets
    itself to True again where `max_steps` is given.
    """
    trainer.fit_loop._restarting = False


def call_hook(trainer: Trainer, name: str, skip: Any) -> None:
    """Call a hook of all callbacks but `skip`, and of the model, with `self.log` allowed as in any hook.

    Lightning does not call `on_train_epoch_start` when it goes on within an epoch, and has no public way
    to call a hook.
    """
    callbacks = trainer.callbacks
    trainer.callbacks = [callback for callback in callbacks if callback is not skip]
    try:
        call._call_callback_hooks(trainer, name)
    finally:
        trainer.callbacks = callbacks
    call._call_lightning_module_hook(trainer, name)


def set_logged_steps(trainer: Trainer, steps: int) -> None:
    """Set the step under which Lightning logs: it counts one too many, or too few, after a resume."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps


def logged_steps(trainer: Trainer) -> int:
    """Return the step under which Lightning logs; it differs from `global_step` with two optimizers."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def epoch_sums(trainer: Trainer) -> dict[str, Any]:
    """Return what `self.log(..., on_epoch=True)` has added up in this epoch; checkpoints leave it out."""
    results = trainer.fit_loop.epoch_loop._results
    return {name: result for name, result in results.items() if result.is_tensor}


def was_reset(result: Any) -> bool:
    """Return whether nothing has been added up since the last epoch."""
    return result.has_reset


def count_in_floats(trainer: Trainer) -> None:
    """Let `self.log(..., sync_dist=True)` weigh each process by how many examples it has validated on.

    Lightning averages these numbers over the processes as integers, so it would take 19.5 for 19.
    """
    for result in (trainer._results or {}).values():
        if result.is_tensor and result.meta.is_mean_reduction:
            result.cumulated_batch_size = result.cumulated_batch_size.float()


def set_update_count(metric: Metric, count: int) -> None:
    """Set how often a metric was updated; `update_count` can only be read."""
    metric._update_count = count
    metric._computed = None


def set_reload_epochs(trainer: Trainer, epoch: int) -> None:
    """Set when the loaders were made, so that `reload_dataloaders_every_n_epochs` keeps its rhythm."""
    trainer.fit_loop._last_train_dl_reload_epoch = epoch
    trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch = epoch


def help_texts(parser: Any) -> dict[str, str]:
    """Return the settings of a parser and what its help says of each; argparse has no public list of them."""
    texts = {}
    for action in parser._actions:
        if f"--{action.dest}" in action.option_strings:
            texts[action.dest] = action.help or ""
    return texts


def log_artifacts_without_asking(run: Any) -> None:
    """Let W&B log tables and code without asking its server whether their names are taken.

    Where the server has gone, each table would wait 20 seconds for the answer, and then be logged all the
    same. No setting turns the question off.
    """
    run._assert_can_log_artifact = do_nothing


def do_nothing(*args: Any) -> None:
    """Stand in for a check that is left out."""

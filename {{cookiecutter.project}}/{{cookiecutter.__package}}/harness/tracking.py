"""Weights & Biases, online or offline, and `metrics.csv` beside it."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

STEP = "trainer/global_step"  # WandbLogger logs it with everything


class MetricsFile(Logger):
    """Append each logged value to the run's `metrics.csv`, a row each: step, name, value."""

    name = version = None

    def __init__(self, run: Path):
        super().__init__()
        self.path = run / "metrics.csv"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        header = [] if self.path.exists() else [["step", "name", "value"]]
        rows = [[step, name, value] for name, value in metrics.items()]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(header + rows)

    def log_hyperparams(self, *args, **kwargs) -> None:
        """Do nothing: the run's `config.yaml` has them."""


@contextmanager
def wandb_logger(run: Path, config: dict) -> Iterator[WandbLogger]:
    """Open the run in W&B, on rank zero only, and close it as finished or, after an exception, as failed.

    It never prompts, and nothing that W&B does stops the training: without a login, or without an answer
    of the server, the run is recorded in its folder, from where `wandb sync` uploads it.
    """
    if rank_zero_only.rank != 0:
        yield WandbLogger()  # logs nothing
        return
    mode, reason = wandb.setup().settings.mode, "set by WANDB_MODE or `wandb offline`"
    try:
        if mode == "online":
            logged_in = wandb.login(prompt=False, verify=True)
            mode, reason = ("online", "logged in") if logged_in else ("offline", "not logged in")
        experiment = _init(run, config, mode)
    except wandb.errors.Error as error:
        mode, reason = "offline", f"{type(error).__name__}: {error}"
        experiment = _init(run, config, mode)
    print(f"W&B is {mode}: {reason}")
    exit_code = 1
    try:
        yield WandbLogger(experiment=experiment)
        exit_code = 0
    finally:
        experiment.finish(exit_code=exit_code)


def _init(run: Path, config: dict, mode: str) -> wandb.Run:
    chosen = {"name": run.name, **{key: value for key, value in config["tracking"].items() if value}}
    fixed = {"id": run.name, "dir": run, "config": config, "mode": mode, "resume": "allow"}
    waits = {"init_timeout": 30, "finish_timeout": 30, "x_transaction_log_flush_interval": 1.0}  # seconds
    experiment = wandb.init(**chosen, **fixed, settings=wandb.Settings(silent=True, **waits))
    experiment.define_metric(STEP)
    experiment.define_metric("*", step_metric=STEP, step_sync=True)
    return experiment


def wandb_places(experiment: wandb.Run) -> dict[str, str]:
    """Return where to look at a run, and how to upload it if it is offline."""
    if experiment.disabled:
        return {}
    if not experiment.offline:
        return {"charts": experiment.url}
    folder = Path(experiment.settings.sync_dir)
    return {"charts": f"wandb leet {folder.parent}", "upload": f"wandb sync {folder}"}

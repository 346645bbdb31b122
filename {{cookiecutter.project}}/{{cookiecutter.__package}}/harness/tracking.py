"""Weights & Biases, online or offline, and `metrics.csv` beside it."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import wandb
from lightning import LightningModule
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from .run import command

INIT = {"entity", "project", "name", "group", "job_type", "tags", "notes"}  # arguments of wandb.init
STEP = "trainer/global_step"  # WandbLogger logs it with everything
LOST = wandb.errors.Error, OSError  # W&B's own process was killed, its disk is full, its server gone


class MetricsFile(Logger):
    """Append each value, but no times, so that equal runs have equal files, to the run's `metrics.csv`."""

    name = version = None

    def __init__(self, run: Path):
        super().__init__()
        self.path = run / "metrics.csv"
        self.version = run.name  # the progress bar shows its end

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows = [[step, name, value] for name, value in metrics.items() if not name.startswith("time/")]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            header = [] if file.tell() else [["step", "name", "value"]]
            csv.writer(file, lineterminator="\n").writerows([*header, *rows])

    def log_hyperparams(self, *args, **kwargs) -> None:
        """Do nothing: the run's `config.yaml` has them."""


class RunLogger(WandbLogger):
    """Log no step twice: a resumed run repeats those since its checkpoint, with the same values."""

    sent: tuple[int, set[str]] = -1, set()  # all of the steps before this one, and of it these metrics
    uploaded = False

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        last, names = self.sent
        if step == last:
            metrics = {name: value for name, value in metrics.items() if name not in names}
        if metrics and (step is None or step >= last):
            with suppress(*LOST):
                super().log_metrics(metrics, step)

    def catch_up(self, metrics: Path, summary) -> None:
        """Send what a killed run logged in `metrics.csv` and W&B lacks: what follows `summary`, if any."""
        with metrics.open(encoding="utf-8") as file:
            rows = [(int(step), name, float(value)) for step, name, value in list(csv.reader(file))[1:]]
        if summary is not None:
            last = summary.get(STEP, -1)
            at_last = {name: value for step, name, value in rows if step == last}
            self.sent = last, {name for name, value in at_last.items() if value == _last(summary.get(name))}
            for step, name, value in rows:
                self.log_metrics({name: value}, step)
        if rows:
            self.sent = rows[-1][0], {name for step, name, _ in rows if step == rows[-1][0]}


def _last(value):
    return value["last"] if hasattr(value, "keys") else value  # of what is monitored it has the best, too


@contextmanager
def open_loggers(run: Path, config: dict, chosen: object, model: LightningModule) -> Iterator[list[Logger]]:
    """Yield W&B, or what `--trainer.logger` names in its place, and `metrics.csv`."""
    if chosen in (None, True) and rank_zero_only.rank == 0:
        with _wandb_logger(run, config, model) as logger:
            yield [logger, MetricsFile(run)]
    else:
        others = chosen if isinstance(chosen, list) else [chosen]
        yield [*(logger for logger in others if isinstance(logger, Logger)), MetricsFile(run)]


@contextmanager
def _wandb_logger(run: Path, config: dict, model: LightningModule) -> Iterator[RunLogger]:
    """Open the run in W&B, and close it as finished or, after an exception, as failed.

    It never prompts, and nothing that W&B does stops the training: without a login, or without an answer
    of the server, the run is recorded in its folder, from where `wandb sync` uploads it.
    """
    mode, reason = wandb.setup().settings.mode, "set by WANDB_MODE or `wandb offline`"
    try:
        if mode == "online":
            logged_in = wandb.login(prompt=False, verify=True)
            mode, reason = ("online", "logged in") if logged_in else ("offline", "not logged in")
        logger = _start(run, config, mode)
    except wandb.errors.Error as error:
        mode, reason = "offline", f"{type(error).__name__}: {error}"
        logger = _start(run, config, mode)
    print(f"W&B is {mode}: {reason}")
    with suppress(*LOST):
        _log_inputs(logger.experiment, model, config["tracking"]["watch"])
    exit_code: int | str | None = 1
    try:
        yield logger
        exit_code = 0
    except SystemExit as stop:  # after a signal
        exit_code = stop.code
        raise
    except BaseException as error:
        with suppress(*LOST):
            logger.experiment.alert(f"{run.name} stopped", f"{type(error).__name__}: {error}", "ERROR")
        raise
    finally:
        with suppress(*LOST):
            if (run / "config.yaml").exists() and mode != "disabled":
                logger.experiment.log_artifact(run / "config.yaml", name="config", type="config")
            logger.experiment.finish(exit_code)
            logger.uploaded = mode == "online"


def _start(run: Path, config: dict, mode: str) -> RunLogger:
    os.environ["WANDB_DATA_DIR"] = str(run / "wandb")  # where artifacts wait for their upload
    log_model, best = config["tracking"]["log_model"], config["checkpoint"]
    chosen = {key: value for key, value in config["tracking"].items() if value and key in INIT}
    fixed = {"id": run.name, "dir": run, "config": config, "mode": mode, "resume": "allow"}
    settings = wandb.Settings(
        silent=True,
        save_code=True,
        init_timeout=30,  # seconds
        finish_timeout=3600 if log_model else 25,  # only checkpoints may take long to upload
        finish_timeout_raises=True,
        x_file_transfer_retry_max=3,
        x_transaction_log_flush_interval=0.2,  # seconds of history that a kill can lose
    )
    experiment = wandb.init(**{"name": run.name} | chosen | fixed, settings=settings)
    experiment.define_metric(STEP)
    experiment.define_metric("*", step_metric=STEP, step_sync=True)
    if monitor := best["monitor"]:
        experiment.define_metric(monitor, step_metric=STEP, step_sync=True, summary=f"{best['mode']},last")
    logger = RunLogger(experiment=experiment, log_model=log_model, save_dir=run)
    if (metrics := run / "metrics.csv").exists():
        logger.catch_up(metrics, summary=experiment.summary if mode == "online" else None)
    return logger


def _log_inputs(experiment, model: LightningModule, watch: bool) -> None:
    experiment.config["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    experiment.watch(model, log="gradients" if watch else None, log_freq=50)
    experiment._assert_can_log_artifact = lambda artifact: None  # it waits for the server
    experiment.log_code(str(Path(__file__).parents[1]))


def places(loggers: list[Logger]) -> dict[str, str]:
    """Return where to look at a run, and how to upload what W&B's server does not have."""
    rows = {}
    for logger in loggers:
        if isinstance(logger, MetricsFile):
            rows["metrics"] = str(logger.path)
        elif not isinstance(logger, RunLogger):
            rows[type(logger).__name__] = str(logger.log_dir)
        elif not (experiment := logger.experiment).disabled:
            folder = Path(experiment.settings.sync_dir).parent
            rows["charts"] = command("wandb", "leet", folder) if experiment.offline else experiment.url
            if not logger.uploaded:
                online = [] if experiment.offline else ["--include-online"]
                rows["upload"] = command("wandb", "sync", folder, *online)
    return rows

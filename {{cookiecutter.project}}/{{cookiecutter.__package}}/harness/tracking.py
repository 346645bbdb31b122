"""Weights & Biases, online or offline, and what `--trainer.logger` names in its place."""

import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import Any

import wandb
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch.nn.parameter import is_lazy
from tqdm import tqdm

from .errors import UserError
from .folder import command
from .metrics import MetricsFile
from .private import log_artifacts_without_asking
from .quiet import Quiet

INIT = {"entity", "project", "name", "group", "job_type", "tags", "notes"}  # arguments of wandb.init
STEP = "trainer/global_step"  # WandbLogger logs it with everything
LOST = (wandb.errors.Error, OSError)  # W&B's own process was killed, its disk is full, its server gone


class RunLogger(WandbLogger):
    """The run in W&B. It is opened when something is first logged: a start that fails before leaves none.

    It never prompts, and nothing that W&B does stops the training. Without a login, or without an answer of
    the server, the run is recorded on this machine, from where `wandb sync` uploads it.

    Args:
        folder: The run's folder, whose name is its id in W&B, too.
        settings: All settings of the run.
        model: What is trained.
    """

    def __init__(self, folder: Path, settings: dict, model: LightningModule):
        super().__init__(project=settings["tracking"]["project"], save_dir=folder, id=folder.name)
        self.folder = folder
        self.settings = settings
        self.model = model
        self.mode = "online"
        self.run: Any = None
        self.step: int | None = None
        self.waiting: dict[str, Any] = {}  # what is logged of this step
        self.earlier: list[Path] | None = None  # what W&B had recorded before the run was opened
        self.failed = False
        self.uploaded = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run as the package wandb knows it: `logger.experiment.log(...)`."""
        self.open()
        return self.run

    @rank_zero_only
    def open(self) -> None:
        """Open the run, online if W&B answers, and say in a line which it is and why."""
        if self.run is not None:
            return
        self.earlier = recorded_runs(wandb_files(self.folder), self.folder.name)
        self.mode, reason = choose_mode()
        try:
            self.run = self.start(self.mode)
        except Exception as error:  # the server has gone since it took the login
            self.mode, reason = "offline", f"{type(error).__name__}: {error}"
            self.run = self.start_offline()
        tqdm.write(f"W&B is {self.mode}: {' '.join(reason.split())}")  # above the progress bar
        with self.never_stopping():
            self.describe()
            log_artifacts_without_asking(self.run)

    def start_offline(self) -> Any:
        """Open the run on this machine, after W&B has failed to open it.

        Raises:
            UserError: If W&B refuses it here as well.
        """
        try:
            wandb.teardown()  # it would still hold the id of the run
            return self.start("offline")
        except Exception as error:
            raise UserError(
                f"W&B cannot record the run: {error}; check tracking.*, or give --trainer.logger false"
            ) from error

    def start(self, mode: Any) -> Any:
        """Open the run in the given mode; where it exists already, it is continued."""
        # Where artifacts wait for their upload.
        os.environ.setdefault("WANDB_DATA_DIR", str(wandb_files(self.folder)))
        tracking = self.settings["tracking"]
        arguments: dict[str, Any] = {"name": self.folder.name}
        for key, value in tracking.items():
            if key in INIT and value:
                arguments[key] = value
        if not os.environ.get("WANDB_DIR"):
            root = self.folder.parent
            root.mkdir(parents=True, exist_ok=True)
            arguments["dir"] = str(root)
        run = wandb.init(
            **arguments,
            id=self.folder.name,
            config=self.settings,
            mode=mode,
            resume="allow",
            settings=wandb.Settings(
                silent=True,
                reinit="finish_previous",  # what is still open belongs to another run
                save_code=True,
                init_timeout=30,  # seconds
                finish_timeout=3600 if tracking["log_model"] else 25,  # only checkpoints may take long
                finish_timeout_raises=True,
                x_file_transfer_retry_max=3,
                x_graphql_retry_max=3,  # finish_timeout does not count while W&B tries again
                x_graphql_timeout_seconds=10,
                x_transaction_log_flush_interval=0.2,  # seconds of history that a kill can lose
            ),
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        best = self.settings["checkpoint"]
        if best["monitor"]:
            summary = f"{best['mode']},last"
            run.define_metric(best["monitor"], step_metric=STEP, step_sync=True, summary=summary)
        return run

    def describe(self) -> None:
        """Record what is trained: the number of parameters, and the code."""
        parameters = 0
        for parameter in self.model.parameters():
            if not is_lazy(parameter):
                parameters += parameter.numel()
        self.run.config["parameters"] = parameters
        if self.settings["tracking"]["watch"]:
            self.run.watch(self.model, log="gradients", log_freq=50)
        self.run.log_code(str(Path(__file__).parents[1]))

    @rank_zero_only
    def summarise(self, values: dict[str, Any]) -> None:
        """Put values into the run's summary."""
        with self.never_stopping():
            self.run.summary.update(values)

    @contextmanager
    def never_stopping(self) -> Iterator[None]:
        """Go on if W&B does not; say so the first time."""
        try:
            yield
        except LOST as error:
            if not self.failed:
                tqdm.write(f"W&B failed, and the training goes on: {error}")
            self.failed = True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Gather what belongs to one step, so that it becomes one call and one row of W&B's table."""
        if step != self.step or metrics.keys() & self.waiting.keys():
            self.send()
        self.step = step
        self.waiting.update(metrics)

    def save(self) -> None:
        """Send what was gathered: Lightning calls this whenever it has logged something itself."""
        self.send()

    @rank_zero_only
    def send(self) -> None:
        """Send what was gathered of a step."""
        if not self.waiting:
            return
        metrics = self.waiting
        self.waiting = {}
        if self.failed:  # tables would wait for the server
            metrics = {name: value for name, value in metrics.items() if isinstance(value, Real)}
        with self.never_stopping():
            super().log_metrics(metrics, self.step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: W&B has all settings of the run, under the names of the command line."""

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Do nothing: the best checkpoint is uploaded at the end."""

    @rank_zero_only
    def close(self, error: BaseException | None = None) -> None:
        """Close the run, which ended with an error or without one."""
        if self.run is None:
            return
        self.send()
        exit_code = exit_code_of(error)
        with self.never_stopping():
            if error is None and self.settings["tracking"]["log_model"]:
                self.log_best_checkpoint()
            if isinstance(error, Exception):
                text = f"{type(error).__name__}: {error}"
                self.run.alert(f"{self.folder.name} stopped", text, "ERROR")
        with suppress(*LOST):
            self.run.finish(exit_code)
            self.uploaded = self.mode == "online"
        if self.failed:
            with suppress(*LOST):
                wandb.teardown()  # or it would print a traceback when Python ends

    def log_best_checkpoint(self) -> None:
        """Upload the best checkpoint as an artifact, if there is one."""
        checkpoint = self.folder / "checkpoints" / "best.ckpt"
        if checkpoint.exists():
            artifact = wandb.Artifact(f"model-{self.folder.name}", type="model")
            artifact.add_file(str(checkpoint), name="model.ckpt")
            self.run.log_artifact(artifact, aliases=["latest", "best"])

    @rank_zero_only
    def discard(self) -> None:
        """Remove what W&B has recorded on this machine since the run was opened."""
        if self.earlier is None:
            return
        if self.run is not None:
            with suppress(*LOST):
                self.run.finish(1)
        files = self.files()
        for recorded in recorded_runs(files, self.folder.name):
            if recorded not in self.earlier:
                shutil.rmtree(recorded, ignore_errors=True)
        if files.parent == self.folder.parent and not any(files.glob("*run-*")):
            shutil.rmtree(files, ignore_errors=True)  # no other run has anything there

    def files(self) -> Path:
        """Return where W&B keeps its files of all runs."""
        if self.run is None or self.run.disabled:
            return wandb_files(self.folder)
        return Path(self.run.settings.sync_dir).parent


def choose_mode() -> tuple[str, str]:
    """Return the mode in which W&B is to record, and why: "online" only if its server takes the login."""
    mode = wandb.setup().settings.mode
    if mode != "online":
        return mode, "set by WANDB_MODE or `wandb offline`"
    try:
        logged_in = wandb.login(prompt=False, verify=True)
    except LOST as error:
        return "offline", f"{type(error).__name__}: {error}"
    if logged_in:
        return "online", "logged in"
    return "offline", "not logged in"


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code with which a process ends after an error."""
    if error is None:
        return 0
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code  # after a signal
    return 1


class Tracking(Quiet):
    """Give the Trainer its loggers: W&B, or what `--trainer.logger` names in its place, and metrics.csv.

    It does so when the Trainer has been set up. Lightning opens what it is given at once, and a start that
    fails must leave nothing in W&B.

    Args:
        folder: The run's folder.
        settings: All settings of the run.
        chosen: What `--trainer.logger` names: True or None for W&B, False for none, or Lightning's loggers.
    """

    def __init__(self, folder: Path, settings: dict, chosen: Any):
        self.folder = folder
        self.settings = settings
        self.uses_wandb = chosen is None or chosen is True
        self.others: list[Logger] = []
        if isinstance(chosen, Logger):
            self.others = [chosen]
        elif isinstance(chosen, list):
            self.others = chosen
        self.metrics = MetricsFile(folder)
        self.wandb: RunLogger | None = None  # it cannot be sent to other processes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.uses_wandb and self.wandb is None:
            self.wandb = RunLogger(self.folder, self.settings, pl_module)
        first = [] if self.wandb is None else [self.wandb]
        trainer.loggers = [*first, *self.others, self.metrics]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if multiprocessing.parent_process() is not None:  # ddp_spawn: what is open here ends here
            self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if multiprocessing.parent_process() is not None:
            self.close(exception)

    def open(self, notes: list[str]) -> None:
        """Open the run in W&B, say whether it is online, and keep what was found in the data there."""
        if self.wandb is not None:
            self.wandb.open()
            if notes:
                self.wandb.summarise({"data": "\n".join(notes)})

    def close(self, error: BaseException | None = None) -> None:
        """Close the run in W&B as finished or, after an error, as failed."""
        if self.wandb is not None:
            self.wandb.close(error)

    def discard(self) -> None:
        """Remove what a start that failed before the first step left of W&B's files."""
        if self.wandb is not None:
            self.wandb.discard()

    def places(self) -> list[tuple[str, str]]:
        """Return where to look at the run, and how to upload what W&B's server does not have."""
        rows = []
        if self.metrics.path.exists():
            rows.append(("metrics", str(self.metrics.path)))
        for logger in self.others:
            place = getattr(logger, "log_dir", None) or logger.save_dir
            if place:
                rows.append((type(logger).__name__, str(place)))
        if self.uses_wandb:
            rows.extend(self.wandb_places())
        return rows

    def wandb_places(self) -> list[tuple[str, str]]:
        """Return how to look at the run in W&B, and to upload it."""
        files = wandb_files(self.folder)
        charts = ""
        uploaded = False
        if self.wandb is not None and self.wandb.run is not None:
            files = self.wandb.files()
            if self.wandb.mode == "online":
                charts = str(self.wandb.run.url)
            uploaded = self.wandb.uploaded
        recorded = recorded_runs(files, self.folder.name)
        if not recorded:
            return []  # disabled
        rows = [("charts", charts or command("wandb", "leet", files))]
        if not uploaded:
            online = any(path.name.startswith("run-") for path in recorded)
            options = ["--include-online"] if online else []
            rows.append(("upload", command("wandb", "sync", *recorded, *options)))
        return rows


def wandb_files(folder: Path) -> Path:
    """Return where W&B keeps its files of all runs: beside them, or where WANDB_DIR says."""
    root = os.environ.get("WANDB_DIR") or folder.parent
    return Path(root) / "wandb"


def recorded_runs(files: Path, run: str) -> list[Path]:
    """Return the directories in which W&B has recorded a run: one for each time that it was continued."""
    name = re.compile(rf"(offline-)?run-\d+_\d+-{re.escape(run)}")
    return sorted(path for path in files.glob("*run-*") if name.fullmatch(path.name))

"""What is recorded of ordinary Lightning code: test_tracking.py runs this inside a generated project."""

import pandas as pd
import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import Logger
from my_project.harness.curves import arrange, split_name
from my_project.harness.metrics import MetricsFile
from my_project.harness.monitor import Monitor
from my_project.harness.pictures import TestPictures
from my_project.harness.tracking import RunLogger
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*shuffling enabled"),
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
]


class Memory(Logger):
    """Keep what is logged, in its order."""

    name = version = None

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[int, dict]] = []

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass

    def steps(self, name: str) -> list[int]:
        return [step for step, metrics in self.calls if name in metrics]

    def values(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.calls if name in metrics]


def fit(model, tmp_path, **settings) -> Memory:
    memory = Memory()
    defaults = {"max_epochs": 2, "limit_train_batches": 5, "limit_val_batches": 2, "log_every_n_steps": 2}
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=[memory, MetricsFile(tmp_path)],
        callbacks=[Monitor(lines=True)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(defaults | settings),
    )
    trainer.fit(model)
    return memory


def table(tmp_path) -> pd.DataFrame:
    rows = pd.read_csv(tmp_path / "metrics.csv")
    return rows.pivot(index="step", columns="name", values="value")


class Logging(BoringModel):
    """Log at steps and epochs, for two validation loaders."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("valid_loss", self.loss(self(batch)), on_step=True, on_epoch=True)

    def val_dataloader(self):
        return [super().val_dataloader(), super().val_dataloader()]


class Gan(LightningModule):
    """Step one optimizer at each batch, the other at every third."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(4, 4)
        self.critic = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        generator, critic = self.optimizers()
        (x,) = batch
        critic.zero_grad()
        self.manual_backward(self.critic(self.generator(x).detach()).mean())
        critic.step()
        if batch_idx % 3 == 1:
            generator.zero_grad()
            self.manual_backward(-self.critic(self.generator(x)).mean())
            generator.step()

    def configure_optimizers(self):
        generator = torch.optim.SGD(self.generator.parameters(), 0.1)
        critic = torch.optim.SGD(self.critic.parameters(), 0.2)
        return [generator, critic]

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(40, 4)), 4)


class OwnBatch:
    """A batch in which no tensor can be found."""

    def __init__(self, items):
        self.x = torch.stack(items)


class OwnBatches(BoringModel):
    def training_step(self, batch, batch_idx):
        return self.loss(self(batch.x))

    def train_dataloader(self):
        return DataLoader(torch.randn(40, 32).unbind(), 8, collate_fn=OwnBatch)


class Sparse(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.EmbeddingBag(10, 2, sparse=True)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SparseAdam(list(self.parameters()), 0.1)

    def train_dataloader(self):
        return DataLoader(torch.randint(0, 10, (40, 3)), 8)


class Skipping(BoringModel):
    """Return no loss for one batch of an epoch; keep the others."""

    def __init__(self):
        super().__init__()
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            return None
        loss = self.loss(self(batch))
        self.losses.append(loss.item())
        return loss


def test_the_monitor_logs_under_lightnings_steps_and_leaves_out_what_the_model_logs(tmp_path):
    memory = fit(Logging(), tmp_path)
    assert memory.steps("train/lr") == [1, 3, 5, 7, 9]
    assert memory.steps("train/loss_step") == [1, 3, 5, 7, 9]  # the model's own, and no other
    assert memory.steps("time/epoch_seconds") == memory.steps("train/loss_epoch") == [4, 9]
    assert memory.steps("time/samples_per_second") == [4, 9]


def test_each_step_and_name_has_one_row(tmp_path):
    fit(Logging(), tmp_path)
    found = table(tmp_path)
    assert list(found["epoch"].dropna()) == [0, 0, 0, 1, 1, 1]
    assert found["valid_loss_epoch/dataloader_idx_1"].notna().sum() == 2
    assert not [name for name in found.columns if name.startswith("time/")]


def test_the_line_of_an_epoch_has_its_metrics_once(tmp_path, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(Logging(), tmp_path, check_val_every_n_epoch=2)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch ")]
    names = [line.split("  ")[1:] for line in lines]
    assert [[word.split()[0] for word in words] for words in names] == [
        ["train/loss"],
        ["train/loss", "valid_loss/dataloader_idx_0", "valid_loss/dataloader_idx_1"],
    ]


def test_what_an_optimizer_did_not_do_is_not_logged(tmp_path):
    memory = fit(Gan(), tmp_path, limit_train_batches=10)
    assert memory.steps("train/lr1") == memory.steps("train/grad_norm1") == list(range(1, 20, 2))
    assert memory.steps("train/lr") == memory.steps("train/grad_norm") == [1, 7, 11, 17]
    assert set(memory.values("train/lr1")) == {0.2}
    assert "train/loss_step" not in table(tmp_path)


def test_accumulated_gradients_and_no_loss(tmp_path):
    model = Skipping()
    memory = fit(model, tmp_path, accumulate_grad_batches=2, log_every_n_steps=1, max_epochs=1)
    assert memory.steps("train/grad_norm") == [0, 1, 2]
    assert memory.steps("train/loss_step") == [0, 2]  # of the second batch and of the last
    assert memory.values("train/loss_step") == pytest.approx([model.losses[1], model.losses[3]])


def test_a_batch_of_an_own_class_has_no_number_of_samples(tmp_path):
    memory = fit(OwnBatches(), tmp_path)
    assert memory.steps("time/epoch_seconds") == [4, 9]
    assert memory.steps("time/samples_per_second") == []


def test_sparse_gradients_have_a_norm(tmp_path):
    memory = fit(Sparse(), tmp_path)
    assert min(memory.values("train/grad_norm")) > 0


def test_nothing_is_logged_at_steps_if_it_is_not_wanted(tmp_path):
    memory = fit(BoringModel(), tmp_path, log_every_n_steps=0)
    assert {name for _, metrics in memory.calls for name in metrics} == {
        "time/epoch_seconds",
        "time/samples_per_second",
    }
    assert not (tmp_path / "metrics.csv").exists()


def test_a_resumed_run_continues_metrics_csv(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,name,value\n1,a,0.5\n1,epoch,0\n3,a,0.2\n5,a,0.")  # the last row was cut
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"a": 0.2, "epoch": 1, "time/x": 3.0}, 3)
    metrics.log_metrics({"a": 0.1}, 5)
    assert file.read_text() == "step,name,value\n1,a,0.5\n1,epoch,0\n3,a,0.2\n3,epoch,1\n5,a,0.1\n"


def test_what_belongs_to_a_step_is_one_call_of_wandb(tmp_path):
    settings = {"tracking": {"project": "p"}, "checkpoint": {"monitor": None}}
    logger = RunLogger(tmp_path, settings, BoringModel())
    rows = []

    class Run:
        def log(self, row):
            rows.append(row)

    logger.run = Run()
    logger.log_metrics({"train/lr": 0.1}, 1)  # the monitor
    logger.log_metrics({"train_loss": 2.0, "epoch": 0}, 1)  # Lightning
    logger.save()
    logger.log_metrics({"train/lr": 0.2}, 3)
    logger.log_metrics({"val_loss": 1.0}, 4)
    logger.save()
    step = "trainer/global_step"
    assert rows == [
        {"train/lr": 0.1, "train_loss": 2.0, "epoch": 0, step: 1},
        {"train/lr": 0.2, step: 3},
        {"val_loss": 1.0, step: 4},
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/loss", ("train", "loss")),
        ("train_loss_epoch", ("train", "loss")),
        ("Validation-acc", ("val", "acc")),
        ("valid.f1_score", ("val", "f1_score")),
        ("val/loss_epoch/dataloader_idx_1", ("val 1", "loss")),
        ("g_loss", ("", "g_loss")),
        ("value_loss", ("", "value_loss")),
        ("train", ("", "train")),
    ],
)
def test_the_name_of_a_metric(name, expected):
    assert split_name(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train/loss val/loss train/lr epoch train/grad_norm1", {"loss": {"train", "val"}}),
        ("train_loss_step train_loss_epoch val_loss test_loss lr-AdamW", {"loss": {"train", "val"}}),
        ("loss val_loss train/loss_step", {"loss": {"train", "val"}}),
        ("train/loss_step val_loss", {"loss": {"train", "val"}}),
        ("train/loss_step", {"loss": {"train"}}),
        ("g_loss d_loss", {"g_loss": {""}, "d_loss": {""}}),
        ("val_psnr train_loss val_loss", {"loss": {"train", "val"}, "psnr": {"val"}}),
        ("val/loss/dataloader_idx_0 val/loss/dataloader_idx_1", {"loss": {"val 0", "val 1"}}),
        ("epoch train/lr test/acc", {}),
    ],
)
def test_the_curves_of_a_metric_are_one_chart(names, expected):
    curves = {name: [(0, 1.0), (1, 0.5)] for name in names.split()}
    found = {metric: set(chart) for metric, chart in arrange(curves).items()}
    assert found == expected
    assert list(found) == list(expected)


class Data(LightningDataModule):
    """Points of three classes, or numbers, shown as images."""

    def __init__(self, classes=("a", "b", "$c"), shuffle=False, loaders=1):
        super().__init__()
        self.classes = list(classes)
        self.shuffle = shuffle
        self.loaders = loaders
        self.target = torch.arange(23) % 3
        self.shown: list[int] = []

    def test_dataloader(self):
        target = self.target if self.classes else self.target.float()
        data = TensorDataset(torch.randn(23, 4), target)
        loaders = [DataLoader(data, 4, shuffle=self.shuffle) for _ in range(self.loaders)]
        return loaders if self.loaders > 1 else loaders[0]

    def test_example(self, index):
        self.shown.append(index)
        return Image.new("L", (8, 8), index)


class NoExamples(LightningDataModule):
    classes = ("a", "b", "c")
    test_dataloader = Data.test_dataloader
    shuffle = False
    loaders = 1
    target = torch.arange(23) % 3


class Points(LightningModule):
    """Return from `test_step` what the test asks for."""

    def __init__(self, returns="all", size=3):
        super().__init__()
        self.returns = returns
        self.layer = nn.Linear(4, size)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        x, target = batch
        scores = self.layer(x)
        loss = F.cross_entropy(scores, target) if scores.shape[1] > 1 else F.mse_loss(scores[:, 0], target)
        return {
            "all": {"scores": scores, "target": target},
            "loss": loss,
            "dict": {"loss": loss},
            "none": None,
            "segmentation": {"scores": scores[..., None], "target": target[:, None]},
            "no class": {"scores": scores, "target": target - 100},
            "other": {"scores": scores, "target": [target]},
        }[self.returns]


def drawn(model, data, tmp_path) -> set[str]:
    pictures = TestPictures()
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        callbacks=[pictures],
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.test(model, data, verbose=False)
    names = [picture.name for picture in pictures.drawn]
    assert sorted(names) == sorted(picture.name for picture in tmp_path.glob("*.png"))
    return set(names)


def test_classes_and_numbers_are_shown(tmp_path):
    data = Data()
    assert drawn(Points(), data, tmp_path) == {"confusion_matrix.png", "examples.png"}
    assert sorted(data.shown) == list(range(23))


def test_numbers_are_shown(tmp_path):
    assert drawn(Points(size=1), Data(classes=()), tmp_path) == {"predictions.png"}


def test_in_an_order_of_its_own_no_example_is_shown(tmp_path):
    assert drawn(Points(), Data(shuffle=True), tmp_path) == {"confusion_matrix.png"}


@pytest.mark.parametrize("returns", ["loss", "dict", "none", "segmentation", "no class", "other"])
def test_whatever_else_test_step_returns_is_fine(returns, tmp_path):
    assert drawn(Points(returns), Data(), tmp_path) == set()


def test_two_loaders_or_no_examples_are_fine(tmp_path):
    assert drawn(Points(), Data(loaders=2), tmp_path) == set()
    assert drawn(Points(), NoExamples(), tmp_path) == set()

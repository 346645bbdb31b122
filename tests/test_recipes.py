"""Each recipe, laid over a new project, trains, stops, goes on exactly, and does what its README says.

A handful of small steps each; what a recipe reaches is in its README.
"""

import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from chaos import equal
from project import run_many
from test_plain_lightning import FEW, STOPPED, error, rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

RECIPES = Path(__file__).parents[1] / "recipes"
MISSING = {"evaluate": "test_step", "predict": "predict_dataloader", "export": "example_input_array"}
VARIABLES = {"WANDB_MODE": "disabled"}


@dataclass
class Recipe:
    """The commands that work for a recipe besides train.py, settings that make it small, and a metric."""

    works: str
    flags: str
    metric: str


CASES = {
    "segmentation": Recipe(
        "evaluate predict export", "--data.examples 40 --data.batch_size 4 --model.width 4", "test/iou"
    ),
    "gpt": Recipe(
        "evaluate predict export",
        "--data.batch_size 4 --model.width 16 --model.depth 1 --model.new_characters 5",
        "test/loss",
    ),
    "gan": Recipe("export", "--data.batch_size 16 --model.width 4", "train/generator_loss"),
    "pretraining": Recipe("evaluate", "--data.batch_size 16 --model.width 4", "val/hits"),
    "multilabel": Recipe("evaluate predict export", "--data.examples 40 --data.batch_size 8", "test/f1"),
    "forecasting": Recipe(
        "evaluate predict export", "--data.households 3 --data.hours 1600 --model.width 8", "test/mae"
    ),
    "counting": Recipe(
        "evaluate predict export", "--data.examples 40 --data.batch_size 8 --model.width 4", "test/mae"
    ),
    "streaming": Recipe("evaluate export", "--data.num_workers 2 --data.batch_size 16", "test/acc"),
    "mean_teacher": Recipe("evaluate predict export", "--data.batch_size 32", "test/acc"),
}


@pytest.fixture(scope="module")
def lay_over(bake, tmp_path_factory):
    """Return lay_over(name), which puts the files of a recipe in place of those of a new project."""
    original = bake(accept_hooks=False)

    def lay_over(name: str) -> Path:
        project = tmp_path_factory.mktemp(name) / original.name
        shutil.copytree(original, project)
        for file in (RECIPES / name).glob("*.py"):
            shutil.copy(file, project / "my_project" / file.name)
        (project / "stopped.py").write_text(STOPPED)
        return project

    return lay_over


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_trains_goes_on_exactly_and_does_what_its_readme_says(name, lay_over, tmp_path):
    recipe = CASES[name]
    project = lay_over(name)
    train = f"{FEW} {recipe.flags}"
    (stopped,) = run_many(project, [f"stopped.py {train}"], home=tmp_path, variables=VARIABLES)
    assert stopped.code == 143, stopped.out + stopped.err
    (run,) = (path.parent for path in project.glob("runs/*/config.yaml"))
    commands = [
        f"train.py --resume {run}",
        f"train.py {train} --trainer.default_root_dir whole",
        f"evaluate.py {run}",
        f"predict.py {run}",
        f"export.py {run}",
    ]
    resumed, whole, *others = run_many(project, commands, home=tmp_path, variables=VARIABLES)
    assert resumed.code == 0, resumed.out + resumed.err
    assert whole.code == 0, whole.out + whole.err
    (reference,) = (path.parent for path in project.glob("whole/*/config.yaml"))
    assert equal(weights(run), weights(reference))
    assert rows(run)[recipe.metric].notna().any()
    for (command, hook), done in zip(MISSING.items(), others, strict=True):
        if command in recipe.works.split():
            assert done.code == 0, done.out + done.err
        else:
            assert re.search(hook, error(done))


def weights(run: Path) -> dict:
    """Return the weights of the newest checkpoint of a run."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_what_pretraining_has_learned_is_the_start_of_a_classification(lay_over, bake, tmp_path):
    """With the settings of each as they are: the two must have the same network."""
    project = lay_over("pretraining")
    (pretrained,) = run_many(
        project, [f"train.py {FEW} --data.batch_size 16"], home=tmp_path, variables=VARIABLES
    )
    assert pretrained.code == 0, pretrained.err
    (run,) = (path.parent for path in project.glob("runs/*/config.yaml"))
    classifier = bake(accept_hooks=False)
    job = f"train.py {FEW} --model.init_from {run}"
    (done,) = run_many(classifier, [job], home=tmp_path, variables=VARIABLES)
    assert done.code == 0, done.err
    assert re.search("backbone", done.out + done.err), done.out


def test_the_gpt_goes_on_with_a_text(lay_over, tmp_path):
    project = lay_over("gpt")
    (project / "prompt.txt").write_text("def ")
    (trained,) = run_many(
        project, [f"train.py {FEW} {CASES['gpt'].flags}"], home=tmp_path, variables=VARIABLES
    )
    assert trained.code == 0, trained.err
    (run,) = (path.parent for path in project.glob("runs/*/config.yaml"))
    (done,) = run_many(
        project, [f"predict.py {run} prompt.txt --output new.csv"], home=tmp_path, variables=VARIABLES
    )
    assert done.code == 0, done.err
    assert "prompt.txt,def " in (project / "new.csv").read_text().replace('"', "")


def test_pictures_are_drawn(lay_over, tmp_path, pictures):
    for name, picture in {"segmentation": "masks.png", "gan": "generated.png"}.items():
        project = lay_over(name)
        job = f"train.py {FEW} {CASES[name].flags}"
        (done,) = run_many(project, [job], home=tmp_path, variables=VARIABLES)
        assert done.code == 0, done.err
        (file,) = project.glob(f"runs/*/{picture}")
        assert file.stat().st_size > 1000
        assert picture in done.out


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision")
def test_a_network_of_torchvision(lay_over, tmp_path):
    project = lay_over("torchvision")
    flags = f"{FEW} --model.pretrained false"
    (done,) = run_many(project, [f"train.py {flags}"], home=tmp_path, variables=VARIABLES)
    assert done.code == 0, done.err


def test_every_recipe_is_tested_and_explained():
    for folder in RECIPES.iterdir():
        if folder.is_dir():
            assert folder.name in {*CASES, "torchvision", "environment"}
            readme = (folder / "README.md").read_text(encoding="utf-8")
            assert f"recipes/{folder.name}/" in readme
            assert folder.name in (RECIPES / "README.md").read_text(encoding="utf-8")

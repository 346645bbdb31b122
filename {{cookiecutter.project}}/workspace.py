"""Lay out the project's workspace in W&B for what a run has logged: `python workspace.py runs/<id>`."""

import argparse
import csv

import wandb
import yaml

from {{ cookiecutter.__package }}.harness import errors, run
from {{ cookiecutter.__package }}.harness.tracking import STEP


@errors.one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="runs/<id>, whose metrics the charts show")
    folder = run.existing_run(parser.parse_args().run)
    try:
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2 as panels
    except ModuleNotFoundError as error:
        raise errors.UserError("install the extra first: pip install wandb-workspaces") from error

    def charts(*lines: list) -> list:
        return [panels.LinePlot(x=STEP, y=names, title=names[0].rpartition("/")[2]) for names in lines]

    tracking = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["tracking"]
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        logged = list(dict.fromkeys(row["name"] for row in csv.DictReader(file)))
    epochs = [[f"train/{name[4:]}", name] for name in logged if name.startswith("val/")]
    seen = {name for chart in epochs for name in chart}
    steps = [[name] for name in logged if name.startswith("train/") and name not in seen]
    test = [panels.ScalarChart(metric=name) for name in logged if name.startswith("test/")]
    tables = [panels.MediaBrowser(media_keys=["test/examples", "test/confusion_matrix", "test/classes"])]
    if not wandb.login(prompt=False):
        raise errors.UserError("a workspace lives on your W&B server: run wandb login first")
    workspace = ws.Workspace(
        entity=tracking["entity"] or wandb.Api().default_entity or "",
        project=tracking["project"],
        name=tracking["project"],
        sections=[
            ws.Section(name="Training and validation", panels=charts(*epochs), is_open=True),
            ws.Section(name="Steps", panels=charts(*steps), is_open=True),
            ws.Section(name="Test", panels=[*test, *tables], is_open=True),
            ws.Section(name="Speed", panels=charts(["time/samples_per_second"], ["time/epoch_seconds"])),
        ],
    )
    print(workspace.save().url)


if __name__ == "__main__":
    main()

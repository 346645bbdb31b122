"""Test accuracy (R² of a regression) of each task's default, beside simple models on the same split; a table.

`python benchmarks/tasks.py [SPLITS]` trains each default for SPLITS seeds of the split (3), and the tables
for each of five folds, which test all rows.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cookiecutter.main import cookiecutter
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parent.parent
CASES = {  # name: task, flags, what it must reach
    "image": ("image", [], 0.985),
    "text": ("text", [], 0.83),
    "audio": ("audio", [], 0.95),
    "tabular, breast cancer": ("tabular", [], 0.97),
    "tabular, diabetes (R²)": ("tabular", ["--data.dataset", "diabetes"], 0.45),
    "breast cancer, five folds": ("tabular", [], 0.97),
    "diabetes, five folds (R²)": ("tabular", ["--data.dataset", "diabetes"], 0.45),
}


def project(task: str, folder: str) -> Path:
    """Generate the project of a task."""
    return Path(
        cookiecutter(
            str(ROOT),
            no_input=True,
            extra_context={"task": task, "project": "my-project"},
            output_dir=str(Path(folder, task)),
            default_config=True,
            accept_hooks=False,
            overwrite_if_exists=True,
        )
    )


def train(folder: Path, flags: list[str]) -> tuple[float, float]:
    """Return the test result of train.py and its seconds from start to end."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "train.py", *flags],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"},
    )
    seconds = time.perf_counter() - start
    run = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    rows = [line.split(",") for line in (run / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    return next(float(value) for _, name, value in rows if name in ("test/acc", "test/r2")), seconds


def baselines() -> dict[str, float]:
    """Return the results of simple models on the split of the project in this folder, given as JSON flags."""
    sys.path.insert(0, str(Path.cwd()))
    from my_project.data import DataModule

    data = DataModule(**json.loads(sys.argv[2]))
    data.setup("fit")
    parts = {name: (inputs, np.array(targets)) for name, (inputs, targets) in data.parts.items()}
    (x, y), (new, truth) = parts["train"], parts["test"]
    if hasattr(data.train_set, "texts"):
        grams = make_pipeline(
            CountVectorizer(analyzer="char_wb", ngram_range=(1, 3)), LogisticRegression(max_iter=500)
        )
        models = {"logistic regression on 1–3-grams": grams}
        x, new = list(data.train_set.texts), list(data.test_set.texts)
    else:
        if hasattr(data.train_set, "sounds"):
            from my_project.network import LogMel

            x, new = ([spectrum(sound, LogMel(data.rate, 40)) for sound in part] for part in (x, new))
        elif hasattr(data.train_set, "rows"):
            x, new = data.train_set.rows.numpy(), data.test_set.rows.numpy()
        x, new = (np.array(part).reshape(len(part), -1) for part in (x, new))
        simple = {
            "logistic regression": LogisticRegression(max_iter=2000),
            "nearest neighbours": KNeighborsClassifier(),
        }
        simple = simple if data.classes else {"ridge": RidgeCV(np.logspace(-2, 3, 20))}
        models = {name: make_pipeline(StandardScaler(), model) for name, model in simple.items()}
    return {name: model.fit(x, y).score(new, truth) for name, model in models.items()}


def spectrum(sound: np.ndarray, log_mel) -> np.ndarray:
    """Return the log-mel spectrogram of one second, with nothing after a shorter sound."""
    import torch

    return log_mel(torch.from_numpy(np.pad(sound, (0, 8000 - len(sound))))[None]).numpy()


def main() -> None:
    """Print the table, a row for each task."""
    splits = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("| task | ours, by split | s | simple models on the same splits | must be |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (task, flags, needed) in CASES.items():
            place = project(task, folder)
            ours, simple = [], {}
            varied, count = ("fold", 5) if "folds" in name else ("split_seed", splits)
            for number in range(count):
                ours.append(train(place, [*flags, f"--data.{varied}", str(number)]))
                settings = {varied: number} | ({"dataset": flags[1]} if flags else {})
                command = [sys.executable, "-W", "ignore", __file__, "baselines", json.dumps(settings)]
                done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
                for model, score in json.loads(done.stdout.splitlines()[-1]).items():
                    simple.setdefault(model, []).append(score)
            shown = "; ".join(
                f"{model} {', '.join(f'{s:.3f}' for s in scores)}" for model, scores in simple.items()
            )
            results = ", ".join(f"{score:.3f}" for score, _ in ours)
            if varied == "fold":
                results += f"; mean {np.mean([score for score, _ in ours]):.3f}"
                shown += "; mean " + ", ".join(f"{np.mean(scores):.3f}" for scores in simple.values())
            slowest = max(seconds for _, seconds in ours)
            print(f"| {name} | {results} | {slowest:.0f} | {shown} | ≥ {needed} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["baselines"]:
        print(json.dumps(baselines()))
    else:
        main()

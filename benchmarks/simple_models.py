"""Simple models of scikit-learn on the split of a generated project: tasks.py runs this in its folder.

`python simple_models.py SETTINGS`, the settings of DataModule as JSON, prints their test results as JSON.
What the project holds back for validation they learn from as well, since they need none.
"""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from scipy.signal import spectrogram
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler


def linear(classes: bool):
    """Return a linear model, of classes or of numbers."""
    if classes:
        return LogisticRegression(max_iter=2000)
    return RidgeCV(np.logspace(-2, 3, 20))


def models_of_texts() -> dict:
    """Return logistic regressions on the tf-idf of words and pairs of words, and on that of characters."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True)
    return {
        "tf-idf of words": make_pipeline(words, LogisticRegression(C=30, max_iter=1000)),
        "tf-idf of characters": make_pipeline(characters, LogisticRegression(C=30, max_iter=1000)),
    }


def models_of_vectors() -> dict:
    """Return a linear model and nearest neighbours, for images and sounds."""
    return {
        "logistic regression": make_pipeline(StandardScaler(), linear(classes=True)),
        "nearest neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier()),
    }


def models_of_tables(table: pl.DataFrame, classes: bool) -> dict:
    """Return a linear model and gradient boosting, for numbers and categories with missing cells."""
    names = [name for name in table.columns if table[name].dtype == pl.String]
    numbers = [name for name in table.columns if name not in names]
    filled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    switches = OneHotEncoder(handle_unknown="ignore", min_frequency=5)
    ordered = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=250, min_frequency=2
    )
    for_linear = make_column_transformer((filled, numbers), (switches, names))
    for_boosting = make_column_transformer((ordered, names), remainder="passthrough")
    boosting = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    categories = list(range(len(names)))
    return {
        "linear": make_pipeline(for_linear, linear(classes)),
        "boosting": make_pipeline(for_boosting, boosting(categorical_features=categories, random_state=0)),
    }


def plain_table(table: pl.DataFrame):
    """Return a table as scikit-learn takes it: dates as numbers, missing texts as a value of their own."""
    columns = []
    for name in table.columns:
        column = table[name]
        if column.dtype == pl.String:
            columns.append(column.fill_null("missing"))
        elif column.dtype.is_temporal():
            columns.append(column.dt.epoch("s").cast(pl.Float64).alias(name))
            columns.append(column.dt.hour().cast(pl.Float64).alias(f"{name}, hour"))
            columns.append(column.dt.weekday().cast(pl.Float64).alias(f"{name}, weekday"))
        else:
            columns.append(column.fill_null(float("nan")))
    return pl.DataFrame(columns)


def pixels(image) -> np.ndarray:
    """Return the pixels of an image in memory or of a file, one after the other."""
    if isinstance(image, str | Path):
        image = Image.open(image).convert("RGB")
    return np.asarray(image, dtype=np.float32).ravel()


def log_spectrum(sound) -> np.ndarray:
    """Return the logarithmic spectrogram of the first second of a sound at 8 kHz, in memory or a file."""
    if isinstance(sound, str | Path):
        import soundfile

        sound, _ = soundfile.read(sound)
    second = np.zeros(8000)
    samples = np.asarray(sound)[:8000]
    second[: len(samples)] = samples
    _, _, power = spectrogram(second, fs=8000, nperseg=256, noverlap=128)
    return np.log(power + 1e-10).ravel()


def read_texts(texts) -> list[str]:
    """Return texts out of their bytes."""
    return [bytes(texts[index].tolist()).decode(errors="ignore") for index in range(len(texts))]


def main() -> None:
    """Fit each model and print its result on the test split."""
    sys.path.insert(0, str(Path.cwd()))
    from my_project.data import DataModule

    data = DataModule(**json.loads(sys.argv[1]))
    inputs = {}
    targets = {}
    for split, (examples, wanted) in data.parts.items():
        if isinstance(examples, pl.DataFrame):
            inputs[split] = plain_table(examples)
        elif hasattr(examples, "content"):
            inputs[split] = read_texts(examples)
        elif hasattr(data, "rate"):
            inputs[split] = np.stack([log_spectrum(sound) for sound in examples])
        else:
            inputs[split] = np.stack([pixels(image) for image in examples])
        targets[split] = np.asarray(wanted)
    learned = np.concatenate([targets["train"], targets["val"]])
    if isinstance(inputs["train"], list):
        models = models_of_texts()
        known = inputs["train"] + inputs["val"]
    elif isinstance(inputs["train"], pl.DataFrame):
        models = models_of_tables(inputs["train"], bool(data.classes))
        known = pl.concat([inputs["train"], inputs["val"]])
    else:
        models = models_of_vectors()
        known = np.concatenate([inputs["train"], inputs["val"]])
    results = {}
    for name, model in models.items():
        results[name] = model.fit(known, learned).score(inputs["test"], targets["test"])
    print(json.dumps(results))


if __name__ == "__main__":
    main()

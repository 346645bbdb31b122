"""Runs start from pretrained models of `transformers`, tiny ones made here, and then need only themselves."""

import csv
import json
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from chaos import equal
from PIL import Image
from project import Done, run_in_turn
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

FEW = (
    "--config experiments/pretrained.yaml --trainer.max_epochs 2 --trainer.limit_train_batches 3 "
    "--trainer.limit_val_batches 2 --trainer.limit_test_batches 2 --trainer.log_every_n_steps 1 "
    "--data.batch_size 8"
)
# Each run is called one. There is neither network nor, in a new home, what was fetched before.
ALONE = {"WANDB_MODE": "disabled", "WANDB_RUN_ID": "one", "HF_HUB_OFFLINE": "1"}
FOLDER = "source"

# train.py, with SIGTERM before the fifth step, which is in the epoch in which the backbone learns.
STOPPED = """
import signal
import train

hook = train.Model.on_train_batch_start
begun = []

def stop(*args, **kwargs):
    begun.append(args)
    if len(begun) == 5:
        signal.raise_signal(signal.SIGTERM)
    return hook(*args, **kwargs)

train.Model.on_train_batch_start = stop
try:
    train.main()
finally:
    train.Model.on_train_batch_start = hook
"""
# The weights that a run has trained, as a pretrained model.
KEEP = f"""
import sys
import torch
from transformers import AutoConfig, AutoModel

checkpoint = torch.load(sys.argv[1] + "/checkpoints/last.ckpt", weights_only=True)
config = checkpoint["hyper_parameters"]["backbone_config"]["model"]
model = AutoModel.from_config(AutoConfig.for_model(**config))
start = "network.backbone."
weights = {{}}
for name, value in checkpoint["state_dict"].items():
    if name.startswith(start):
        weights[name.removeprefix(start)] = value
model.load_state_dict(weights, strict=False)
model.save_pretrained("{FOLDER}")
"""
FORGET = f"import shutil; shutil.rmtree('{FOLDER}')"
# Imported before, they have not seen the variables.
ANEW = """
import sys

for name in list(sys.modules):
    if name.split(".")[0] in ("huggingface_hub", "transformers"):
        del sys.modules[name]
"""
COPY = "import shutil; shutil.copy('stopped/one/checkpoints/best.ckpt', 'copied.ckpt')"
COMMANDS = {
    "anew.py": ANEW,
    "copy.py": COPY,
    "forget.py": FORGET,
    "keep.py": KEEP,
    "stopped.py": STOPPED,
}


def make_vit(folder: Path) -> None:
    from transformers import AutoModel, ViTConfig

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    looks = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 16, "width": 16},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(looks))


def make_bert(folder: Path) -> None:
    from transformers import AutoModel, BertConfig, BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters)]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=24).save_pretrained(folder)


def make_wav2vec2(folder: Path) -> None:
    from transformers import AutoModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 16, 16),
        conv_kernel=(20, 8, 4),
        conv_stride=(10, 8, 4),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
    )
    AutoModel.from_config(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained(folder)


MODELS = {"image": make_vit, "text": make_bert, "audio": make_wav2vec2}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Return a folder with a tiny model with random weights for each task."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    found = {}
    for task, make in MODELS.items():
        found[task] = tmp_path_factory.mktemp(task)
        make(found[task])
    return found


@dataclass
class Story:
    """What commands left in a project, one after the other in one process."""

    task: str
    project: Path
    done: dict[str, Done]

    def run(self, name: str) -> Path:
        return self.project / name / "one"


def inputs(project: Path, task: str) -> tuple[str, dict]:
    """Write two inputs to predict on; return their names, and what model.onnx takes."""
    random = np.random.default_rng(0)
    if task == "image":
        pixels = random.integers(0, 256, (2, 8, 8), dtype=np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(project / f"{i}.png")
        return "0.png 1.png", {}
    if task == "text":
        (project / "new.txt").write_text("haus\nperro negro")
        return "new.txt", {}
    lengths = np.array([9000, 16000])
    samples = np.zeros((2, 16000), dtype=np.float32)
    for i, length in enumerate(lengths):
        samples[i, :length] = random.normal(scale=0.1, size=length)
        soundfile.write(project / f"{i}.wav", samples[i, :length], 16000, subtype="FLOAT")
    return "0.wav 1.wav", {"x_0": samples, "x_1": lengths}


@pytest.fixture(scope="module", params=MODELS)
def story(request, bake, models, home) -> Story:
    """Train, stop, forget the source, resume, evaluate, predict, export, with neither network nor cache."""
    task = request.param
    project = bake(accept_hooks=False, task=task)
    shutil.copytree(models[task], project / FOLDER)
    for name, text in COMMANDS.items():
        (project / name).write_text(text)
    train = f"train.py {FEW} --model.backbone {FOLDER} --trainer.default_root_dir"
    jobs = {
        "anew": "anew.py",
        "whole": f"{train} whole",
        "stopped": f"{train} stopped".replace("train.py", "stopped.py"),
        "forget": "forget.py",
        "resume": "train.py --resume RUN",
        "evaluate": "evaluate.py RUN --trainer.limit_test_batches 2",
        "predict": f"predict.py RUN {inputs(project, task)[0]}",
        "export": "export.py RUN",
    }
    if task in ("image", "text"):
        jobs["copy"] = "copy.py"
        jobs["copied"] = "evaluate.py copied.ckpt --trainer.limit_test_batches 2"
    if task == "text":
        jobs["other"] = "evaluate.py RUN --model.backbone some/model"
        jobs["missing"] = f"train.py --model.backbone {FOLDER}"
        jobs["not fetched"] = "train.py --model.backbone some/model"
    commands = []
    for command in jobs.values():
        commands.append((project, command.replace("RUN", "stopped/one")))
    done = run_in_turn(commands, home=home, variables=ALONE)
    return Story(task, project, dict(zip(jobs, done, strict=True)))


def checkpoint(run: Path, name: str = "last") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_a_run_needs_nothing_but_itself(story):
    for name in ("whole", "forget", "resume", "evaluate", "predict", "export"):
        assert story.done[name].code == 0, (name, story.done[name].err)
    assert story.done["stopped"].code == 143, story.done["stopped"].err
    assert f"Weights from {FOLDER}" in story.done["whole"].err
    assert "Weights from" not in story.done["resume"].err
    whole = checkpoint(story.run("whole"))
    resumed = checkpoint(story.run("stopped"))
    assert equal(whole["state_dict"], resumed["state_dict"])
    assert equal(whole["optimizer_states"], resumed["optimizer_states"])
    config = whole["hyper_parameters"]["backbone_config"]
    assert config["name"] == FOLDER
    assert "transformers_version" not in config["model"]


def changed(run: Path, source: Path) -> list[str]:
    """Return the weights of the backbone that are not those of a pretrained model any more."""
    found = []
    weights = checkpoint(run)["state_dict"]
    for name, value in load_file(source / "model.safetensors").items():
        mine = weights.get(f"network.backbone.{name}")
        if mine is not None and not torch.equal(mine, value):
            found.append(name)
    return found


def test_the_backbone_learns_in_the_second_epoch_and_slowly(story, models):
    assert changed(story.run("whole"), models[story.task])
    text = (story.run("whole") / "metrics.csv").read_text()
    rates = {}
    for _, name, value in list(csv.reader(text.splitlines()))[1:]:
        rates.setdefault(name, []).append(float(value))
    assert max(rates["train/lr1"]) == pytest.approx(0.03 * max(rates["train/lr"]))


def test_what_is_predicted_is_exported(story):
    run = story.run("stopped")
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    with (run / "predictions.csv").open(encoding="utf-8") as file:
        expected = [float(row["probability"]) for row in csv.DictReader(file)]
    assert len(expected) == 2
    if story.task == "audio":
        feed = inputs(story.project, story.task)[1]
        (found,) = session.run(["probabilities"], feed)
        assert found.max(axis=1) == pytest.approx(expected, abs=1e-4)


def test_what_the_data_were_made_for_is_said(story):
    text = (story.run("whole") / "data.txt").read_text()
    found = [words for words in ("enlarged to 16x16", "resampled to 16000 Hz", "tokens of") if words in text]
    assert len(found) == 1, text


def error(done: Done) -> str:
    """Return the one line of a command that was refused."""
    assert done.code == 1, done.out + done.err
    assert "Traceback" not in done.err, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("story", ["image", "text"], indirect=True)
def test_a_checkpoint_needs_no_run(story):
    """But for the tokenizer of texts, which is looked for beside it."""
    if story.task == "text":
        assert "tokenizer is missing" in error(story.done["copied"])
    else:
        assert story.done["copied"].code == 0, story.done["copied"].err
        assert story.done["copied"].out == story.done["evaluate"].out


@pytest.mark.parametrize("story", ["text"], indirect=True)
def test_what_is_not_there_is_refused_in_one_line(story):
    assert f"model.backbone is {FOLDER} in this run (got some/model)" in error(story.done["other"])
    assert f"model.backbone {FOLDER} is no folder" in error(story.done["missing"])
    assert "model.backbone some/model is no folder, it was not fetched before" in error(
        story.done["not fetched"]
    )


def test_the_tokenizer_is_that_of_the_run(bake, models, home):
    """It lies in the run's folder; one line if it is missing, or another."""
    project = bake(accept_hooks=False, task="text")
    shutil.copytree(models["text"], project / FOLDER)
    (project / "new.txt").write_text("haus\nperro negro")
    change = "import pathlib; file = pathlib.Path('runs/one/tokenizer/tokenizer.json'); "
    change += "file.write_text(file.read_text().replace('##z', '##9'))"
    (project / "change.py").write_text(change)
    (project / "remove.py").write_text("import shutil; shutil.rmtree('runs/one/tokenizer')")
    commands = [
        f"train.py {FEW} --model.backbone {FOLDER} --data.max_length 100",
        "predict.py runs/one new.txt",
        "change.py",
        "predict.py runs/one new.txt",
        "remove.py",
        "evaluate.py runs/one",
    ]
    done = run_in_turn([(project, command) for command in commands], home=home, variables=ALONE)
    assert done[0].code == 0, done[0].err
    assert done[1].code == 0, done[1].err
    assert "longer than 24 tokens" in done[0].out
    assert "is not the one that the run was trained with" in error(done[3])
    assert "tokenizer is missing" in error(done[5])


SERVE = """
import http.server, sys, threading

class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        gated = self.path.startswith("/gated/")
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *words):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
WITHOUT = """
import sys, runpy
kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "transformers"}
sys.modules.update(dict.fromkeys(kept, None), transformers=None)
sys.argv[0] = "train.py"
try:
    runpy.run_path("train.py", run_name="__main__")
finally:
    del sys.modules["transformers"]
    sys.modules.update(kept)
"""


def test_other_models_and_settings_are_refused_in_one_line(bake, models, home):
    project = bake(accept_hooks=False)
    tables = bake(accept_hooks=False, task="tabular")
    (project / "serve.py").write_text(ANEW + SERVE)
    (project / "without.py").write_text(WITHOUT)
    for task in MODELS:
        shutil.copytree(models[task], project / task)
    (project / "broken").mkdir()
    (project / "broken" / "config.json").write_text("{}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused = {
        "without.py --model.backbone image": "needs the package transformers: pip install '.[pretrained]'",
        "train.py --model.backbone gated/model": "is gated: accept its conditions at",
        "train.py --model.backbone no/model": "no folder and no model on the Hugging Face hub of this name",
        "train.py --model.backbone ./nowhere": "no folder and no model on the Hugging Face hub of this name",
        "train.py --model.backbone broken": "model.backbone broken cannot be used",
        "train.py --model.backbone text": "bert, which takes texts; this project needs one that takes images",
        "train.py --model.backbone audio": "wav2vec2, which takes sounds",
        "train.py --model.backbone image --data.image_size 8": "data.image_size must be null",
        "train.py --model.backbone image --model.width 8": "model.width 8 has no use",
    }
    jobs = [(project, f"serve.py {port}")]
    jobs += [(project, command) for command in refused]
    jobs.append((tables, "train.py --model.backbone some/model"))
    variables = {
        "WANDB_MODE": "disabled",
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(home / "hub"),
    }
    served, *done = run_in_turn(jobs, home=home, variables=variables)
    assert served.code == 0, served.err
    for words, one in zip(
        [*refused.values(), "model.backbone must be null (got some/model)"], done, strict=True
    ):
        assert words in error(one)
    assert not list(project.glob("runs/*"))


def test_what_a_model_has_learned_helps(bake, models, home):
    """A model learns for a moment; then a new head on it, alone, is better than on random weights."""
    project = bake(accept_hooks=False)
    shutil.copytree(models["image"], project / FOLDER)
    (project / "keep.py").write_text(KEEP)
    learn = f"train.py --model.backbone {FOLDER} --model.lr 0.003 --trainer.max_epochs 8"
    head = f"{learn} --config experiments/pretrained.yaml --trainer.max_epochs 1 --model.lr 0.01"
    head += " --trainer.limit_train_batches 15"
    prefix = (
        f"{learn} --trainer.max_epochs 1 --trainer.limit_train_batches 1 --model.init_from other.safetensors"
    )
    (project / "rename.py").write_text(
        "from safetensors.torch import load_file, save_file\n"
        f"weights = load_file('{FOLDER}/model.safetensors')\n"
        "save_file({f'vit.encoder.{name}': value for name, value in weights.items()}, 'other.safetensors')\n"
    )
    commands = [
        f"{head} --trainer.default_root_dir random",
        f"{learn} --trainer.default_root_dir learned",
        "keep.py learned/one",
        f"{head} --trainer.default_root_dir transferred",
        "rename.py",
        f"{prefix} --trainer.default_root_dir prefix",
    ]
    done = run_in_turn([(project, command) for command in commands], home=home, variables=ALONE)
    for one in done:
        assert one.code == 0, one.err
    assert not changed(project / "transferred" / "one", project / FOLDER)  # frozen for its only epoch
    accuracies = {}
    for name in ("random", "transferred"):
        rows = csv.reader((project / name / "one" / "metrics.csv").read_text().splitlines())
        accuracies[name] = [float(value) for _, metric, value in rows if metric == "test/acc"][-1]
    assert accuracies["transferred"] > accuracies["random"] + 0.2, accuracies
    assert re.search(r"renamed: vit\.encoder\.(\S+) to network\.backbone\.\1, and others", done[5].err)


def test_a_setting_of_this_name_is_the_users_own_in_other_code(bake, home):
    """Model and data may both have a `backbone` that is no pretrained model: each keeps its own."""
    project = bake(accept_hooks=False, task="blank")
    for name, argument in {"data.py": "num_workers: int = 0", "model.py": "width: int = 32"}.items():
        file = project / "my_project" / name
        text = file.read_text(encoding="utf-8")
        assert text.count(argument) == 1
        file.write_text(text.replace(argument, f'{argument}, backbone: str = "own"'), encoding="utf-8")
    train = "train.py --trainer.max_epochs 1 --data.backbone other --trainer.default_root_dir named"
    again = "train.py --resume named/one --trainer.max_epochs 2"
    done = run_in_turn(
        [(project, train), (project, again), (project, "evaluate.py named/one")], home=home, variables=ALONE
    )
    assert [one.code for one in done] == [0, 0, 0], done
    settings = (project / "named" / "one" / "config.yaml").read_text(encoding="utf-8")
    assert "  backbone: own\n" in settings
    assert "  backbone: other\n" in settings

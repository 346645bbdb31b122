"""Write a trained model as ONNX, and its weights as safetensors: `python export.py runs/<id>`."""

import inspect
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness.errors import (
    UserError,
    one_line_errors,
)
from {{ cookiecutter.__package }}.harness.folder import (
    shortened,
    whole_file,
)
from {{ cookiecutter.__package }}.harness.inference import (
    TrainedRun,
    are_probabilities,
)
from {{ cookiecutter.__package }}.model import Model

TOLERANCE = 1e-4
MISSING = (
    "export.py needs {name}.example_input_array, an attribute or property of Lightning: "
    "a batch of inputs such as forward takes"
)
FLAGS = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.limit_predict_batches=0"]


def add_arguments(parser) -> None:
    """Add what only this script takes."""
    what = "Write to this file instead of model.onnx in the run's folder."
    parser.add_argument("--output", type=str | None, default=None, metavar="FILE", help=what)


@one_line_errors()
def main() -> None:
    """Write both files, but only if onnxruntime gives what the checkpoint gives."""
    run = TrainedRun(Model, DataModule, Path(__file__).parent, add_arguments, FLAGS)
    output = run.output("model.onnx")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter is written with it
        import safetensors.torch
    except ModuleNotFoundError as error:
        extra = "pip install onnx onnxruntime onnxscript safetensors"
        raise UserError(f"export.py needs more packages: {extra} ({error})") from error

    if run.model.example_input_array is None:
        raise UserError(MISSING.format(name=type(run.model).__name__))
    run.trainer.callbacks.clear()
    run.loop(run.trainer.predict, [])  # Lightning makes all layers and loads the weights
    model = run.model.eval()
    torch.manual_seed(0)
    example = example_batch(model, 5)
    other = example_batch(model, 7)
    predictor = Predictor(model, example).eval()
    predictor.choose([example, other])
    onnx = exported(predictor, example, other, run)

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    inputs = named_tensors(model, other)
    feed = {}
    for known in session.get_inputs():
        feed[known.name] = inputs[known.name].numpy()
    difference = largest_difference(session.run(None, feed), predictor.results(other))
    if not difference < TOLERANCE:
        raise UserError(f"ONNX and checkpoint differ by {difference:.1e}, so {output} is not written")

    weights = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            weights[name] = value.contiguous().clone()  # safetensors refuses weights that share memory
    write(output, onnx)
    names = {"classes": json.dumps(run.classes)}
    write(output.with_suffix(".safetensors"), safetensors.torch.save(weights, names))
    print(f"on random inputs ONNX and checkpoint differ by {difference:.1e}")


class Predictor(nn.Module):
    """Return what predict.py makes of a batch, given the tensors in it one by one.

    That is what `predict_step` returns, or `forward` where there is no `predict_step` for inputs alone.
    """

    def __init__(self, model: LightningModule, example: Any):
        super().__init__()
        self.model = model
        self.example = example
        self.uses_forward = not is_overridden("predict_step", model)

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        inputs = apply_to_collection(self.example, Tensor, lambda _: next(given))
        if not self.uses_forward:
            if isinstance(inputs, tuple) and len(inputs) == 1:
                return self.model.predict_step(inputs[0], 0)
            return self.model.predict_step(inputs, 0)
        if isinstance(inputs, dict):
            return self.model(**inputs)
        if isinstance(inputs, tuple):
            return self.model(*inputs)
        return self.model(inputs)

    def results(self, batch: Any) -> list[Tensor]:
        """Return the tensors that come out for a batch like the example."""
        with torch.no_grad():
            return list(tensors_in("", self(*tensors_in("", batch).values())).values())

    def choose(self, batches: list) -> None:
        """Use `forward` if `predict_step` does not give a row for each example, and say so."""
        if self.uses_forward:
            return
        for batch in batches:
            problem = self.problem(batch)
            if problem:
                print(f"predict_step does not work with inputs alone ({problem}); forward is exported")
                self.uses_forward = True
                return

    def problem(self, batch: Any) -> str | None:
        """Return why `predict_step` cannot be used, None if it gives a row for each example."""
        try:
            results = self.results(batch)
        except Exception as error:  # one that expects targets fails in many ways
            return f"{type(error).__name__}: {error}".splitlines()[0]
        rows = row_count(batch)
        for result in results:
            if result.shape[:1] != (rows,):
                return f"{list(result.shape)} for {rows} examples"
        if not results:
            return "no tensor"
        return None


def example_batch(model: LightningModule, rows: int) -> Any:
    """Return `model.example_input_array` with this number of rows.

    Floating-point values differ a little in each call, unless a property draws them anew by itself. An
    axis whose size differs between two calls will be free in ONNX, as that of the batch is.

    Raises:
        UserError: If the model has no such attribute.
    """
    example = model.example_input_array
    tensors = list(tensors_in("", example).values())
    if not tensors:
        raise UserError(MISSING.format(name=type(model).__name__))
    given = row_count(example)
    again = tensors_in("", model.example_input_array).values()
    constant = all(torch.equal(one, other) for one, other in zip(tensors, again, strict=True))

    def varied(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] == (given,):
            tensor = tensor[torch.arange(rows) % given]
        if constant and tensor.is_floating_point():
            tensor = tensor * (1 + 0.1 * torch.rand_like(tensor))
        return tensor

    return apply_to_collection(example, Tensor, varied)


def row_count(batch: Any) -> int:
    """Return the size of the first axis of the first tensor in a batch."""
    first = next(iter(tensors_in("", batch).values()))
    if first.ndim == 0:
        return 1
    return len(first)


def tensors_in(name: str, value: Any) -> dict[str, Tensor]:
    """Return the tensors in a value, in order, under names made of keys, or of `name` and positions."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = [(f"{name}_{position}", item) for position, item in enumerate(value)]
    else:
        return {}
    found = {}
    for key, item in items:
        found.update(tensors_in(key, item))
    return found


def named_tensors(model: LightningModule, batch: Any) -> dict[str, Tensor]:
    """Return the tensors of a batch under the names that they have as arguments of `forward`."""
    if isinstance(batch, dict):
        return tensors_in("", batch)
    arguments = batch
    if not isinstance(batch, tuple):
        arguments = (batch,)
    names = list(inspect.signature(model.forward).parameters)
    found = {}
    for position, argument in enumerate(arguments):
        name = f"input_{position}"  # of *args
        if position < len(names):
            name = names[position]
        found.update(tensors_in(name, argument))
    return found


def exported(predictor: Predictor, example: Any, other: Any, run: TrainedRun) -> bytes:
    """Return the model as ONNX, in which every axis is free that differs between the two batches.

    Raises:
        UserError: If torch cannot export it.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which is not needed
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it guesses the type of empty lists, rightly
    warnings.filterwarnings("ignore", message="# The axis name")  # inputs share the batch
    inputs = named_tensors(run.model, example)
    others = named_tensors(run.model, other)
    free_axes = []
    for name, tensor in inputs.items():
        axes = {}
        for axis, size in enumerate(tensor.shape):
            if size != others[name].shape[axis]:
                axes[axis] = f"{name}_{axis}"
                if axis == 0:
                    axes[axis] = "batch"
        free_axes.append(axes)
    try:
        program = torch.onnx.export(
            predictor,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=output_names(predictor, example, run.classes),
            dynamic_shapes=(tuple(free_axes),),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"torch.onnx cannot export {type(run.model).__name__}: {reason}") from error
    assert program  # no file was named
    program.model.metadata_props.update(metadata(run))
    return program.model_proto.SerializeToString()


def output_names(predictor: Predictor, example: Any, classes: list[str]) -> list[str]:
    """Return a name for each tensor that comes out: its key, or what it is."""
    inputs = tensors_in("", example).values()
    with torch.no_grad():
        results = predictor(*inputs)
    name = "output" if predictor.uses_forward else "predictions"
    if isinstance(results, Tensor) and classes and results.shape[1:] == (len(classes),):
        name = "probabilities" if are_probabilities(results) else "scores"
    return list(tensors_in(name, results))


def metadata(run: TrainedRun) -> dict[str, str]:
    """Return as JSON what is known of model and data, the classes among it, and what the network takes."""
    facts = dict(run.model.hparams)
    if run.datamodule is not None:
        facts.update(run.datamodule.state_dict())
    facts["classes"] = run.classes
    network: Any = getattr(run.model, "network", run.model)
    facts["network"] = inspect.getdoc(network.forward)
    found = {}
    for name, value in facts.items():
        try:
            found[name] = json.dumps(value)
        except TypeError:  # a tensor, or an object of the user's own
            continue
    return found


def largest_difference(found: list, expected: list[Tensor]) -> float:
    """Return the largest difference between two lists of arrays, as a share of the values beyond 1."""
    differences = []
    for one, other in zip(found, expected, strict=True):
        difference = (torch.as_tensor(one).double() - other.double()).abs().max()
        differences.append(difference / other.double().abs().max().clamp(min=1))
    return torch.stack(differences).max().item()  # not a number if one of them is not


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and say so."""
    with whole_file(path) as file:
        file.write(content)
    print(f"{shortened(str(path))} written, {len(content) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

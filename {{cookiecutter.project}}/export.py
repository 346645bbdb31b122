"""Write a trained model as ONNX, and its weights as safetensors: `python export.py runs/<id>`."""

import argparse
import inspect
import json
import logging
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from {{ cookiecutter.__package }}.data import DataModule
from {{ cookiecutter.__package }}.harness import errors, run
from {{ cookiecutter.__package }}.model import Model


class Predictor(nn.Module):
    """Return what predict.py makes of a batch, given the tensors in it one by one."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model.predict_step(tensors[0] if len(tensors) == 1 else tensors, 0)


@errors.one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="runs/<id>, or a .ckpt file")
    parser.add_argument("--output", type=Path, help="ONNX to write (default: model.onnx in the run's folder)")
    args = parser.parse_args()
    checkpoint = run.find_checkpoint(args.checkpoint)
    output = run.output_file(args.output, checkpoint, "model.onnx")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter is written with it
        import safetensors.torch
    except ModuleNotFoundError as error:
        extra = "pip install onnx onnxruntime onnxscript safetensors"
        raise errors.UserError(f"install the extra first: {extra} ({error})") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    warnings.filterwarnings("ignore", message="# The axis name")  # inputs share the batch
    torch.manual_seed(0)
    model, data = run.load(Model, checkpoint).eval(), run.load(DataModule, checkpoint)
    predictor = Predictor(model).eval()
    facts = model.hparams | data.facts | {"network": inspect.getdoc(type(model.network).forward)}

    example, other = data.random_inputs(2), data.random_inputs(5)
    axes = [
        {i: f"{name}_{i}" if i else "batch" for i, size in enumerate(x.shape) if size != other[name].shape[i]}
        for name, x in example.items()
    ]
    program = torch.onnx.export(
        predictor,
        tuple(example.values()),
        input_names=[*example],
        output_names=["probabilities" if data.classes else "predictions"],
        dynamic_shapes=(tuple(axes),),
        verbose=False,
    )
    assert program  # and no file: none was named
    program.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
    onnx = program.model_proto.SerializeToString()

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in other.items()})
    with torch.no_grad():
        expected = predictor(*other.values())
    difference = (torch.from_numpy(found) - expected).abs().max().item() / max(1, expected.abs().max().item())
    if not difference < 1e-4:
        raise errors.UserError(f"ONNX and checkpoint differ by {difference:.1e}, so {output} is not written")
    weights = safetensors.torch.save(model.state_dict(), {"classes": json.dumps(data.classes)})
    for path, content in {output: onnx, output.with_suffix(".safetensors"): weights}.items():
        with run.whole_file(path) as file:
            file.write(content)
        print(f"{path} written, {len(content) / 1e6:.1f} MB".replace(f"{Path.cwd()}{os.sep}", ""))
    print(f"on random inputs ONNX and checkpoint differ by {difference:.1e}")


if __name__ == "__main__":
    main()

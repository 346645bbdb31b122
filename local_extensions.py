"""Jinja filters that refuse an answer or carry it into the project unchanged."""

import json
import keyword
import re
import sys

from cookiecutter.exceptions import FailedHookException
from jinja2.ext import Extension

# A package of one of these names beside train.py would be imported instead of the library, or be taken for it
# by pip. Import and distribution names of all that requirements.txt installs; a test compares them.
_INSTALLED = """
aiohappyeyeballs aiohttp aiosignal annotated_types anyio ast_serialize attr attrs certifi cffi
charset_normalizer click cloudpickle contourpy coreweave_evaluations cwevals cycler dateutil distro distutils
docstring_parser emoji filelock fonttools frozenlist fsspec functorch google googleapis_common_protos h11
httpcore httpx idna iniconfig isympy jinja2 joblib jsonargparse kiwisolver librt licensing lightning
lightning_fabric lightning_utilities markupsafe matplotlib mpl_toolkits mpmath multidict mypy mypy_extensions
mypyc narwhals networkx numpy opentelemetry opentelemetry_api opentelemetry_exporter_http_transport
opentelemetry_exporter_otlp_common opentelemetry_exporter_otlp_proto_common
opentelemetry_exporter_otlp_proto_http opentelemetry_proto opentelemetry_sdk
opentelemetry_semantic_conventions packaging pandas pathspec pil pillow pkg_resources platformdirs pluggy
polars polars_runtime_32 propcache protobuf py pycparser pydantic pydantic_core pygments pylab pyparsing
pytest python_dateutil pytorch_lightning pyyaml requests ruff scikit_learn scipy setuptools six sklearn
sniffio soundfile sympy threadpoolctl torch torchgen torchmetrics tqdm typeshed_client typing_extensions
typing_inspection tzdata urllib3 wandb xxhash yaml yarl
"""
# Imported by the ones above wherever they are found, or the usual next thing to install.
_OPTIONAL = """
accelerate apex audioread bitsandbytes colossalai comet_ml cuda cv2 dask datasets deepspeed dill evaluate
fairscale fastexcel hf_xet httpcore2 httpx2 huggingface_hub hydra ipython ipywidgets jax keras litdata
litlogger ml_dtypes mlflow multiprocess neptune numba nvidia omegaconf onnx onnx_ir onnxruntime onnxscript
optuna plotly psutil pyarrow pytest_cov pytorch ray rich safetensors seaborn sentry_sdk tensorboard
tensorboardx tensorflow tensorrt timm tokenizers torch_tensorrt torch_xla torchao torchaudio torchdata
torchtext torchvision tornado transformer_engine transformers triton truststore xarray
"""
# In the project, or in its .gitignore, or given a meaning of their own by packaging tools.
_PROJECT = """
agents build checkpoints config conftest data dist docs env evaluate experiments export folds harness license
lightning_logs logs main model network outputs predict pyproject readme requirements requirements_dev runs
search setup slurm src sweep test tests train venv wandb
"""
_WINDOWS = "aux con nul prn " + " ".join(f"{port}{n}" for port in ("com", "lpt") for n in range(10))

_TAKEN = {
    "a word of the Python or YAML language": {word.lower() for word in keyword.kwlist} | {"null"},
    "a device name on Windows": frozenset(_WINDOWS.split()),
    "a file or folder of the project itself": frozenset(_PROJECT.split()),
    "a library that the project uses or may use": frozenset(f"{_INSTALLED} {_OPTIONAL}".split()),
    "a module of Python's standard library": frozenset(name.lower() for name in sys.stdlib_module_names),
}


def package(project: str) -> str:
    """Return the import name of a project: its words joined by underscores.

    Raise FailedHookException otherwise: cookiecutter prints it and stops before it has written anything.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", project) or len(project) > 64:
        raise FailedHookException(
            f"project {project!a}: use lower-case words joined by hyphens, such as my-project "
            "(ASCII letters and digits, a letter first, at most 64 characters)"
        )
    name = project.replace("-", "_")
    for what, names in _TAKEN.items():
        if name in names:
            raise FailedHookException(f"project {project!a}: {name} is {what}; try my-{project}")
    return name


def quoted(text: str) -> str:
    """Return a text as it stands between double quotes in TOML, YAML, JSON and Python alike.

    Raise FailedHookException otherwise: cookiecutter prints it and stops before it has written anything.
    """
    # Braces, because cruft renders the stored answers again.
    if not text or text != text.strip() or not text.isprintable() or re.search(r"\{[{%#]", text):
        raise FailedHookException(
            f"text {text!r}: use one line of printable characters with no space at either end, "
            "not empty, and without {{, {% or {#"
        )
    return json.dumps(text, ensure_ascii=False)[1:-1]


class Filters(Extension):
    """Give the filters to the templates, cookiecutter.json and the hooks."""

    def __init__(self, environment):
        super().__init__(environment)
        environment.filters.update(package=package, quoted=quoted)

"""Run the training tests with the newest and with the lowest versions that the generated project allows.

`make versions` does it for both; `python scripts/versions.py highest` for one. Each makes an environment in
build/versions, of gigabytes unless UV_TORCH_BACKEND=cpu is set, and takes a quarter of an hour.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from lock import ROOT, TASKS, project_ranges, tool_ranges

RESOLUTIONS = ("highest", "lowest-direct")  # as uv calls them


def install(environment: Path, resolution: str, ranges: list[str]) -> None:
    """Make an environment with the versions that a resolution of ranges gives; the tools are the newest."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--seed", "--clear", str(environment)], check=True)
    pip = [*uv, "pip", "install", "--quiet", "--python", str(environment)]
    subprocess.run([*pip, "--resolution", resolution, *ranges], check=True)
    subprocess.run([*pip, *ranges, *tool_ranges()], check=True)


def test(environment: Path) -> int:
    """Run the tests that train, with the Python of an environment; return the exit code."""
    python = environment / "bin" / "python"
    show = "import torch, lightning; print(torch.__version__, lightning.__version__)"
    subprocess.run([str(python), "-c", show], check=True)
    pytest = ["-m", "pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "slow"]
    return subprocess.run([str(python), *pytest], cwd=ROOT).returncode


def main() -> None:
    """Test with each resolution that is named, or both; end with 1 if a test failed."""
    ranges: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS:
            needed, tools = project_ranges(task, folder)
            ranges.update(needed, tools)
    failed = []
    for resolution in sys.argv[1:] or RESOLUTIONS:
        environment = ROOT / "build" / "versions" / resolution
        install(environment, resolution, sorted(ranges))
        if test(environment) != 0:
            failed.append(resolution)
    if failed:
        sys.exit(f"error: tests failed with the versions {', '.join(failed)}")


if __name__ == "__main__":
    main()

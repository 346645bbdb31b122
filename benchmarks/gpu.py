"""Train a ResNet-18 on a GPU, with the project and by hand: `python benchmarks/gpu.py`.

Both use what experiments/gpu.yaml sets. The card's peak is what a large product of bfloat16 matrices reaches
on it. Where there is no GPU it says so and stops.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from run import HERE, compared, python, render, row

GOAL = 1.03


def peak() -> float:
    """Return the floating-point operations a second of a product of bfloat16 matrices."""
    size, repeats = 8192, 50
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    seconds = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            a @ a
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 * repeats / min(seconds)


def main() -> None:
    if not torch.cuda.is_available():
        print("there is no GPU: nothing is measured")
        return
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        project, _ = render(Path(folder))
        output = python(HERE / "training.py", "gpu", project, repeats, cwd=project)[0]
    result = json.loads(output.splitlines()[-1])
    ours, by_hand = zip(*result["pairs"], strict=True)
    images = [each["steps"] * result["batch_size"] / each["wall"] for each in ours]
    share = median(images) * result["flops"] / peak()
    differs = max(abs(a["train/loss"] / b["train/loss"] - 1) for a, b in result["pairs"])
    print(row("measured", "generated project", "reference", "ratio", "must be"), row(*["---"] * 5), sep="\n")
    title = f"ResNet-18, 32×32, batch {result['batch_size']}: training phase"
    print(compared(title, [a["wall"] for a in ours], [b["wall"] for b in by_hand], GOAL))
    print(row("its images a second, validation included", f"{median(images):.0f}", "", "", ""))
    print(row("its share of the card's peak", f"{share:.1%}", "", "", ""))
    print(row("its last losses", "", f"{differs:.1e} apart", "", "the same but for rounding"))
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()

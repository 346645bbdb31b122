"""Train a ResNet-18 on a GPU, with the project and by hand: `python benchmarks/gpu.py`.

Both use what experiments/gpu.yaml sets. The card's peak is what a large product of bfloat16 matrices reaches
on it. Where there is no GPU it says so and stops.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from run import LOSSES, in_turn, ratio, render, row, side, spread

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
    with tempfile.TemporaryDirectory() as folder:
        project, _ = render(Path(folder))
        with side("gpu", project, "flops") as flops:
            an_image = flops()
        ours, by_hand = in_turn("gpu", project, ("project", "settings"))
    images = [each["examples"] / each["wall"] for each in ours]
    share = median(images) * an_image / peak()
    differs = max(abs(a[k] / b[k] - 1) for a, b in zip(ours, by_hand, strict=True) for k in LOSSES)
    seconds, reference = ([each["wall"] for each in results] for results in (ours, by_hand))
    print(row("measured", "generated project", "by hand", "ratio", "must be"), row(*["---"] * 5), sep="\n")
    title = "ResNet-18, 32×32, batch 512: training phase"
    print(row(title, spread(seconds), spread(reference), ratio(seconds, reference), f"≤ {GOAL}"))
    print(row("its images a second, validation included", f"{median(images):.0f}", "", "", ""))
    print(row("its share of the card's peak", f"{share:.1%}", "", "", ""))
    print(row("its last losses", "", f"{differs:.1e} apart", "", "the same but for rounding"))
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()

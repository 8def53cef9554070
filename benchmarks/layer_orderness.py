"""How long the orderness of every layer takes, against a bare evaluation pass over the same images; and its memory.

    python benchmarks/layer_orderness.py [--repeats 10] [--csv times.csv]

Networks of the orderness study, 1000 random images in batches of 100. Both are timed in turn in one process and
the best of all turns counts. Memory is the peak of a process of its own that measures 1000 or 20 000 images (one
image seen again and again, so that the images themselves take none), above the same process with 100 images.
"""

import argparse
import resource
import subprocess
import sys
import time

import pandas as pd
import torch

from spatialkit.measure import layer_orderness
from spatialkit.models import PlainCNN
from spatialkit.train import predict

NETWORKS = {
    "MNIST, 3 x 64": ((1, 28, 28), {"depth": 3, "width": 64}),
    "MNIST, 3 x 32": ((1, 28, 28), {"depth": 3, "width": 32}),
    "CIFAR-10, 4 x 64": ((3, 32, 32), {"depth": 4, "width": 64, "pool_every": 2}),
    "CIFAR-10, 4 x 32": ((3, 32, 32), {"depth": 4, "width": 32, "pool_every": 2}),
}


def build(name: str) -> tuple[PlainCNN, torch.Tensor, list[str]]:
    """A network, one image for it, and the names of its convolutional blocks."""
    shape, layers = NETWORKS[name]
    model = PlainCNN(shape, 10, seed=0, **layers).to(memory_format=torch.channels_last).eval()
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    return model, image, [f"blocks.{i}" for i in range(layers["depth"])]


def ratio(name: str, repeats: int) -> dict:
    """Best times of both, in milliseconds."""
    model, image, blocks = build(name)
    images = torch.randn(1000, *image.shape[1:]).contiguous(memory_format=torch.channels_last)
    tasks = {
        "pass (ms)": lambda: predict(model, images),
        "orderness (ms)": lambda: layer_orderness(model, images, blocks),
    }
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for task, run in tasks.items():
            start = time.perf_counter()
            run()
            best[task] = min(best[task], 1e3 * (time.perf_counter() - start))
    return best | {"orderness / pass": best["orderness (ms)"] / best["pass (ms)"]}


def peak(name: str, n_images: int) -> float:
    """Peak memory of a process of its own that measures so many images, in MiB."""
    command = [sys.executable, __file__, "--measure", name, "--images", str(n_images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="turns")
    parser.add_argument("--csv", help="also write the table to this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        model, image, blocks = build(arguments.measure)
        layer_orderness(model, image.expand(arguments.images, -1, -1, -1), blocks)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    rows = []
    for name in NETWORKS:
        least = peak(name, 100)
        more = {f"memory, {n} images (MiB)": peak(name, n) - least for n in (1000, 20_000)}
        rows.append({"network": name, "threads": torch.get_num_threads()} | ratio(name, arguments.repeats) | more)
    table = pd.DataFrame(rows).round(2)
    print(table.to_string(index=False))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()

"""How long the orderness of every layer takes, against a bare evaluation pass over the same images; and its memory.

    python benchmarks/layer_orderness.py [--repeats 10] [--csv times.csv]

Networks of the orderness study, 1000 random images in batches of 100. Both are timed in turn in one process and
the best of all turns counts. Memory is the peak of a process of its own that measures 1000 or 20 000 images (one
image seen again and again, so that the images themselves take none), above the same process with 100 images.
"""

import argparse
import resource

import pandas as pd
import torch
from _timing import best_times, peak

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
    tasks = {"pass": lambda: predict(model, images), "orderness": lambda: layer_orderness(model, images, blocks)}
    seconds = best_times(tasks, repeats)
    best = {f"{task} (ms)": 1e3 * value for task, value in seconds.items()}
    return best | {"orderness / pass": seconds["orderness"] / seconds["pass"]}


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
        memory = {n: peak(__file__, "--measure", name, "--images", str(n)) for n in (100, 1000, 20_000)}
        more = {f"memory, {n} images (MiB)": memory[n] - memory[100] for n in (1000, 20_000)}
        for threads in sorted({1, torch.get_num_threads()}):
            torch.set_num_threads(threads)
            rows.append({"network": name, "threads": threads} | ratio(name, arguments.repeats) | more)
    table = pd.DataFrame(rows).round(2)
    print(table.to_string(index=False))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()

"""Training in bfloat16 against float32: the time of a step, paired.

    python benchmarks/precision.py [--rounds 5] [--images 64] [--batch 32] [--csv PATH]

Both are measured in one run, in turn, by `fit` on one epoch of random images of 3 x 32 x 32; a round gives one ratio,
and the table has their median and range. Without matrix units bfloat16 may well be the slower one.
"""

import argparse
import time

import pandas as pd
import torch

from spatialkit.lab import bfloat16_words
from spatialkit.models import build
from spatialkit.train import fit, sgd

NETWORKS = {"lenet": 1.0, "vgg11_bn, 1/8": 1 / 8, "vgg11_bn": 1.0, "resnet18": 1.0}  # factors on the channels
PRECISIONS = ("float32", "bfloat16")


def seconds_per_step(name: str, width: float, precision: str, n: int, batch: int) -> float:
    """Of one epoch on n random images, after a step to warm up."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(n, 3, 32, 32, generator=generator), torch.arange(n) % 10
    model = build(name, (3, 32, 32), 10, width=width)
    descent = {"optimizer": sgd(0.01, momentum=0.9), "batch": batch, "seed": 0, "precision": precision}
    fit(model, images[:batch], labels[:batch], epochs=1, **descent)
    start = time.perf_counter()
    fit(model, images, labels, epochs=1, **descent)
    return (time.perf_counter() - start) / -(-n // batch)


def measure(rounds: int, n: int, batch: int) -> pd.DataFrame:
    """One row per network: medians of both times, and the median and range of their ratio over the rounds."""
    rows = []
    for label, width in NETWORKS.items():
        name = label.split(",")[0]
        times = pd.DataFrame(
            [{p: seconds_per_step(name, width, p, n, batch) for p in PRECISIONS} for _ in range(rounds)]
        )
        ratios = times["float32"] / times["bfloat16"]
        row = {"network": label} | {f"{p} (ms per step)": 1e3 * times[p].median() for p in PRECISIONS}
        rows.append(row | {"float32 / bfloat16": ratios.median(), "least": ratios.min(), "most": ratios.max()})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64, help="number of images per epoch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(f"{where}; processor {bfloat16_words()}")
    table = measure(arguments.rounds, arguments.images, arguments.batch)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.2f}"))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()

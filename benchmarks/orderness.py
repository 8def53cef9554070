"""How long orderness takes, against one read of the images and against sampled triples.

    python benchmarks/orderness.py [--repeats 15] [--csv times.csv]

50 000 x 3 x 32 x 32 random float32 pixels (0.6 GB) at scale 1. One read is ``images.sum()``, with the
same threads. The sampled estimate draws 10^7 triples in NumPy: an image, a channel, a middle pixel q and
two steps from it, to p and to r. All are timed in turn in one process and the best of all turns counts.
"""

import argparse

import numpy as np
import pandas as pd
import torch
from _timing import best_times

from spatialkit.measure import orderness

N_TRIPLES = 10**7
NEIGHBOURS = ("straight", "4", "8")


def sampled_orderness(images: np.ndarray, neighbours: str, rng: np.random.Generator) -> float:
    """Eq. 6 from random triples whose middle is off the border."""
    N, C, H, W = images.shape
    n, c = rng.integers(N, size=N_TRIPLES), rng.integers(C, size=N_TRIPLES)
    y, x = rng.integers(1, H - 1, size=N_TRIPLES), rng.integers(1, W - 1, size=N_TRIPLES)
    to_p, to_r = rng.choice(steps_from_middle(neighbours), N_TRIPLES).transpose(1, 2, 0)  # (dy, dx) each
    p = images[n, c, y + to_p[0], x + to_p[1]]
    q = images[n, c, y, x]
    r = images[n, c, y + to_r[0], x + to_r[1]]
    return float(np.mean((p - r) ** 2) / np.mean((p - q) ** 2) - 1)


def steps_from_middle(neighbours: str) -> np.ndarray:
    """All steps (dy, dx) from q to p and from q to r, shape ``(n, 2, 2)``."""
    steps = [np.array([dy, dx]) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    if neighbours != "8":
        steps = [step for step in steps if abs(step).sum() == 1]
    joined = {
        "straight": lambda p, r: (p == -r).all(),
        "4": lambda p, r: (p != r).any(),
        "8": lambda p, r: abs(p - r).max() == 2,
    }[neighbours]
    return np.array([(p, r) for p in steps for r in steps if joined(p, r)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="turns of the quick tasks")
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()

    images = torch.rand(50_000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    exact = {name: lambda name=name: orderness(images, neighbours=name) for name in NEIGHBOURS}
    sampled = {name: lambda name=name: sampled_orderness(images.numpy(), name, rng) for name in NEIGHBOURS}
    seconds = best_times({"one read": images.sum, **exact}, arguments.repeats)
    sampled_seconds = best_times(sampled, max(1, arguments.repeats // 7))

    table = pd.DataFrame(
        {
            "neighbours": name,
            "threads": torch.get_num_threads(),
            "one read (ms)": 1e3 * seconds["one read"],
            "orderness (ms)": 1e3 * seconds[name],
            "orderness / one read": seconds[name] / seconds["one read"],
            "10^7 triples (ms)": 1e3 * sampled_seconds[name],
            "10^7 triples / orderness": sampled_seconds[name] / seconds[name],
        }
        for name in NEIGHBOURS
    ).round(1)
    print(table.to_string(index=False))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()

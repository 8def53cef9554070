"""A training step of an i-RevNet that recomputes its activations, against one that stores them: time and memory.

    python benchmarks/irevnet.py [--blocks 9 30 90] [--batch 64] [--repeats 5] [--csv times.csv]

The bijective network for images of 3 x 32 x 32 (kernels 3-3-3, 285,988 parameters at 18 blocks), one thread. Times are
the best of all turns, in each of which every kind of step runs once; memory is what the tensors of a step hold at one
time, the gradients of the parameters left out (`sk.measure.peak_bytes`).
"""

import argparse

import pandas as pd
import torch
import torch.nn.functional as F
from _timing import best_times

import spatialkit as sk

KINDS = {
    "stored": {},
    "recomputed": {"recompute": True},
    "stored, exact": {"exact": True},
    "recomputed, exact": {"exact": True, "recompute": True},
}


def step_of(blocks: int, batch: int, **options):
    """A forward and a backward pass, as a function that returns the gradients of the parameters."""
    model = sk.IRevNet((3, 32, 32), 10, (blocks // 3,) * 3, kernels=(3, 3, 3), logits_only=True, **options)
    model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), generator=generator)

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[9, 30, 90], help="multiples of 3")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for blocks in arguments.blocks:
        steps = {name: step_of(blocks, arguments.batch, **options) for name, options in KINDS.items()}
        memory = {name: sk.measure.peak_bytes(step) / 2**20 for name, step in steps.items()}
        seconds = best_times(steps, arguments.repeats)
        for name in KINDS:
            time, ratio = 1e3 * seconds[name], seconds[name] / seconds["stored"]
            rows.append(
                {"blocks": blocks, "step": name, "ms": time, "time / stored": ratio, "live (MiB)": memory[name]}
            )
    table = pd.DataFrame(rows).round(2)
    print(table.to_string(index=False))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()

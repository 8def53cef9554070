"""A layer of an attribute network against a direct convolution in five dimensions, and the network against ResNet-20.

    python benchmarks/attributes.py [--batch 8] [--repeats 5] [--csv times.csv]

Forward and backward in float32 on one thread, the best of all turns, in each of which every way runs once. The layer
is one of the printed network for CIFAR-10 (K = 16, Q = 32, windows of 3 x 3 x 7 x 11) at 16 x 16 places. The direct way
adds the products of every offset of the window in turn, with nothing but shifted views. GFLOP/s count multiplications
and additions of the convolution along attributes, borders included; the peak is what this processor reaches in a
convolution of 64 channels with 3 x 3 pixels, which suits it best.
"""

import argparse
import itertools

import pandas as pd
import torch
import torch.nn.functional as F
from _timing import best_times
from torch import Tensor

import spatialkit as sk
from spatialkit.models.attribute_layers import FactoredLayer

SIDE, A, B, FILTERS, WINDOW = 16, 8, 16, 16, (7, 11)


def direct(layer: FactoredLayer, x: Tensor) -> Tensor:
    """The layer without ``plus`` and zeros at the border, one offset of the five-dimensional window after the other."""
    x, h = x.sum(dim=3), layer.h
    pixels = F.pad(x, (0, 0, 0, 0, 1, 1, 1, 1))
    z = sum(
        pixels[:, i : i + SIDE, j : j + SIDE, ..., None] * h[:, i, j] for i, j in itertools.product(range(3), range(3))
    )
    mean, variance = z.flatten(0, -2).mean(0), z.flatten(0, -2).var(0, correction=0)
    z = F.pad((z - mean) * (variance + 1e-5).rsqrt(), (0, 0, 5, 5, 3, 3))
    y = sum(
        z[:, :, :, k : k + A : 2, n : n + B : 2] @ layer.g[:, :, k, n].T
        for k, n in itertools.product(range(WINDOW[0]), range(WINDOW[1]))
    )
    mean, variance = y.flatten(0, -2).mean(0), y.flatten(0, -2).var(0, correction=0)
    return F.elu((y - mean) * (variance + 1e-5).rsqrt())


def step_of(function, x: Tensor):
    """A forward and a backward pass."""

    def step() -> None:
        x.grad = None
        function(x).square().mean().backward()

    return step


def flops(places: int, channels: int, filters: int = FILTERS) -> int:
    """Of a forward and a backward pass along attributes, per image: three times the forward pass."""
    return 3 * 2 * places * (A // 2) * (B // 2) * filters * channels * WINDOW[0] * WINDOW[1]


def measure(batch: int, repeats: int) -> pd.DataFrame:
    """One row per way: ms an image, and the rate of the convolutions along attributes."""
    options = {"stride": 1, "step": 2, "circular": False}
    plain, plus = (FactoredLayer(32, FILTERS, WINDOW, kind, **options) for kind in (False, True))
    x = torch.randn(batch, SIDE, SIDE, A // 2, A, B, requires_grad=True)
    torch.testing.assert_close(direct(plain, x), plain(x), rtol=1e-3, atol=1e-3)
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    many = torch.randn(batch, 64, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    best = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    network = sk.AttributeCNN((3, 32, 32), 10, first_stride=2)
    resnet = sk.models.resnet20((3, 32, 32), 10).to(memory_format=torch.channels_last)
    places = 2 * SIDE**2 + 4 * (SIDE // 2) ** 2 + 2 * (SIDE // 4) ** 2  # layers 3 to 10
    ways = {
        "layer, direct": (lambda x: direct(plain, x), x, 0),
        "layer": (plain, x, flops(SIDE**2, 9)),
        "layer (+)": (plus, x, flops(SIDE**2, 32)),
        "network, first stride 2": (network, images, flops(places, 9) + flops((SIDE // 4) ** 2, 9, 10)),
        "ResNet-20": (resnet, images, 0),
        "peak": (best, many, 3 * 2 * 32**2 * 64 * 64 * 9),
    }
    seconds = best_times({name: step_of(way, x) for name, (way, x, _) in ways.items()}, repeats)
    peak = ways["peak"][2] * batch / seconds["peak"]
    rows = []
    for name, (_, _, n) in ways.items():
        rate = n * batch / seconds[name] or float("nan")
        rows.append({"what": name, "ms an image": 1e3 * seconds[name] / batch, "GFLOP/s": rate / 1e9})
        rows[-1]["share of the peak"] = rate / peak
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    table = measure(arguments.batch, arguments.repeats)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()

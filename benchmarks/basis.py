"""Convolutions in a basis: composing the kernel first, against convolving with every atom and mixing the maps.

    python benchmarks/basis.py [--repeats 7] [--batch 64] [--csv times.csv]

Forward and backward at the eight shapes of RFNiN for images of 32 px and order 3: its four layers of 96 channels, with
one scale and with several; the first ones need no gradient of the images. Each turn times both ways, one after the
other, on one thread; a ratio is of one turn, and the median over turns is printed with the smallest and the largest.
Above 1, composing is faster. The last row is a first layer in three dimensions with sigma 4, the kernel composed
against axis after axis (`separable`); there 1 / ratio is what the axes gain.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from spatialkit.models import BasisConv2d, BasisConv3d, rfnin_bases
from spatialkit.theory import gaussian_derivatives


def mixed(layer: BasisConv2d, images: Tensor) -> Tensor:
    """The same output by a convolution with every atom and a 1 x 1 convolution."""
    n, channels = images.shape[:2]
    maps = F.conv2d(images.flatten(0, 1)[:, None], layer.basis[:, None], None, layer.stride, layer.padding)
    maps = maps.unflatten(0, (n, channels)).flatten(1, 2)
    return F.conv2d(maps, layer.coefficients.flatten(1)[:, :, None, None], layer.bias)


def seconds(function: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Wall time of one forward and backward pass."""
    x = images.clone().requires_grad_(images.shape[1] > 3)
    start = time.perf_counter()
    function(x).sum().backward()
    return time.perf_counter() - start


def paired(name: str, other: Callable, ours: Callable, images: Tensor, repeats: int) -> dict:
    """Median times, and the ratio of turns."""
    torch.testing.assert_close(other(images), ours(images), rtol=1e-3, atol=1e-3)  # also warms up
    turns = [(seconds(other, images), seconds(ours, images)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in turns)
    times = [1e3 * statistics.median(column) for column in zip(*turns, strict=True)]
    found = {"other (ms)": times[0], "composed (ms)": times[1], "other / composed": statistics.median(ratios)}
    return {"layer": name} | found | {"smallest": ratios[0], "largest": ratios[-1]}


def measure(repeats: int, batch: int) -> pd.DataFrame:
    """One row per shape."""
    rows = []
    for multi_scale in (False, True):
        channels, side = 3, 32
        for i, basis in enumerate(rfnin_bases(3, multi_scale)):
            layer = BasisConv2d(channels, 96, basis, padding="same")
            layer = layer.to(memory_format=torch.channels_last)
            images = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
            size = "x".join(str(n) for n in basis.shape)
            name = f"{i + 1}{' scales' if multi_scale else ''}: {size}, {channels} -> 96, {side} px"
            rows.append(paired(name, lambda x, layer=layer: mixed(layer, x), layer, images, repeats))
            channels, side = 96, side // 2
    basis = gaussian_derivatives(3, 4.0, 25, dims=3)
    composed, by_axis = (BasisConv3d(1, 16, basis, padding="same", separable=s) for s in (False, True))
    composed.load_state_dict(by_axis.state_dict())
    rows.append(paired("3-d by axes: 20x25x25x25, 1 -> 16, 24 px", by_axis, composed, torch.randn(1, 1, 24, 24, 24), 2))
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="turns")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    table = measure(arguments.repeats, arguments.batch)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()

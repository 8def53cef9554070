"""Mean squares over all two-hop paths of a grid: what `spatialkit.measure.order` divides.

Two ways lead to the same sums: `_path_sums` is plain and serves any device; `_path_sums_on_cpu` passes
less often over memory, which is where the time goes.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NEIGHBOURS", "count_paths", "mean_squares"]

NEIGHBOURS = ("straight", "4", "8")

_SIDES = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # (dy, dx)
_CORNERS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
_PIXELS_IN_CACHE = 400_000  # larger products would start the threads of NumPy's BLAS


def mean_squares(x: Tensor, neighbours: str) -> Tensor:
    """Means of (x[q] - x[p])^2 and of (x[r] - x[p])^2 over all two-hop paths p, q, r of each map.

    Args:
        x: Maps, float32 or float64, shape ``(n, H, W)``.
        neighbours: Which paths there are, as in `spatialkit.measure.order`.

    Returns:
        float64, shape ``(n, 2)``; not finite if squares do not fit the type of ``x``.
    """
    H, W = x.shape[1:]
    paths = count_paths(H, W, neighbours)
    path_sums = _path_sums_on_cpu if x.is_cpu else _path_sums
    n_paths = sum(int(count[:, 0].sum(dtype=np.int64)) for count in paths.values())
    return path_sums(x.flatten(1), W, neighbours, paths) / n_paths


def count_paths(H: int, W: int, neighbours: str) -> dict[int, np.ndarray]:
    """How many two-hop paths compare two pixels, in either direction, as their p and q and as their p and r.

    Pixels are numbered row by row. The dict leads from a ``shift`` to an array of shape ``(H * W, 2)``
    whose row i holds both counts for pixels i and i + shift; they are 0 where i + shift wraps around.
    """
    counts: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros((H * W, 2), np.float32))
    y, x = np.indices((H, W))
    for path in _two_hop_paths(neighbours):
        inside = [(0 <= y + dy) & (y + dy < H) & (0 <= x + dx) & (x + dx < W) for dy, dx in path]
        p = np.flatnonzero(inside[0] & inside[1])
        for end, (dy, dx) in enumerate(path):
            shift = dy * W + dx
            counts[abs(shift)][p + min(shift, 0), end] += 1
    return counts


def _two_hop_paths(neighbours: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """All pairs (q - p, r - p), each a (dy, dx), of the paths p, q, r."""
    steps = _SIDES + _CORNERS if neighbours == "8" else _SIDES
    for q, step in product(steps, repeat=2):
        r = (q[0] + step[0], q[1] + step[1])
        distance = max(map(abs, r))
        if {"straight": step == q, "4": distance > 0, "8": distance == 2}[neighbours]:
            yield q, r


def _path_sums(x: Tensor, W: int, neighbours: str, paths: dict[int, np.ndarray]) -> Tensor:
    """Sums of (x[q] - x[p])^2 and of (x[r] - x[p])^2 over all paths of each map, on any device.

    Args:
        x: Maps, float, shape ``(n, H * W)``: a displacement is a shift along the last axis.
        W, neighbours, paths: As they went into and came out of `count_paths`.

    Returns:
        float64, shape ``(n, 2)``.
    """
    sums = x.new_zeros(len(x), 2, dtype=torch.float64)
    for shift, counts in paths.items():
        squares = F.mse_loss(x[:, shift:], x[:, :-shift], reduction="none")
        sums += squares.double() @ torch.from_numpy(counts[:-shift]).to(sums)
    return sums


def _path_sums_on_cpu(x: Tensor, W: int, neighbours: str, paths: dict[int, np.ndarray]) -> Tensor:
    """`_path_sums`, quicker: each core works on its own maps, on as many at once as its cache holds."""
    dtype, (_, P) = x.numpy().dtype, x.shape
    sum_paths, weights = (_sum_4_paths, _weights_of_4(W, paths)) if neighbours == "4" else (_sum_paths, paths)
    weights = {shift: weight.astype(dtype, copy=False) for shift, weight in weights.items()}
    n = max(1, _PIXELS_IN_CACHE // P)

    def sums_of(maps: np.ndarray) -> np.ndarray:
        buffers = np.zeros((3, n * P), dtype)
        sums = np.empty((len(maps), 2))
        with np.errstate(over="ignore", invalid="ignore"):  # two_hop_means looks at the sums
            for i in range(0, len(maps), n):
                strung = maps[i : i + n].reshape(-1)  # NumPy is quickest along one axis
                sums[i : i + n] = sum_paths(strung, buffers[:, : len(strung)], W, weights)
        return sums

    n_threads = min(4, torch.get_num_threads(), 1 + x.numel() // _PIXELS_IN_CACHE)
    with ThreadPoolExecutor(n_threads) as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(sums_of, np.array_split(x.numpy(), n_threads)))))


def _sum_paths(x: np.ndarray, buffers: np.ndarray, W: int, weights: dict[int, np.ndarray]) -> np.ndarray:
    """`_path_sums` of the maps strung together in ``x``; no path leads from map to map."""
    squares, sums = buffers[0], np.zeros(2)
    for shift, weight in weights.items():
        difference = np.subtract(x[shift:], x[:-shift], out=squares[:-shift])
        np.multiply(difference, difference, out=difference)
        sums = sums + _weigh(squares, weight)
    return sums


def _weights_of_4(W: int, paths: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Both sums with 4-neighbours as sums over squared steps (shifts 1 and W) and Laplacians (entry 0).

    Steps e_i lead from a middle q to its d neighbours, and sum_i e_i is the Laplacian at q. Hence::

        near = sum_q (d - 1) sum_i e_i^2
        far = sum_q sum_ij (e_i - e_j)^2 = sum_q 2 d sum_i e_i^2 - 2 (sum_i e_i)^2
            = 2 near + 2 sum_q sum_i e_i^2 - 2 sum_q Laplacian^2

    Each step to the right or down is also a step back, from the pixel where it ends: 2 becomes 4.
    """
    near = {shift: paths[shift][:, 0] for shift in (1, W)}
    weights = {shift: np.stack([count, 2 * count + 4], 1) for shift, count in near.items()}
    return weights | {0: np.broadcast_to(np.array([0, -2], np.float32), weights[W].shape)}


def _sum_4_paths(x: np.ndarray, buffers: np.ndarray, W: int, weights: dict[int, np.ndarray]) -> np.ndarray:
    """`_sum_paths` for 4-neighbours, from the 3 differences of `_weights_of_4` in place of 6."""
    right, down, laplacian = buffers
    np.subtract(x[1:], x[:-1], out=right[:-1])
    np.subtract(x[W:], x[:-W], out=down[:-W])
    right.reshape(-1, W)[:, -1] = 0  # no step leaves a map
    down.reshape(-1, len(weights[W]))[:, -W:] = 0
    np.add(right, down, out=laplacian)
    laplacian[1:] -= right[:-1]
    laplacian[W:] -= down[:-W]

    sums = np.zeros(2)
    for shift, difference in {1: right, W: down, 0: laplacian}.items():
        np.multiply(difference, difference, out=difference)
        sums = sums + _weigh(difference, weights[shift])
    return sums


def _weigh(squares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Both weighted sums over the P pixels of each map: ``(n * P,), (P, 2) -> (n, 2)``, float64."""
    squares = squares.reshape(-1, len(weights))
    pieces = range(0, len(weights), 1024)  # longer sums would round too much in float32
    products = (np.dot(squares[:, i : i + 1024], weights[i : i + 1024]).astype(np.float64) for i in pieces)
    return sum(products, start=np.zeros(2))

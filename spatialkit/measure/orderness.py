"""Spatial orderness: how far images respect the order of their pixels.

A *two-hop path* takes two steps inside an image, from pixel p to q to r. The source leaves open which
pixels are neighbours, and its choice moves the result by a third or more, so it is an argument:

* ``"straight"``: the same step twice, one pixel up, down, left or right;
* ``"4"``: q is a 4-neighbour of p and r one of q, r not p, so that r lies straight or diagonally off;
* ``"8"``: q is an 8-neighbour of p and r one of q, at Chebyshev distance 2 from p.

Each path counts once; a pair p, r counts once per path that joins it. Any path can be walked backwards,
so that both of its steps have the same mean square, and::

    so = E (x[p] - x[r])^2 / E (x[p] - x[q])^2 - 1 = 1 + 2 E ab / E a^2,    a = x[q] - x[p], b = x[r] - x[q]

Orderness is 1 plus twice the correlation of successive steps: from -1, where the second step undoes the
first, through 1, a random walk, to 3, where it repeats the first. A large ramp reaches 3 on straight
paths only, and 5/3 with 4-neighbours, whose paths turn.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OrdernessMeter", "orderness", "orderness_of_each", "two_hop_means"]

_SIDES = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # (dy, dx)
_CORNERS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
_STEPS = {"straight": _SIDES, "4": _SIDES, "8": _SIDES + _CORNERS}
_Paths = tuple[dict[int, np.ndarray], dict[int, np.ndarray]]

_PIXELS_AT_A_TIME = 2**24  # bounds the memory for converted or averaged images
_PIXELS_IN_CACHE = 2**18


def orderness(images: Tensor | np.ndarray, scale: int = 1, neighbours: str = "4") -> float:
    """Spatial orderness of a set of images at one scale, pooled over images and channels.

    Images are averaged over ``scale x scale`` blocks; all two-hop paths p, q, r then enter::

        so = E (x[p] - x[r])^2 / E (x[p] - x[q])^2 - 1

    Args:
        images: Images, feature maps or kernels, shape ``(N, C, H, W)``, on any device. float64 and
            integers of over 16 bits are computed in float64, all else in float32, where differences
            of 1e-19 and less are lost when squared.
        scale: Side of the averaged block, in pixels. Blocks start at the top left; what is left is cut.
        neighbours: Which paths there are: ``"straight"``, ``"4"`` or ``"8"`` (see the module).

    Returns:
        No unit, from -1 to 3. 1: spatial diffusion; 0: no order, as after a random permutation of
        pixels; nan: all images constant, whose order is undefined.

    Raises:
        ValueError: If ``images`` is empty, complex, not 4-d or not finite, or has under 3 x 3 pixels
            at this scale; if ``scale`` or ``neighbours`` is none of the above.

    References:
        "Investigating CNNs using Spatial Orderness" (BMVC 2019), eq. 6, and its section 3 for scales.
        All paths of all images, each once, where the source samples a fixed number of them.
    """
    far, near = two_hop_means(images, scale, neighbours)
    return float(far.mean() / near.mean() - 1)


def orderness_of_each(images: Tensor | np.ndarray, of: str, scale: int = 1, neighbours: str = "4") -> Tensor:
    """Spatial orderness of each image, of each feature map or of each kernel slice.

    Args:
        images, scale, neighbours: As in `orderness`.
        of: ``"image"`` pools the channels of each image; ``"map"`` the images of each channel (the
            source takes the mean over maps for a layer); ``"slice"`` nothing, as for kernels
            ``(C_out, C_in, kH, kW)``.

    Returns:
        No unit, float64, shape ``(N,)``, ``(C,)`` or ``(N, C)``; nan where constant (see `Tensor.nanmean`).

    Raises:
        ValueError: As `orderness`, or if ``of`` is none of the above.
    """
    if of not in ("image", "map", "slice"):
        raise ValueError(f"of must be one of image, map, slice; got {of!r}")
    far, near = two_hop_means(images, scale, neighbours)
    if of != "slice":
        far, near = (means.mean(1 if of == "image" else 0) for means in (far, near))
    return far / near - 1


@torch.no_grad()
def two_hop_means(images: Tensor | np.ndarray, scale: int = 1, neighbours: str = "4") -> tuple[Tensor, Tensor]:
    """Both expectations of eq. 6 for each image and channel, as a bootstrap over images needs them.

    All images have equally many paths: ``far[chosen].mean() / near[chosen].mean() - 1`` is the
    orderness of the chosen ones.

    Args:
        images, scale, neighbours: As in `orderness`.

    Returns:
        ``far``, the mean of (x[p] - x[r])^2, and ``near``, that of (x[p] - x[q])^2: float64, shape
        ``(N, C)``, in the unit of ``images`` squared.

    Raises:
        ValueError: As `orderness`.
    """
    images = checked(images, scale)
    if neighbours not in _STEPS:
        raise ValueError(f"neighbours must be one of {', '.join(_STEPS)}; got {neighbours!r}")
    maps = images.flatten(0, 1)  # (N * C, H, W)
    dtype = torch.float32 if maps.dtype == torch.float32 or maps.dtype.itemsize <= 2 else torch.float64
    H, W = maps.shape[1] // scale, maps.shape[2] // scale
    paths = _count_paths(H, W, neighbours)
    path_sums = _path_sums_on_cpu if maps.is_cpu else _path_sums

    sums = []
    n_at_a_time = max(1, _PIXELS_AT_A_TIME // maps[0].numel())
    for x in maps.split(len(maps) if maps.dtype == dtype and scale == 1 else n_at_a_time):
        x = x.to(dtype)
        x = F.avg_pool2d(x, scale) if scale > 1 else x
        sums.append(path_sums(x.flatten(1), W, neighbours, paths))
    near, far = torch.cat(sums).T.unflatten(1, images.shape[:2])
    if not (near + far).isfinite().all():
        raise ValueError(
            f"images hold nan or inf, or differences whose squares are too large for {dtype}: "
            "mask or rescale them first"
        )
    n_paths = sum(int(count.sum(dtype=np.int64)) for count in paths[0].values())
    return far / n_paths, near / n_paths


class OrdernessMeter:
    """Spatial orderness of images that come in batches, in memory that does not grow with them.

    Args:
        scale, neighbours: As in `orderness`.
    """

    def __init__(self, scale: int = 1, neighbours: str = "4"):
        self.scale, self.neighbours = scale, neighbours
        self._shape = None  # (C, H, W) of all images
        self._far = self._near = 0.0  # (C,): two-hop means, summed over images

    def update(self, images: Tensor | np.ndarray) -> None:
        """Add images, shape ``(N, C, H, W)``, with C, H and W as in the first batch.

        Raises:
            ValueError: As `orderness`, or if the shape changes between batches.
        """
        far, near = two_hop_means(images, self.scale, self.neighbours)
        shape = tuple(images.shape[1:])
        if self._shape not in (None, shape):
            raise ValueError(f"all batches must be (N, {', '.join(map(str, self._shape))}), got {tuple(images.shape)}")
        self._shape = shape
        self._far, self._near = self._far + far.sum(0), self._near + near.sum(0)

    def per_map(self) -> Tensor:
        """Orderness of each channel over all images so far, float64, shape ``(C,)``; nan where constant."""
        if self._shape is None:
            raise ValueError("no images yet: call update(images) first")
        return self._far / self._near - 1

    def value(self) -> float:
        """Orderness over all channels and images so far: `orderness` of them all."""
        if self._shape is None:
            raise ValueError("no images yet: call update(images) first")
        return float(self._far.sum() / self._near.sum() - 1)


def checked(images: Tensor | np.ndarray, scale: int) -> Tensor:
    """The images as a tensor without gradient, or a ValueError if they are not what `orderness` wants."""
    if not isinstance(scale, int | np.integer) or scale < 1:
        raise ValueError(f"scale must be a whole number of pixels, at least 1; got {scale!r}")
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    if images.ndim != 4 or images.numel() == 0 or images.is_complex():
        raise ValueError(
            "images must be real, of shape (N, C, H, W) with no side 0; "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    H, W = images.shape[-2:]
    if min(H, W) // scale < 3:
        raise ValueError(
            f"{H} x {W} pixels leave {H // scale} x {W // scale} at scale {scale}; need 3 x 3: "
            "take a smaller scale or larger images"
        )
    return images.detach()


def _count_paths(H: int, W: int, neighbours: str) -> _Paths:
    """How many two-hop paths compare two pixels, as their p and q and as their p and r.

    Pixels are numbered row by row. Both dicts lead from a ``shift`` to an array whose element i counts
    the paths between pixels i and i + shift, in either direction; it is 0 where i + shift wraps around.
    """
    y, x = np.indices((H, W))
    near, far = (defaultdict(lambda: np.zeros(H * W, np.float32)) for _ in range(2))
    for q, r in _two_hop_paths(neighbours):
        inside = [(0 <= y + dy) & (y + dy < H) & (0 <= x + dx) & (x + dx < W) for dy, dx in (q, r)]
        p = np.flatnonzero(inside[0] & inside[1])
        for paths, (dy, dx) in ((near, q), (far, r)):
            shift = dy * W + dx
            paths[abs(shift)][p + min(shift, 0)] += 1
    return dict(near), dict(far)


def _two_hop_paths(neighbours: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """All pairs (q - p, r - p), each a (dy, dx), of the paths p, q, r."""
    for q, step in product(_STEPS[neighbours], repeat=2):
        r = (q[0] + step[0], q[1] + step[1])
        distance = max(map(abs, r))
        if {"straight": step == q, "4": distance > 0, "8": distance == 2}[neighbours]:
            yield q, r


def _path_sums(x: Tensor, W: int, neighbours: str, paths: _Paths) -> Tensor:
    """Sums of (x[q] - x[p])^2 and of (x[r] - x[p])^2 over all paths of each map, on any device.

    Args:
        x: Maps, float, shape ``(n, H * W)``: a displacement is a shift along the last axis.
        W, neighbours, paths: As they went into and came out of `_count_paths`.

    Returns:
        float64, shape ``(n, 2)``.
    """
    sums = x.new_zeros(len(x), 2, dtype=torch.float64)
    for end, counts in enumerate(paths):
        for shift, count in counts.items():
            squares = F.mse_loss(x[:, shift:], x[:, :-shift], reduction="none")
            sums[:, end] += squares @ torch.from_numpy(count[:-shift]).to(x)
    return sums


def _path_sums_on_cpu(x: Tensor, W: int, neighbours: str, paths: _Paths) -> Tensor:
    """`_path_sums`, quicker: each core works on its own maps, on as many at once as its cache holds."""
    dtype, (_, P) = x.numpy().dtype, x.shape
    paths = tuple({shift: count.astype(dtype, copy=False) for shift, count in end.items()} for end in paths)
    n = max(1, _PIXELS_IN_CACHE // P)

    def sums_of(maps: np.ndarray) -> np.ndarray:
        sums = np.empty((len(maps), 2))
        buffers = np.zeros((3, n * P), dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # two_hop_means looks at the sums
            for i in range(0, len(maps), n):
                strung = maps[i : i + n].reshape(-1)  # NumPy is quickest along one axis
                work = buffers[:, : len(strung)]
                if neighbours == "4":
                    sums[i : i + n, 0], sums[i : i + n, 1] = _sum_4_paths(strung, work, W, paths[0])
                else:
                    for end, counts in enumerate(paths):
                        sums[i : i + n, end] = _sum_pairs(strung, work[0], counts)
        return sums

    n_threads = min(4, torch.get_num_threads(), 1 + x.numel() // _PIXELS_IN_CACHE)
    with ThreadPoolExecutor(n_threads) as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(sums_of, np.array_split(x.numpy(), n_threads)))))


def _sum_pairs(x: np.ndarray, squares: np.ndarray, counts: dict[int, np.ndarray]) -> np.ndarray:
    """Sum of count[i] (x[i + shift] - x[i])^2 for each of the maps strung together in ``x``."""
    total = 0.0
    for shift, count in counts.items():
        difference = np.subtract(x[shift:], x[:-shift], out=squares[:-shift])
        np.multiply(difference, difference, out=difference)
        total = total + _weigh(squares, count)  # no path leads from map to map: count is 0 there
    return total


def _sum_4_paths(
    x: np.ndarray, buffers: np.ndarray, W: int, near: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Near and far sums with 4-neighbours, from 3 differences in place of 6.

    Steps e_i lead from a middle q to its d neighbours, and sum_i e_i is the Laplacian at q. Hence::

        near = sum_q (d - 1) sum_i e_i^2
        far = sum_q sum_ij (e_i - e_j)^2 = sum_q 2 d sum_i e_i^2 - 2 (sum_i e_i)^2
            = 2 near + 2 sum_q sum_i e_i^2 - 2 sum_q Laplacian^2

    Steps to the right and down are half of all steps.
    """
    right, down, laplacian = buffers
    once = np.ones_like(near[W])
    np.subtract(x[1:], x[:-1], out=right[:-1])
    np.subtract(x[W:], x[:-W], out=down[:-W])
    right.reshape(-1, W)[:, -1] = 0  # no step leaves a map
    down.reshape(-1, len(once))[:, -W:] = 0
    np.add(right, down, out=laplacian)
    laplacian[1:] -= right[:-1]
    laplacian[W:] -= down[:-W]

    np.multiply(buffers, buffers, out=buffers)
    steps = 2 * (_weigh(right, once) + _weigh(down, once))
    near_sum = _weigh(right, near[1]) + _weigh(down, near[W])
    return near_sum, 2 * near_sum + 2 * steps - 2 * _weigh(laplacian, once)


def _weigh(squares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum over the P pixels of each map: ``(n * P,), (P,) -> (n,)``, float64."""
    squares = squares.reshape(-1, len(weights))
    pieces = range(0, len(weights), 1024)  # longer sums would round too much in float32
    return sum(np.dot(squares[:, i : i + 1024], weights[i : i + 1024]).astype(np.float64) for i in pieces)

"""Spatial orderness: how far images respect the order of their pixels.

A *two-hop path* takes two steps inside an image, from pixel p to q to r. The source leaves open
which pixels are neighbours, and the choice moves the result by up to a third, so it is an argument:

* ``"straight"``: the same step twice, one pixel up, down, left or right;
* ``"4"``: q is a 4-neighbour of p and r one of q, r not p, so that r lies straight or diagonally off;
* ``"8"``: q is an 8-neighbour of p and r one of q, at Chebyshev distance 2 from p.

Every path can be walked backwards, so that the mean squares of both steps are equal, and::

    so = E (x[p] - x[r])^2 / E (x[p] - x[q])^2 - 1 = 1 + 2 E ab / E a^2,    a = x[q] - x[p], b = x[r] - x[q]

Orderness is 1 plus twice the correlation of successive steps: from -1, where the second step undoes
the first, through 1, a random walk, to 3, where it repeats the first.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OrdernessMeter", "orderness", "orderness_of_each", "two_hop_means"]

_SIDES = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # (dy, dx)
_CORNERS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
_STEPS = {"straight": _SIDES, "4": _SIDES, "8": _SIDES + _CORNERS}
_PIXELS_AT_A_TIME = 2**20  # what is made of them stays in the cache


def orderness(images: Tensor | np.ndarray, scale: int = 1, neighbours: str = "4") -> float:
    """Spatial orderness of a set of images at one scale, pooled over images and channels.

    Images are averaged over ``scale x scale`` blocks; all two-hop paths p, q, r then enter::

        so = E (x[p] - x[r])^2 / E (x[p] - x[q])^2 - 1

    Args:
        images: Images, feature maps or kernels, shape ``(N, C, H, W)``, on any device. float64 and
            integers of over 16 bits are computed in float64, all else in float32.
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
    pools = {"image": lambda means: means.mean(1), "map": lambda means: means.mean(0), "slice": lambda means: means}
    if of not in pools:
        raise ValueError(f"of must be one of {', '.join(pools)}; got {of!r}")
    far, near = map(pools[of], two_hop_means(images, scale, neighbours))
    return far / near - 1


@torch.no_grad()
def two_hop_means(
    images: Tensor | np.ndarray, scale: int = 1, neighbours: str = "4"
) -> tuple[Tensor, Tensor]:
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
    images = _checked(images, scale, neighbours)
    maps = images.flatten(0, 1)  # (N * C, H, W)
    dtype = torch.float32 if maps.dtype == torch.float32 or maps.dtype.itemsize <= 2 else torch.float64
    H, W = (side // scale for side in maps.shape[1:])
    pairs = _count_paths(H, W, neighbours)
    n_paths = sum(float(paths.sum(dtype=np.float64)) for paths in pairs[0].values())
    pairs = [{shift: torch.as_tensor(paths, dtype=dtype, device=maps.device) for shift, paths in ends.items()} for ends in pairs]

    sums = torch.zeros(2, len(maps), dtype=torch.float64, device=maps.device)
    n_maps = max(1, _PIXELS_AT_A_TIME // maps[0].numel())
    for x, sums_of_x in zip(maps.split(n_maps), sums.split(n_maps, dim=1), strict=True):
        x = x.to(dtype)
        if scale > 1:
            x = F.avg_pool2d(x, scale)
        x = x.flatten(1)  # (n_maps, H * W)
        for total, ends in zip(sums_of_x, pairs, strict=True):
            for shift, paths in ends.items():
                squares = F.mse_loss(x[:, shift:], x[:, :-shift], reduction="none")
                total += _weighted_sums(squares, paths)
    if not sums.isfinite().all():
        raise ValueError(
            f"images hold nan or inf, or differences whose squares are too large for {dtype}: "
            "mask or rescale them first"
        )
    near, far = sums.unflatten(1, images.shape[:2]) / n_paths
    return far, near


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
        far, near = self._sums()
        return far / near - 1

    def value(self) -> float:
        """Orderness over all channels and images so far: `orderness` of them all."""
        far, near = self._sums()
        return float(far.sum() / near.sum() - 1)

    def _sums(self) -> tuple[Tensor, Tensor]:
        if self._shape is None:
            raise ValueError("no images yet: call update(images) first")
        return self._far, self._near


def _checked(images: Tensor | np.ndarray, scale: int, neighbours: str) -> Tensor:
    """The images as a tensor without gradient, if all arguments are as `orderness` wants them."""
    if neighbours not in _STEPS:
        raise ValueError(f"neighbours must be one of {', '.join(_STEPS)}; got {neighbours!r}")
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


def _count_paths(H: int, W: int, neighbours: str) -> list[dict[int, np.ndarray]]:
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
    return [{shift: paths[:-shift] for shift, paths in ends.items()} for ends in (near, far)]


def _two_hop_paths(neighbours: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """All pairs (q - p, r - p), each a (dy, dx), of the paths p, q, r."""
    for q, step in product(_STEPS[neighbours], repeat=2):
        r = (q[0] + step[0], q[1] + step[1])
        distance = max(map(abs, r))
        if {"straight": step == q, "4": distance > 0, "8": distance == 2}[neighbours]:
            yield q, r


def _weighted_sums(squares: Tensor, weights: Tensor) -> Tensor:
    """``squares @ weights``, shape ``(n, P) @ (P,)``; NumPy's BLAS is 2 to 3 times faster at it on AMD."""
    if squares.is_cpu:
        return torch.from_numpy(squares.numpy() @ weights.numpy())
    return squares @ weights

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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spatialkit.measure.two_hop_paths import NEIGHBOURS, mean_squares

__all__ = ["orderness", "orderness_of_each", "two_hop_means"]

_PIXELS_AT_A_TIME = 2**24  # bounds the memory for copies of images


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
    check_neighbours(neighbours)
    maps = images.flatten(0, 1)  # (N * C, H, W)
    dtype = torch.float32 if maps.dtype == torch.float32 or maps.dtype.itemsize <= 2 else torch.float64
    at_once = maps.is_cpu and maps.dtype == dtype and scale == 1  # nothing is copied
    n_maps = len(maps) if at_once else max(1, _PIXELS_AT_A_TIME // maps[0].numel())

    parts = []
    for x in maps.split(n_maps):
        x = x.to(dtype)
        x = F.avg_pool2d(x, scale) if scale > 1 else x
        parts.append(mean_squares(x, neighbours))
    means = torch.cat(parts)  # (N * C, 2)
    if not means.isfinite().all():
        raise ValueError(
            f"images hold nan or inf, or differences whose squares are too large for {dtype}: "
            "mask or rescale them first"
        )
    near, far = means.T.unflatten(1, images.shape[:2])
    return far, near


def check_neighbours(neighbours: str) -> None:
    """Raises ValueError unless there are such paths."""
    if neighbours not in NEIGHBOURS:
        raise ValueError(f"neighbours must be one of {', '.join(NEIGHBOURS)}; got {neighbours!r}")


def check_scale(scale: int) -> None:
    """Raises ValueError unless it is a whole number of pixels."""
    if not isinstance(scale, int | np.integer) or scale < 1:
        raise ValueError(f"scale must be a whole number of pixels, at least 1; got {scale!r}")


def checked(images: Tensor | np.ndarray, scale: int) -> Tensor:
    """The images as a tensor without gradient, or a ValueError if they are not what `orderness` wants."""
    check_scale(scale)
    if not isinstance(images, Tensor | np.ndarray):
        raise ValueError(f"images must be a tensor or an array (N, C, H, W), got {type(images).__name__}")
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

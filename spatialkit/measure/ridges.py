"""Boundary maps of one pixel's width: suppression of what is no ridge, and thinning."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["ridges", "thinned"]

_SMOOTHING = 2.0  # px: sigma of the map whose curvature tells across which direction a ridge runs
_TOLERANCE = 1.01  # a neighbour must be higher by more than this factor to suppress

# The eight neighbours of a pixel, against the clock from the right, as (dy, dx); the k-th is bit k of a code.
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def ridges(boundaries: np.ndarray) -> np.ndarray:
    """A soft boundary map without what is no ridge: non-maximum suppression.

    A value stays if the map, one pixel to either side across the ridge (bilinear), is at most 1.01 times as high; else
    it becomes 0. Across is the direction in which the map, smoothed by a Gaussian of 2 px, curves most either way: that
    holds on crests and on flanks. No value is higher than the largest, so a binary map comes back as it is.

    Args:
        boundaries: ``(H, W)``, float.

    Returns:
        ``(H, W)``, float64.

    References:
        As the structured-edge toolbox that networks are usually evaluated with (P. Dollar and C. L. Zitnick, "Fast
        edge detection using structured forests", 2015), without its smoothing of the map by 1 px and without its
        fading of 5 px at the border of the image, both of which would change a binary map.
    """
    height = np.asarray(boundaries, dtype=np.float64)
    smooth = ndimage.gaussian_filter(height, _SMOOTHING, mode="nearest")
    along_y, along_x = np.gradient(smooth)
    yy, yx = np.gradient(along_y)
    xx = np.gradient(along_x, axis=1)
    upward = np.arctan2(2 * yx, xx - yy) / 2  # direction of the larger second derivative
    across = np.where(xx + yy > 0, upward, upward + np.pi / 2)
    step = np.stack([np.sin(across), np.cos(across)])  # (dy, dx)
    places = np.indices(height.shape)
    beside = [ndimage.map_coordinates(height, places + side * step, order=1, mode="nearest") for side in (1, -1)]
    return np.where(height * _TOLERANCE >= np.maximum(*beside), height, 0.0)


def thinned(boundaries: np.ndarray) -> np.ndarray:
    """A binary map brought to one pixel's width, with its connected parts and holes kept.

    Args:
        boundaries: ``(H, W)``, bool.

    Returns:
        ``(H, W)``, bool.

    References:
        Z. Guo and R. W. Hall, "Parallel thinning with two-subiteration algorithms", CACM 32 (1989), the first of
        their algorithms, until nothing changes: the thinning of the boundary benchmark (``bwmorph(., 'thin', inf)``).
    """
    padded = np.pad(np.asarray(boundaries, dtype=bool), 1).view(np.uint8)
    stride = padded.shape[1]
    flat = padded.reshape(-1)
    offsets = np.array([dy * stride + dx for dy, dx in _NEIGHBOURS])
    places, before = np.flatnonzero(flat), -1
    while len(places) != before:
        before = len(places)
        for deletable in _DELETABLE:
            gone = deletable[flat[places[:, None] + offsets] @ _BITS]  # all judged before any is deleted
            flat[places[gone]] = 0
            places = places[~gone]
    return padded[1:-1, 1:-1].astype(bool)


_BITS = (1 << np.arange(8)).astype(np.int64)


def _deletable() -> tuple[np.ndarray, np.ndarray]:
    """Whether a pixel goes in the first and in the second subiteration, for each code of its neighbours."""
    east, north_east, north, north_west, west, south_west, south, south_east = np.arange(256) & _BITS[:, None] > 0
    ring = [east, north_east, north, north_west, west, south_west, south, south_east, east]
    crossings = sum((~ring[k] & (ring[k + 1] | ring[(k + 2) % 8])).astype(int) for k in (0, 2, 4, 6))
    odd = sum((ring[k] | ring[k + 1]).astype(int) for k in (0, 2, 4, 6))
    even = sum((ring[k + 1] | ring[k + 2]).astype(int) for k in (0, 2, 4, 6))
    count = np.minimum(odd, even)
    border = (crossings == 1) & (count >= 2) & (count <= 3)
    first = border & ~((north_east | north | ~south_east) & east)
    second = border & ~((south_west | south | ~north_west) & west)
    return first, second


_DELETABLE = _deletable()

"""How much of a filter is invariant under a linear map: what is left after averaging over the map's powers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spatialkit.theory.plane import GaussianSum

__all__ = ["left_after_averaging"]

_AT_A_TIME = 2**13


def left_after_averaging(filter: GaussianSum, matrix: Tensor, doublings: int) -> Tensor:
    """Norm of the averages of a filter over 1, 2, 4, ... powers of a map, relative to the filter's own.

    With (U f)(z) = |det T|^(1/2) f(T z), which keeps the L2 norm, the average over m powers is::

        A_m = (1 + U + ... + U^(m - 1)) / m,    A_2m = (1 + U^m) / 2  A_m

    By von Neumann's ergodic theorem A_m f tends to the projection of f onto the filters with U f = f. Its norm needs
    no more than the correlations c(k) = <U^k f, f> / <f, f>, all of them exact::

        ||A_m f||^2 / ||f||^2 = sum_(|k| < m) (m - |k|) c(k) / m^2

    Args:
        filter: One function, without leading axes.
        matrix: T, invertible, ``(2, 2)``.
        doublings: Of the number of powers; 20 makes a million.

    Returns:
        No unit, shape ``(doublings + 1,)``, float64, from 1 (m = 1) on.

    Raises:
        ValueError: If the filter has leading axes, or ``doublings`` is negative.
    """
    if filter.shape or doublings < 0:
        raise ValueError(f"need one filter and doublings of at least 0, got {tuple(filter.shape)} and {doublings}")
    back = _powers(torch.linalg.inv(matrix.double()), 2**doublings)
    volume = torch.linalg.det(matrix.double()).abs()
    c = torch.cat(
        [
            _correlations(filter, some, volume ** torch.arange(i * _AT_A_TIME, i * _AT_A_TIME + len(some)))
            for i, some in enumerate(back.split(_AT_A_TIME))
        ]
    )
    c = c / c[0].clone()
    k = torch.arange(len(c), dtype=torch.float64)
    squares = []
    for m in (2**j for j in range(doublings + 1)):
        squares.append((2 * ((m - k[1:m]) * c[1:m]).sum() + m * c[0]) / m**2)
    return torch.stack(squares).clamp(min=0).sqrt()


def _correlations(filter: GaussianSum, back: Tensor, volume: Tensor) -> Tensor:
    """<U^k f, f> given T^-k ``(n, 2, 2)`` and |det T|^k ``(n,)``; 0 where T^k stretches by over 10^7."""
    moved = filter.transformed(back)  # leading axis (n,)
    S = moved.covariance[:, :, None] + filter.covariance  # (n, K, K, 2, 2)
    away = moved.mean[:, :, None] - filter.mean
    x, y = away.unbind(-1)
    xx, xy, yy = S[..., 0, 0], S[..., 0, 1], S[..., 1, 1]
    det = xx * yy - xy * xy
    overlap = torch.exp(-0.5 * (yy * x * x - 2 * xy * x * y + xx * y * y) / det) / det.sqrt()
    mass = filter.amplitude * torch.linalg.det(filter.covariance).sqrt()
    c = 2 * math.pi * volume**-0.5 * torch.einsum("i,j,nij->n", mass, mass, overlap)
    size = back.abs().amax(dim=(-2, -1))
    return c.where((size < 1e7) & (size * volume < 1e7), 0).nan_to_num(0)


def _powers(matrix: Tensor, n: int) -> Tensor:
    """T^0, ..., T^(n - 1), shape ``(n, 2, 2)``."""
    powers, step = torch.eye(2, dtype=torch.float64)[None], matrix
    while len(powers) < n:
        powers, step = torch.cat([powers, powers @ step]), step @ step
    return powers[:n]

"""Derivatives of a Gaussian on a window of pixels: the filters that dynamic blocks steer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gaussian_atoms"]


def gaussian_atoms(orders: Sequence[tuple[int, int]], sigma: float, size: int) -> Tensor:
    """sigma^m d^m G for chosen orders (dx, dy), m = dx + dy, x to the right and y down, G of sum 1 on the window.

    Args:
        orders: Numbers of derivatives of every atom.
        sigma: Width, px.
        size: Side of the window, px, odd.

    Returns:
        Shape ``(K, size, size)``, float64.
    """
    t = (torch.arange(size, dtype=torch.float64) - size // 2) / sigma
    g = torch.exp(-t.square() / 2)
    polynomials = [torch.ones_like(t), t]
    for m in range(1, max(max(order) for order in orders)):
        polynomials.append(t * polynomials[m] - m * polynomials[m - 1])  # He_(m+1) = t He_m - m He_(m-1)
    profiles = [(-1.0) ** m * p * g / g.sum() for m, p in enumerate(polynomials)]
    return torch.stack([torch.outer(profiles[dy], profiles[dx]) for dx, dy in orders])

"""Gaussian derivatives on a window of pixels, through Hermite polynomials: the atoms of structured receptive fields.

Convention: an atom is a function of u = (x, y), in px from the centre of the middle pixel, x along the last axis (to
the right) and y along the one before (down); with three dimensions z comes before y. ``order=(dx, dy)`` counts the
derivatives along x and y. Torch's convolutions correlate: an atom of total order m then answers with
(-1)^m sigma^m times the derivative of the smoothed image.
"""

import math
from collections.abc import Sequence
from functools import reduce
from itertools import product

import torch
from torch import Tensor

__all__ = [
    "RELEASED_ORDERS",
    "derivative_orders",
    "gaussian_atoms",
    "gaussian_derivatives",
    "gaussian_scales",
    "hermite",
]

RELEASED_ORDERS = (  # (dx, dy) as the authors' code (jhjacobsen/RFNN) counts the atoms
    *((0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (3, 0), (0, 3), (2, 1), (1, 2)),
    *((4, 0), (0, 4), (3, 1), (1, 3), (2, 2)),
)
_SMALLEST_SIGMA = 1e-3  # px; far below, the polynomials overflow where the Gaussian is 0


def hermite(order: int, t: Tensor) -> Tensor:
    """Hermite polynomials He_0(t) to He_order(t), stacked in front: He_(m + 1) = t He_m - m He_(m - 1)."""
    rows = [torch.ones_like(t), t]
    for m in range(1, order):
        rows.append(t * rows[m] - m * rows[m - 1])
    return torch.stack(rows[: order + 1])


def derivative_orders(order: int, dims: int = 2) -> list[tuple[int, ...]]:
    """All (dx, dy) up to a total order: by total order, and then x first: 1; x, y; xx, xy, yy; ...

    There are 1, 3, 6, 10, 15 in two dimensions and 1, 4, 10, 20, 35 in three.

    Raises:
        ValueError: If ``order`` is negative, or ``dims`` is not 1, 2 or 3.
    """
    if order < 0 or dims not in (1, 2, 3):
        raise ValueError(f"order must be at least 0 and dims 1, 2 or 3; got {order} and {dims}")
    every = (o for o in product(range(order + 1), repeat=dims) if sum(o) <= order)
    return sorted(every, key=lambda o: (sum(o), [-m for m in o]))


def gaussian_atoms(orders: Sequence[Sequence[int]], sigma: float, size: int) -> Tensor:
    """Chosen derivatives of a Gaussian, sampled at the pixels of a window::

        atom(u) = prod_a (-1)^m_a He_(m_a)(u_a / sigma) g(u_a),   g(v) = exp(-v^2 / 2 sigma^2) / sum over the window

    That is sigma^m d^m G with the derivatives of the continuous Gaussian, and with G of sum 1 on the window.

    Args:
        orders: (dx,), (dx, dy) or (dx, dy, dz) of every atom.
        sigma: Width of the Gaussian, px; 0.001 or more. Below 0.5 px, and where a window ends before 3 sigma, the
            samples are no good picture of the function: the derivatives then have a mean of their own.
        size: Side of the window, px, odd.

    Returns:
        Shape ``(K, size, ..., size)``, float64.

    Raises:
        ValueError: If there is no order, one is negative, their dimensions differ, sigma is too small or not finite, or
            the size is even.

    References:
        Jacobsen's thesis, eq. 20, with the factor (-1 / (sigma sqrt 2))^m that the derivative has (docs/errata.md).
    """
    dims = {len(o) for o in orders}
    if len(dims) != 1 or not dims <= {1, 2, 3} or min(m for o in orders for m in o) < 0:
        raise ValueError(f"orders must be tuples of 1, 2 or 3 counts, all of one length; got {list(orders)}")
    if not _SMALLEST_SIGMA <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and at least {_SMALLEST_SIGMA} px, got {sigma}")
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size must be odd, so that a pixel is in the middle; got {size}")
    t = (torch.arange(size, dtype=torch.float64) - size // 2) / sigma
    g = torch.exp(-t.square() / 2)
    highest = max(m for o in orders for m in o)
    sign = (-1.0) ** torch.arange(highest + 1, dtype=torch.float64)
    profiles = sign[:, None] * hermite(highest, t) * (g / g.sum())  # (order + 1, size)
    outer = lambda inner, m: torch.tensordot(profiles[m], inner, 0)  # noqa: E731 - y in front of x, z in front of y
    return torch.stack([reduce(outer, o[1:], profiles[o[0]]) for o in orders])


def gaussian_derivatives(order: int, sigma: float, size: int, dims: int = 2, *, unit_norm: bool = False) -> Tensor:
    """All derivatives of a Gaussian up to a total order, times sigma^m, on a window of pixels.

    Atoms are in the order of `derivative_orders`; signs, axes and errors are those of `gaussian_atoms`. As released,
    the windows are 11 px for sigma 1.5 and 7 px for sigma 1.

    Args:
        order: Highest total order m; the source goes up to 4.
        sigma: Width, px.
        size: Side of the window, px, odd.
        dims: 1, 2 or 3.
        unit_norm: Whether to divide every atom by its L2 norm; by default the smoothing kernel, of order 0, has sum 1,
            and the others are its derivatives times sigma^m.

    Returns:
        Shape ``(K, size, ..., size)``, float64; K is 3, 6, 10, 15 for orders 1 to 4 in two dimensions.

    Raises:
        ValueError: As `gaussian_atoms` and `derivative_orders`; also if an atom to be divided by its norm is 0.
    """
    atoms = gaussian_atoms(derivative_orders(order, dims), sigma, size)
    if not unit_norm:
        return atoms
    norm = atoms.flatten(1).norm(dim=1).view(-1, *[1] * dims)
    if not (norm > 0).all():
        raise ValueError(f"an atom is 0 on a window of {size} px at sigma {sigma}; take a larger size")
    return atoms / norm


def gaussian_scales(order: int, sigmas: Sequence[float], size: int, dims: int = 2) -> Tensor:
    """Derivatives at several scales; the smoothing kernel itself is kept at the first scale alone.

    Returns:
        Shape ``(b + (b - 1) (n - 1), size, ..., size)`` for n scales and b derivatives up to the order, float64.

    Raises:
        ValueError: As `gaussian_derivatives`; also without any scale.

    References:
        Jacobsen's thesis, section 3.4.1; that coarser scales go without the smoothing kernel is read off the counts of
        filters in its Table 1 (24, 54, 94, 144).
    """
    if not sigmas:
        raise ValueError("need at least one scale")
    first, *others = (gaussian_derivatives(order, sigma, size, dims) for sigma in sigmas)
    return torch.cat([first, *(atoms[1:] for atoms in others)])

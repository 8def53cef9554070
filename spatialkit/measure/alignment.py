"""Whether a transformation of feature maps undoes one of the images: the residual, and the best that any map can do.

With L the network, f an image, T_h what is done to it and T_g what is done to the feature map::

    r(T_g) = ||T_g L T_h f - L f|| / ||L f||,    (T F)(x) = F(T^-1 x)

both norms over all images, channels and pixels of the central disc. x = (x, y) in px from the centre, y down. 0: T_g
undoes T_h. 1 is also reached by a map that sends all features to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import Tensor

from spatialkit.deform.affine import from_polar, to_polar

__all__ = ["Alignment", "alignment_residual", "best_alignment"]

_VALUES_AT_A_TIME = 2**24


def alignment_residual(moved: Tensor, still: Tensor, maps: Tensor, *, radius: float = 0.7, every: int = 1) -> Tensor:
    """r(T_g) for one or many maps of the features, by bilinear interpolation.

    Three lines measure any network that puts out feature maps::

        turn = rotation(30)
        moved, still = network(linear_transform(images, turn)), network(images)
        alignment_residual(moved, still, rotation(-30))

    Beyond its border a feature map goes on with the border value.

    Args:
        moved: L T_h f, shape ``(N, C, H, W)``.
        still: L f, of the same shape.
        maps: T_g, ``(2, 2)`` or ``(K, 2, 2)``.
        radius: Of the central disc over which the two are compared, in units of half the shorter side.
        every: Take each ``every``-th row and column of the disc only, for a quick look.

    Returns:
        No unit, shape ``()`` or ``(K,)``, float64. A network that puts out the same constant for all images has 0,
        unless that constant is 0: nan where both are 0 all over, infinite where only ``still`` is.

    Raises:
        ValueError: If shapes do not fit, or the disc is empty.
    """
    if moved.ndim != 4 or moved.shape != still.shape:
        raise ValueError(f"both must be (N, C, H, W), got {tuple(moved.shape)} and {tuple(still.shape)}")
    if maps.shape[-2:] != (2, 2) or maps.ndim > 3:
        raise ValueError(f"maps must be (2, 2) or (K, 2, 2), got {tuple(maps.shape)}")
    H, W = still.shape[-2:]
    points, rows, columns = _disc(H, W, radius, every)
    target = still[..., rows, columns].flatten(0, 1)  # (N C, P)
    back = torch.linalg.inv(maps.to(points)).reshape(-1, 2, 2)
    half = torch.tensor([(W - 1) / 2, (H - 1) / 2], dtype=torch.float64)
    squares = []
    for some in back.split(max(1, _VALUES_AT_A_TIME // target.numel())):
        places = (points @ some.mT / half).to(still)[None]  # (1, K, P, 2), from -1 to 1 between border pixels
        sampled = F.grid_sample(moved.flatten(0, 1)[None], places, padding_mode="border", align_corners=True)[0]
        squares.append((sampled - target[:, None]).double().square().sum(dim=(0, 2)))
    residual = (torch.cat(squares) / target.double().square().sum()).sqrt()
    return residual.reshape(maps.shape[:-2])


@dataclass(frozen=True)
class Alignment:
    """The best map that a search found.

    Attributes:
        matrix: T_g, ``(2, 2)``.
        residual: r(T_g), over the whole disc.
        on_grid: Coordinates of the best map of the grid, ``(4,)`` as in `spatialkit.deform.from_polar`.
        mirrored: Whether that one has a negative determinant.
        steps: Distance of neighbours in the grid along each coordinate, ``(4,)``.
    """

    matrix: Tensor
    residual: float
    on_grid: Tensor
    mirrored: bool
    steps: Tensor

    def steps_from(self, matrix: Tensor) -> float:
        """Largest distance, over the coordinates, of the best map of the grid from another map, in steps of the grid.

        Infinite if one is mirrored and the other is not.
        """
        other, mirrored = to_polar(matrix)
        if mirrored != self.mirrored:
            return float("inf")
        away = (self.on_grid - other).abs()
        away[0] = torch.minimum(away[0] % 360, 360 - away[0] % 360)
        return float((away / self.steps).max())


def best_alignment(
    moved: Tensor,
    still: Tensor,
    *,
    angles: Sequence[float] = tuple(range(-180, 180, 15)),
    stretches: Sequence[float] = tuple(np.linspace(-0.6, 0.6, 9)),
    mirrored: bool = True,
    radius: float = 0.7,
    every: int = 4,
    starts: Sequence[Tensor] = (),
) -> Alignment:
    """The T_g with the smallest residual among all linear maps: a grid over all of them, then a local search.

    The grid is the product of ``angles`` and, for each of p, q and r of `spatialkit.deform.from_polar`, ``stretches``,
    with and without a reflection. Nelder and Mead's method goes on from the best of them, over the whole disc.

    Args:
        moved, still, radius: As for `alignment_residual`.
        angles: In degrees, evenly spaced.
        stretches: Logarithms of factors, evenly spaced.
        mirrored: Whether to try reflections, too.
        every: The grid sees each ``every``-th row and column of the disc.
        starts: Further maps from which to search locally, such as the inverse of T_h.

    Raises:
        ValueError: As `alignment_residual`; with fewer than two angles or stretches; or if ``still`` is 0 all over.
    """
    if len(angles) < 2 or len(stretches) < 2:
        raise ValueError("a grid needs at least two angles and two stretches")
    if not still.any():
        raise ValueError("the features are 0 all over: nothing to align; is the network dead?")
    grid = torch.tensor(list(product(angles, stretches, stretches, stretches)), dtype=torch.float64)
    found = []
    for flipped in (False, True)[: 1 + mirrored]:
        values = alignment_residual(moved, still, from_polar(grid, flipped), radius=radius, every=every)
        found.append((float(values.min()), flipped, grid[values.argmin()]))
    _, flipped, best = min(found, key=lambda each: each[0])
    steps = torch.tensor([angles[1] - angles[0]] + [stretches[1] - stretches[0]] * 3, dtype=torch.float64)
    tried = [(best, flipped), *map(to_polar, starts)]
    ends = [_refined(moved, still, start, side, steps, radius) for start, side in tried]
    residual, matrix = min(ends, key=lambda end: end[0])
    return Alignment(matrix, residual, best, flipped, steps)


def _refined(moved, still, start: Tensor, flipped: bool, steps: Tensor, radius: float) -> tuple[float, Tensor]:
    """Residual and map at the end of a local search over the four coordinates."""

    def residual(at):
        return float(alignment_residual(moved, still, from_polar(at, flipped), radius=radius))

    simplex = np.vstack([start, *(start + 0.5 * torch.diag(steps))])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-6, "maxfev": 400}
    end = optimize.minimize(residual, start.numpy(), method="Nelder-Mead", options=options)
    return float(end.fun), from_polar(torch.from_numpy(end.x), flipped)


def _disc(H: int, W: int, radius: float, every: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the disc in px from the centre ``(P, 2)``, and their rows and columns."""
    y, x = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in (H, W))
    inside = y[:, None] ** 2 + x**2 <= (radius * min(H, W) / 2) ** 2
    taken = torch.zeros_like(inside)
    taken[every // 2 :: every, every // 2 :: every] = True
    rows, columns = (inside & taken).nonzero(as_tuple=True)
    if not len(rows):
        raise ValueError(f"no pixel of {H} x {W} lies in the disc of radius {radius} at every {every}: enlarge it")
    return torch.stack([x[columns], y[rows]], -1), rows, columns

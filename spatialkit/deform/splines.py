"""Random displacement fields from a few control points, by thin-plate splines.

Control points stand on a regular grid that includes the border of the image; each gets a shift, and the thin-plate
spline through all of them moves the pixels between. A displacement is then::

    d(u) = sum_k w_k phi(|u - p_k|) + a + b . u,    phi(r) = r^2 log r,    sum_k w_k = 0,    sum_k w_k p_k = 0

with the w, a and b for which d(p_k) is the shift of control point k. They are linear in the shifts: one matrix of
pixels by control points, solved in float64, serves every field.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spatialkit.deform import draws

__all__ = ["ThinPlateSpline"]


@dataclass(frozen=True)
class ThinPlateSpline:
    """A distribution of displacement fields: splines through uniformly shifted control points.

    Fields are to be used as warped[u] = images[u + field[u]], u = (x, y) in px, origin at the centre of the
    top-left pixel; at the border they may point outside the image.

    Args:
        grid: Control points per side; they stand at ``linspace(0, size - 1, grid)`` px on each axis.
        max_shift: Largest shift of a control point along each axis, in px: shifts are uniform and independent,
            from ``-max_shift`` to ``max_shift``.

    Raises:
        ValueError: If ``grid`` is no whole number from 2, or ``max_shift`` negative or not finite.

    References:
        "Learned Deformation Stability in Convolutional Neural Networks" (2018), section 2.1: 3 x 3 points and 2 px
        for CIFAR-10, 5 x 5 and 10 px for ImageNet. Its text draws a destination for each control point, its figure
        2 a source (here: a source, at point + shift), and neither says whether points stand on the border (here:
        they do).
    """

    grid: int
    max_shift: float

    def __post_init__(self):
        draws.whole_number("grid", self.grid, least=2)
        if not 0 <= self.max_shift < math.inf:
            raise ValueError(f"max_shift must be 0 or more and finite, in px; got {self.max_shift}")

    def sample(
        self, n: int, size: int, seed: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw ``n`` fields. A seed gives the same ones on every device, and the same first ones for any ``n``.

        Args:
            n: Number of fields.
            size: Side of the square images, in px, at least 2.
            seed: Of the draws, 0 or more.
            device: Where the fields are computed and stay.
            dtype: float32 or float64.

        Returns:
            Shape ``(n, 2, size, size)``, in px: dx, dy.

        Raises:
            ValueError: If an argument is none of the above.
        """
        drawn = self.max_shift * draws.uniforms(n, (2, self.grid, self.grid), seed)
        return self.field(drawn.to(device, dtype), size)

    def field(self, shifts: Tensor, size: int) -> Tensor:
        """The fields through given shifts; differentiable in them.

        Args:
            shifts: Shape ``(N, 2, grid, grid)``, in px, float32 or float64: dx and dy of the control points, in
                rows from the top and columns from the left. They may exceed ``max_shift``.
            size: Side of the square images, in px, at least 2.

        Returns:
            Shape ``(N, 2, size, size)``, in px: dx, dy; dtype and device of ``shifts``.

        Raises:
            ValueError: If ``shifts`` has another shape or type or no field, or ``size`` is under 2.
        """
        m = self.grid
        if shifts.ndim != 4 or shifts.shape[1:] != (2, m, m) or len(shifts) == 0:
            raise ValueError(f"shifts must be (N, 2, {m}, {m}) with N at least 1, got {tuple(shifts.shape)}")
        if shifts.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"shifts must be float32 or float64, got {shifts.dtype}")
        n = draws.whole_number("size", size, least=2)

        s = draws.precise(shifts)
        with torch.autocast(s.device.type, enabled=False):
            field = s.reshape(-1, m * m) @ _pull(m, n, s.dtype, s.device)  # (N * 2, n * n)
        return field.view(-1, 2, n, n).to(shifts.dtype)

    def rms(self, size: int) -> float:
        """Root-mean-square length of the displacement over pixels and draws, in px: exact.

        Shifts are independent with variance max_shift^2 / 3, so that the mean square at a pixel is twice that (dx
        and dy) times the sum of its squared row of the matrix.

        Raises:
            ValueError: If ``size`` is under 2.
        """
        pull = _pull(self.grid, draws.whole_number("size", size, least=2), torch.float64, torch.device("cpu"))
        return self.max_shift * math.sqrt(2 / 3 * float((pull**2).sum(0).mean()))


@functools.lru_cache(maxsize=8)  # 10 MB for 5 x 5 points and 224 px in float64
@torch.inference_mode(False)  # what is kept must serve where gradients are wanted, too
def _pull(grid: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How far each control point pulls each pixel: ``(grid^2, size^2)``, displacement per shift, from float64."""
    return _spline(grid, _lattice(size)).T.contiguous().to(device, dtype)


def _spline(grid: int, places: Tensor) -> Tensor:
    """Displacement at ``places`` per shift of each control point, ``(P, grid^2)``.

    Args:
        grid: Control points per side, on the square from 0 to 1 (of which the image is a magnification: this
            changes the affine part of phi's sum only, and the spline not at all).
        places: Points (x, y) in the same unit, float64, shape ``(P, 2)``.
    """
    points = _lattice(grid)  # (K, 2)
    K = len(points)
    system = points.new_zeros(K + 3, K + 3)
    system[:K] = _terms(points, points)
    system[K:, :K] = system[:K, K:].T  # the side conditions on w
    shifts = torch.eye(K + 3, K, dtype=torch.float64, device="cpu")  # one at a time
    return _terms(places, points) @ torch.linalg.solve(system, shifts)


def _terms(places: Tensor, points: Tensor) -> Tensor:
    """phi of the distance to each point, then 1, x, y: ``(P, K + 3)``."""
    squares = (places[:, None] - points).square().sum(-1)
    phi = torch.special.xlogy(squares, squares) / 2  # r^2 log r, 0 at r = 0
    return torch.cat([phi, torch.ones_like(places[:, :1]), places], 1)


def _lattice(side: int) -> Tensor:
    """``side x side`` points (x, y) on the unit square with its border, row after row: ``(side^2, 2)``, float64."""
    ticks = torch.linspace(0, 1, side, dtype=torch.float64, device="cpu")
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).view(-1, 2)

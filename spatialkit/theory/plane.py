"""Images and filters as functions on the whole plane: sums of Gaussians, for which everything linear is exact.

A pixel image is such a function seen at the centres of its pixels. Points are (x, y), x to the right and y down, from
the centre of the image, in a unit of length that the caller chooses; a pixel is ``pixel`` of it wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GaussianSum", "plane_points", "random_blobs", "random_filter"]

_VALUES_AT_A_TIME = 2**21


def plane_points(size: int, pixel: float) -> Tensor:
    """Centres of ``size x size`` pixels around the origin, row by row, shape ``(size * size, 2)``: x, y; float64."""
    along = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * pixel
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


@dataclass(frozen=True)
class GaussianSum:
    """Functions on the plane that are sums of K Gaussians::

        f(x) = sum_k a_k exp(-(x - m_k)' S_k^-1 (x - m_k) / 2)

    All three tensors may have leading axes, which broadcast: one function per image, or per pair of channels.

    Args:
        amplitude: a, shape ``(..., K)``, the unit of the image.
        mean: m, shape ``(..., K, 2)``: x, y.
        covariance: S, shape ``(..., K, 2, 2)``.

    Raises:
        ValueError: If the shapes do not fit.
    """

    amplitude: Tensor
    mean: Tensor
    covariance: Tensor

    def __post_init__(self):
        a, m, s = self.amplitude.shape, self.mean.shape, self.covariance.shape
        if not a or m[-1:] != (2,) or s[-2:] != (2, 2) or not a[-1] == m[-2:-1][0] == s[-3:-2][0]:
            raise ValueError(f"need (..., K), (..., K, 2) and (..., K, 2, 2); got {tuple(a)}, {tuple(m)}, {tuple(s)}")

    @property
    def shape(self) -> torch.Size:
        """The leading axes: how many functions."""
        return torch.broadcast_shapes(self.amplitude.shape[:-1], self.mean.shape[:-2], self.covariance.shape[:-3])

    def at(self, points: Tensor) -> Tensor:
        """Values at points ``(P, 2)``; shape ``(..., P)``."""
        leading = torch.broadcast_shapes(self.mean.shape[:-2], self.covariance.shape[:-3])
        inverse = torch.linalg.inv(self.covariance)
        at_once = max(1, _VALUES_AT_A_TIME // (math.prod(leading) * self.amplitude.shape[-1]))
        return torch.cat([self._values(part, inverse) for part in points.split(at_once)], -1)

    def pixels(self, size: int, pixel: float) -> Tensor:
        """Values at the centres of ``size x size`` pixels around the origin; shape ``(..., size, size)``."""
        return self.at(plane_points(size, pixel).to(self.amplitude)).unflatten(-1, (size, size))

    def transformed(self, matrix: Tensor) -> GaussianSum:
        """(T f)(x) = f(T^-1 x), exactly, for linear T ``(2, 2)``, or several, ``(n, 2, 2)``, as new leading axis."""
        T = matrix.to(self.mean)[..., None, :, :]
        return GaussianSum(self.amplitude, (self.mean[..., None, :] @ T.mT)[..., 0, :], T @ self.covariance @ T.mT)

    def times(self, factor: float) -> GaussianSum:
        """The function times a number."""
        return GaussianSum(factor * self.amplitude, self.mean, self.covariance)

    def convolved(self, kernel: GaussianSum) -> GaussianSum:
        """(f * g)(x) = integral f(x - y) g(y) dy, exactly; the leading axes of both broadcast."""
        a, m, S = self._outer(kernel)
        mass = _root_det(self.covariance)[..., :, None] * _root_det(kernel.covariance)[..., None, :]
        return GaussianSum((2 * math.pi * a * mass / _root_det(S)).flatten(-2), m.flatten(-3, -2), S.flatten(-4, -3))

    def inner(self, other: GaussianSum) -> Tensor:
        """Integral of f g over the plane, exactly: (f * g reflected)(0)."""
        reflected = GaussianSum(other.amplitude, -other.mean, other.covariance)
        return self.convolved(reflected).at(torch.zeros(1, 2).to(self.mean))[..., 0]

    def norm(self) -> Tensor:
        """Square root of the integral of f^2 over the plane, exactly."""
        return self.inner(self).clamp(min=0).sqrt()

    def plus(self, *others: GaussianSum) -> GaussianSum:
        """The sum with other functions; leading axes must agree."""
        parts = (self, *others)
        shapes = {(p.amplitude.shape[:-1], p.mean.shape[:-2], p.covariance.shape[:-3]) for p in parts}
        if len(shapes) > 1:
            raise ValueError(f"functions to be added must have the same leading axes, got {sorted(shapes)}")
        return GaussianSum(
            torch.cat([p.amplitude for p in parts], -1),
            torch.cat([p.mean for p in parts], -2),
            torch.cat([p.covariance for p in parts], -3),
        )

    def averaged(self, maps: Sequence[Tensor]) -> GaussianSum:
        """Mean of f(T^-1 x) over some maps T; over a finite group of maps, this makes f invariant to all of them.

        Raises:
            ValueError: Without any map.
        """
        if not len(maps):
            raise ValueError("an average needs at least one map")
        first, *others = (self.transformed(T).times(1 / len(maps)) for T in maps)
        return first.plus(*others)

    def _values(self, points: Tensor, inverse: Tensor) -> Tensor:
        away = points[:, None] - self.mean[..., None, :, :]  # (..., P, K, 2)
        x, y = away.unbind(-1)
        xx, xy, yy = (inverse[..., None, :, i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
        basis = torch.exp(-0.5 * (xx * x * x + 2 * xy * x * y + yy * y * y))  # (..., P, K)
        return (basis @ self.amplitude[..., None])[..., 0] if basis.ndim > 2 else self.amplitude @ basis.T

    def _outer(self, other: GaussianSum) -> tuple[Tensor, Tensor, Tensor]:
        """Products of amplitudes, sums of means and covariances of all pairs: (..., K, K', ...)."""
        a = self.amplitude[..., :, None] * other.amplitude[..., None, :]
        m = self.mean[..., :, None, :] + other.mean[..., None, :, :]
        return a, m, self.covariance[..., :, None, :, :] + other.covariance[..., None, :, :, :]


def random_blobs(
    n: int, seed: int, *, blobs: int = 24, reach: float = 0.5, widths: tuple[float, float] = (0.05, 0.12)
) -> GaussianSum:
    """Random images: each a sum of elongated Gaussian blobs, dark and bright, spread over a disc.

    Args:
        n: How many.
        seed: Of all random numbers.
        blobs: Gaussians per image; their amplitudes are N(0, 1).
        reach: Radius of the disc that the centres fill evenly, in the plane's unit.
        widths: Smallest and largest standard deviation of a blob along its two axes, in the same unit.

    Returns:
        A `GaussianSum` of leading axis ``(n,)``, float64.

    Raises:
        ValueError: If a number is not positive or the widths are not in order.
    """
    _check(n=n, blobs=blobs, reach=reach, smallest_width=widths[0], width_difference=widths[1] - widths[0])
    generator = torch.Generator().manual_seed(seed)
    amplitude = torch.randn(n, blobs, generator=generator, dtype=torch.float64)
    return GaussianSum(amplitude, *_scattered(n, blobs, reach, widths, generator))


def random_filter(
    seed: int, *, blobs: int = 5, reach: float = 0.15, widths: tuple[float, float] = (0.04, 0.08)
) -> GaussianSum:
    """A random filter without any symmetry, of norm 1: a sum of elongated Gaussians around the origin.

    Args:
        seed: Of all random numbers.
        blobs, reach, widths: As for `random_blobs`.

    Returns:
        A `GaussianSum` without leading axes, float64.
    """
    one = random_blobs(1, seed, blobs=blobs, reach=reach, widths=widths)
    filter = GaussianSum(one.amplitude[0], one.mean[0], one.covariance[0])
    return filter.times(1 / float(filter.norm()))


def _scattered(n: int, k: int, reach: float, widths: tuple[float, float], generator) -> tuple[Tensor, Tensor]:
    """Means spread over a disc, covariances of random axes."""
    draw = lambda *shape: torch.rand(n, k, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    radius, angle, turn = reach * draw().sqrt(), 2 * math.pi * draw(), math.pi * draw()
    mean = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    width = widths[0] + (widths[1] - widths[0]) * draw(2)
    axes = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).unflatten(-1, (2, 2))
    return mean, axes @ torch.diag_embed(width.square()) @ axes.mT


def _root_det(covariance: Tensor) -> Tensor:
    return torch.linalg.det(covariance).sqrt()


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name.replace('_', ' ')} must be above 0 and finite, got {value}")

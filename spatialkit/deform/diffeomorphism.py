"""Random smooth displacement fields with the border held in place: max-entropy diffeomorphisms.

Each displacement is a sum of sine modes that vanish on the border of the image. At a given sum of the squared
gradients (the temperature is its scale) entropy is largest for independent normal coefficients whose standard
deviation falls as one over the frequency. For an image of n x n pixels, t = x / (n - 1) from 0 to 1 at its ends::

    dx[y, x] = n sqrt(T) sum_ij g_ij / sqrt(i^2 + j^2) sin(pi i t_x) sin(pi j t_y),    i^2 + j^2 < (c + 1/2)^2

over i, j = 1, 2, ..., with standard normal g_ij; dy likewise, from its own. All are independent, so that the mean
square of the displacement vector over the n^2 pixels and all draws is known exactly: each sin^2 has mean
(n - 1) / (2 n) over pixels, and::

    rms = (n - 1) / 2 sqrt(2 T sum_ij 1 / (i^2 + j^2))

The sources give the size as delta = n / 2 sqrt(pi T ln c) instead, which replaces the sum by (pi / 2) ln c and n - 1
by n. It overstates rms by 13-23 % at 32 pixels, for cut-offs from 2 to 15.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spatialkit.deform import draws

__all__ = ["Diffeomorphism", "temperature_range"]


@dataclass(frozen=True)
class Diffeomorphism:
    """A max-entropy distribution of displacement fields (equation: see the module).

    Fields are to be used as warped[u] = images[u + field[u]], u = (x, y) in px, origin at the centre of the
    top-left pixel. They bring no pixel from outside the image unless they fold (see `spatialkit.deform.folded`).

    Args:
        cutoff: Highest frequency kept, in half-waves per image side.
        temperature: No unit; the mean square displacement grows in proportion. 0: no displacement.

    Raises:
        ValueError: If ``cutoff`` is no whole number from 1, or ``temperature`` negative or not finite.

    References:
        Petrini, Favero, Geiger, Wyart, "Relative stability toward diffeomorphisms indicates performance in deep
        nets" (NeurIPS 2021), as "How deep convolutional neural networks lose spatial information with training"
        (2023) uses it, section 2. Grid, modes, weights and the factor n (not n - 1) are those of the code that the
        authors released. That code samples images at u - field[u], we at u + field[u]: a field and its negative
        are equally likely, so the warped images have the same distribution.
    """

    cutoff: int
    temperature: float

    def __post_init__(self):
        draws.whole_number("cutoff", self.cutoff)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more and finite, got {self.temperature}")

    @classmethod
    def of_displacement(cls, delta: float, cutoff: int, size: int) -> Diffeomorphism:
        """The distribution that the sources call one of displacement ``delta``, in px (see `typical_displacement`).

        Its root-mean-square displacement is smaller, by 18 % at cut-off 3 and 32 px: ask for that by `of_rms`, unless
        you follow the sources.

        Raises:
            ValueError: As the class and `typical_displacement`, or if ``delta`` is negative.
        """
        return cls(cutoff, (_length("delta", delta) / cls(cutoff, 1.0).typical_displacement(size)) ** 2)

    @classmethod
    def of_rms(cls, rms: float, cutoff: int, size: int) -> Diffeomorphism:
        """The distribution whose root-mean-square displacement over pixels and draws is exactly ``rms``, in px.

        Raises:
            ValueError: As the class and `rms`, or if ``rms`` is negative.
        """
        return cls(cutoff, (_length("rms", rms) / cls(cutoff, 1.0).rms(size)) ** 2)

    def sample(
        self, n: int, size: int, seed: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw ``n`` fields. A seed gives the same ones on every device, and the same first ones for any ``n``.

        Args:
            n: Number of fields.
            size: Side of the square images, in px; at least ``cutoff + 2``, or a mode would vanish on all pixels.
            seed: Of the draws, 0 or more.
            device: Where the fields are computed and stay.
            dtype: float32 or float64.

        Returns:
            Shape ``(n, 2, size, size)``, in px: dx, dy.

        Raises:
            ValueError: If an argument is none of the above.
        """
        drawn = draws.normals(n, (2, self.cutoff, self.cutoff), seed)
        return self.field(drawn.to(device, dtype), size)

    def field(self, normals: Tensor, size: int) -> Tensor:
        """The fields for given coefficients; differentiable in them.

        Args:
            normals: Shape ``(N, 2, cutoff, cutoff)``, float32 or float64: g of dx and of dy, then its mode i along
                x and j along y, from 1. Those with i^2 + j^2 beyond the cut-off are not used.
            size: Side of the square images, in px.

        Returns:
            Shape ``(N, 2, size, size)``, in px: dx, dy; dtype and device of ``normals``.

        Raises:
            ValueError: If ``normals`` has another shape or type or no field, or ``size`` is under ``cutoff + 2``.
        """
        c = self.cutoff
        if normals.ndim != 4 or normals.shape[1:] != (2, c, c) or len(normals) == 0:
            raise ValueError(f"normals must be (N, 2, {c}, {c}) with N at least 1, got {tuple(normals.shape)}")
        if normals.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"normals must be float32 or float64, got {normals.dtype}")
        n = self._checked(size)

        g = draws.precise(normals)
        sines, weights = _modes(c, n, g.dtype, g.device)  # (n, c), (c, c)
        amplitudes = (n * math.sqrt(self.temperature)) * weights * g  # (N, 2, i, j)
        with torch.autocast(g.device.type, enabled=False):
            along_x = amplitudes.mT.reshape(-1, c) @ sines.T  # (N * 2 * j, x)
            field = sines.expand(2 * len(g), n, c).bmm(along_x.view(-1, c, n))  # (N * 2, y, x)
        return field.view(-1, 2, n, n).to(normals.dtype)

    def rms(self, size: int) -> float:
        """Root-mean-square length of the displacement over pixels and draws, in px: exact.

        Raises:
            ValueError: If ``size`` is under ``cutoff + 2``.
        """
        _, weights = _modes(self.cutoff, n := self._checked(size), torch.float64, torch.device("cpu"))
        return (n - 1) / 2 * math.sqrt(2 * self.temperature * float((weights**2).sum()))

    def typical_displacement(self, size: int) -> float:
        """The size of the fields as the sources state it, delta = (n / 2) sqrt(pi T ln c), in px.

        An approximation to `rms`, which is exact: see the module.

        Raises:
            ValueError: If ``cutoff`` is 1, where ln c = 0, or ``size`` is under ``cutoff + 2``.
        """
        return self._checked(size) / 2 * math.sqrt(math.pi * self.temperature * _log(self.cutoff))

    def _checked(self, size: int) -> int:
        return draws.whole_number(f"size for cutoff {self.cutoff}", size, least=self.cutoff + 2)


def temperature_range(cutoff: int, size: int) -> tuple[float, float]:
    """The temperatures that the sources allow: T1 = 1 / (pi n^2 ln c) to T2 = 4 / (pi^3 c^2 ln c).

    At T1 their delta is half a pixel. T2 is meant to keep fields from folding, and does so for most only: at 32
    pixels, 6 of 10 samples fold at T2 for ``cutoff=2`` and 4 of 10 for 3 (see `spatialkit.deform.folded`). For a
    ``cutoff`` over 2 n / pi, T1 exceeds T2: no temperature is allowed.

    Args:
        cutoff: Highest frequency kept, in half-waves per image side; at least 2.
        size: Side of the square images, in px; at least ``cutoff + 2``.

    Raises:
        ValueError: If ``cutoff`` is 1, where ln c = 0, or an argument is none of the above.

    References:
        As `Diffeomorphism`; formulae as in the released code.
    """
    c, n = draws.whole_number("cutoff", cutoff), draws.whole_number("size", size, least=cutoff + 2)
    return 1 / (math.pi * n**2 * _log(c)), 4 / (math.pi**3 * c**2 * _log(c))


def _log(cutoff: int) -> float:
    if cutoff == 1:
        raise ValueError("ln c = 0 for cutoff 1, where the sources' delta, T1 and T2 do not exist: use rms or cutoff 2")
    return math.log(cutoff)


def _length(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more and finite, in px; got {value}")
    return value


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve where gradients are wanted, too
def _modes(cutoff: int, size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sine modes at the pixels, ``(size, cutoff)``, and their weights, ``(cutoff, cutoff)``: computed in float64."""
    k = torch.arange(1, cutoff + 1, dtype=torch.float64, device="cpu")
    t = torch.arange(size, dtype=torch.float64, device="cpu") / (size - 1)
    sines = torch.sin(torch.pi * t[:, None] * k)
    sines[-1] = 0  # where the sine of pi k is 1e-16 and would move the border
    squares = k[:, None] ** 2 + k**2
    weights = torch.where(squares < (cutoff + 0.5) ** 2, squares.rsqrt(), 0)
    return sines.to(device, dtype), weights.to(device, dtype)

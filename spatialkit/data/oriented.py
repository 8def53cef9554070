"""Outlines of textured blobs: an endless task in which gradients alone say less and less about boundaries."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["CASES", "BlobOutlines", "oriented_textures", "outline"]

CASES = ("I", "II", "III")
_HARMONICS = np.arange(2, 6)  # of a blob's radius round its centre


@dataclass(frozen=True, eq=False)
class BlobOutlines:
    """Random blobs on a background, and which pixels are their outline.

    - Case I: blobs are 1, the background 0.
    - Case II: blobs and background are filled with two different textures, as these are: they may differ in mean and
      contrast, but have edges of their own.
    - Case III: the same, with the grey values of each cut-out replaced by their ranks, so that both have the same
      histogram (uniform from 0 to 1), and only the pattern tells them apart.

    The size of the gradient (sigma 1 px) has an average precision of .997 in case I, .09 (synthesised textures) and .14
    (Brodatz's, means of 4 x 4) in II, and .07 and .09 in III, where chance is .067.

    Image i depends on the seed and i alone; its blobs are the same in all cases and whatever the textures.

    Attributes:
        case: One of ``CASES``.
        side: Of the square images, px.
        textures: ``(T, h, w)``, float in 0..1, at least two and each at least as large as an image; by default
            ``oriented_textures(32)``. Cut-outs are taken anywhere and turned by quarters.
        blobs: Smallest and largest number of blobs; where they overlap they are one.
        radius: Smallest and largest mean radius, px. Centres lie anywhere in the image.
        wobble: Largest relative deviation from the mean radius, below 1; 0 makes discs.
        seed: Of everything that is drawn.

    Raises:
        ValueError: If a number is out of range or textures do not fit.

    References:
        Jacobsen's thesis, section 4.4.2 and Fig. 10, which leaves open how blobs are drawn and what tells case II from
        III: both are ours. It has the textures of KTH-TIPS.
    """

    case: str
    side: int = 64
    textures: Tensor | None = None
    blobs: tuple[int, int] = (2, 5)
    radius: tuple[float, float] = (6.0, 14.0)
    wobble: float = 0.4
    seed: int = 0

    def __post_init__(self):
        if self.case not in CASES:
            raise ValueError(f"case must be one of {', '.join(CASES)}; got {self.case!r}")
        if self.side < 8 or not 1 <= self.blobs[0] <= self.blobs[1] or not 0 < self.radius[0] <= self.radius[1]:
            raise ValueError(
                f"need 8 px, at least 1 blob and a radius above 0, smaller first; got {self.side=}, {self.blobs=}, "
                f"{self.radius=}"
            )
        if not 0 <= self.wobble < 1 or self.seed < 0:
            raise ValueError(
                f"wobble must be from 0 to below 1 and the seed at least 0; got {self.wobble}, {self.seed}"
            )
        textures = self.textures
        if textures is not None and (
            textures.ndim != 3 or len(textures) < 2 or min(textures.shape[1:]) < self.side
            or not textures.is_floating_point() or not ((textures >= 0) & (textures <= 1)).all()
        ):  # fmt: skip
            raise ValueError(
                f"textures must be (T, h, w), float in 0..1, at least 2 of at least {self.side} px; got "
                f"{tuple(textures.shape)}, {textures.dtype}"
            )

    def draw(self, n: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Images ``start`` to ``start + n - 1`` and their outlines, ``(n, 1, side, side)``, float32 and bool.

        Raises:
            ValueError: If n is below 1 or start below 0.
        """
        if n < 1 or start < 0:
            raise ValueError(f"n must be at least 1 and start at least 0, got {n} and {start}")
        drawn = [self._draw(i) for i in range(start, start + n)]
        images, inside = (np.stack(part)[:, None] for part in zip(*drawn, strict=True))
        return torch.from_numpy(images), outline(torch.from_numpy(inside))

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """One image, float32, and where its blobs are, bool."""
        shapes, fillings = (np.random.default_rng([self.seed, number, stream]) for stream in (0, 1))
        inside = self._inside(shapes)
        if self.case == "I":
            return inside.astype(np.float32), inside
        blob, ground = self._fillings(fillings)
        return np.where(inside, blob, ground).astype(np.float32), inside

    def _inside(self, rng: np.random.Generator) -> np.ndarray:
        """Where blobs are: |u - c| < r (1 + sum_k a_k cos(k phi + psi_k)) for one of them, sum_k |a_k| <= wobble."""
        n = int(rng.integers(self.blobs[0], self.blobs[1] + 1))
        centre = rng.uniform(0, self.side - 1, (2, n, 1, 1))
        radius = rng.uniform(*self.radius, (n, 1, 1))
        part = rng.uniform(-1, 1, (len(_HARMONICS), n, 1, 1)) / len(_HARMONICS)
        phase = rng.uniform(0, 2 * math.pi, part.shape)
        dy, dx = np.mgrid[: self.side, : self.side][:, None] - centre
        waves = np.cos(_HARMONICS[:, None, None, None] * np.arctan2(dy, dx) + phase)
        return (np.hypot(dx, dy) < radius * (1 + self.wobble * (part * waves).sum(0))).any(0)

    def _fillings(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Cut-outs of two different textures."""
        stack = (_default_textures(self.side) if self.textures is None else self.textures).numpy()
        first, second = rng.choice(len(stack), 2, replace=False)
        return self._cut(stack[first], rng), self._cut(stack[second], rng)

    def _cut(self, texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = (int(rng.integers(length - self.side + 1)) for length in texture.shape)
        cut = np.rot90(texture[top : top + self.side, left : left + self.side], int(rng.integers(4)))
        if self.case == "II":
            return cut
        ranks = np.empty(cut.size)
        ranks[cut.ravel().argsort(kind="stable")] = np.linspace(0, 1, cut.size)
        return ranks.reshape(cut.shape)


def outline(inside: Tensor) -> Tensor:
    """Pixels of which one of the four neighbours is on the other side: two pixels wide, one inside and one outside.

    Both sides count, as the size of a gradient cannot tell them apart. The frame of the image is no outline.

    Args:
        inside: ``(..., H, W)``, bool.

    Returns:
        The same shape, bool.
    """
    edge = torch.zeros_like(inside)
    down, right = inside[..., 1:, :] != inside[..., :-1, :], inside[..., 1:] != inside[..., :-1]
    edge[..., 1:, :] |= down
    edge[..., :-1, :] |= down
    edge[..., 1:] |= right
    edge[..., :-1] |= right
    return edge


def oriented_textures(n: int, side: int = 128, seed: int = 0) -> Tensor:
    """Synthesised textures: bands of noise, each about a wave vector of its own. Other seeds give unseen ones.

    Texture i is white noise, of which frequencies k (cycles per px) are kept by
    exp(-(log |k| / f)^2 / 2 b^2 - d^2 / 2 s^2), d the angle between the line of k and the texture's; then brought to a
    mean and a contrast of its own, and clipped. Drawn per texture, uniformly: log2 f from -4.5 to -2, the angle, b
    from .2 to .5, s from .1 to .6 (grain to stripes), mean from .35 to .65, standard deviation from .1 to .22.

    Args:
        n: Number of textures.
        side: Px; opposite sides fit together.
        seed: The first textures of a seed do not depend on n.

    Returns:
        ``(n, side, side)``, float32, from 0 to 1.

    Raises:
        ValueError: If n is below 1, the side below 16 or the seed below 0.
    """
    if n < 1 or side < 16 or seed < 0:
        raise ValueError(f"need n of at least 1, a side of 16 px and a seed of at least 0; got {n}, {side} and {seed}")
    return torch.from_numpy(np.stack([_texture(side, np.random.default_rng([seed, i])) for i in range(n)]))


def _texture(side: int, rng: np.random.Generator) -> np.ndarray:
    low, high = np.array([[-4.5, -2], [0, math.pi], [0.2, 0.5], [0.1, 0.6], [0.35, 0.65], [0.1, 0.22]]).T
    log2_frequency, angle, breadth, spread, mean, deviation = rng.uniform(low, high)
    kx, ky = np.fft.rfftfreq(side), np.fft.fftfreq(side)[:, None]
    size = np.hypot(kx, ky)
    size[0, 0] = 1e-9  # the mean, which the band leaves out
    off = (np.arctan2(-ky, kx) - angle + math.pi / 2) % math.pi - math.pi / 2  # against the clock as seen, of lines
    band = np.exp(-((np.log(size) - log2_frequency * math.log(2)) ** 2) / (2 * breadth**2) - (off / spread) ** 2 / 2)
    noise = np.fft.irfft2(band * np.fft.rfft2(rng.standard_normal((side, side))), s=(side, side))
    return (mean + deviation * noise / noise.std()).clip(0, 1).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _default_textures(side: int) -> Tensor:
    return oriented_textures(32, max(128, side))

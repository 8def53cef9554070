"""Perturbations of images: deformed, noised, shifted or turned, always the same way for the same image.

A perturbation is anything that can be called as ``perturb(images, numbers, seed)``: it gets some of the images, the
``range`` of their places among all images, and a seed, and returns as many of the same shape. Those of this module
draw what is random image by image from ``seed`` and the image's place, so that an image is perturbed the same way
whichever and however many others come with it. Two deformations, or two noises, of one seed share their random
numbers: they differ by what they do, not by luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spatialkit.deform import affine_field, rotation, warp

__all__ = [
    "Deformation",
    "FieldFamily",
    "Noise",
    "Perturbation",
    "Rotation",
    "Translation",
    "drawn",
    "named",
    "perturbed",
]

Perturbation = Callable[[Tensor, range, int], Tensor]

_DRAWN_TOGETHER = 16  # images that share a seed of their own; others would give others
_STREAMS = {"deformation": 1, "noise": 2, "bootstrap": 3}


class FieldFamily(Protocol):
    """A distribution of displacement fields, as those of `spatialkit.deform`."""

    def sample(self, n: int, size: int, seed: int) -> Tensor:
        """``n`` fields in px, shape ``(n, 2, size, size)``: dx, dy."""


@dataclass(frozen=True)
class Deformation:
    """Each image warped by a displacement field of its own.

    warped[u] = images[u + field[u]], u = (x, y) in px, origin at the centre of the top-left pixel; samples outside
    the image take the border value (see `spatialkit.deform.warp`).

    Args:
        family: The distribution of the fields, such as `spatialkit.deform.Diffeomorphism`.

    Raises:
        ValueError: When called with images that are not square, N x C x H x H.
    """

    family: FieldFamily

    def __call__(self, images: Tensor, numbers: range, seed: int) -> Tensor:
        side = _image_size(images, "deformation")
        if side[0] != side[1]:
            raise ValueError(f"displacement fields are square, but images have {side[0]} x {side[1]} pixels: crop them")
        field = drawn("deformation", numbers, seed, lambda n, seed: self.family.sample(n, side[0], seed))
        return _warped(images, field)


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise of a given length: eta = norm g / ||g|| with g ~ N(0, 1) in each number of an image.

    Args:
        like: Name of another perturbation, whose ||perturbed - image|| each image's noise takes over.
        norm: Length of all noise instead, in the unit of the images: the square root of the sum of squares over all
            numbers of an image.

    Raises:
        ValueError: If neither or both are given, ``norm`` is negative or not finite, or the noise is called by
            itself although it goes by another perturbation (see `perturbed`).

    References:
        Tomasini et al. (2023), eq. 1. The caption of its figure 1 gives all noise one mean length; the authors' code
        matches each image to its own deformation, as here.
    """

    like: str | None = None
    norm: float | None = None

    def __post_init__(self):
        if (self.like is None) == (self.norm is None):
            raise ValueError('give the length of the noise by either like="..." or norm=...')
        if self.norm is not None and not 0 <= self.norm < math.inf:
            raise ValueError(f"norm must be 0 or more and finite, got {self.norm}")

    def __call__(self, images: Tensor, numbers: range, seed: int) -> Tensor:
        if self.norm is None:
            raise ValueError(f"noise like {self.like!r} needs that perturbation beside it: use perturbed(...)")
        return self.added(images, numbers, seed, torch.tensor(self.norm, dtype=torch.float64))

    def added(self, images: Tensor, numbers: range, seed: int, norm: Tensor) -> Tensor:
        """Images with noise of given lengths, one for all or shape ``(N,)``."""
        _check_floating(images, "noise")
        g = drawn("noise", numbers, seed, lambda n, seed: _normals(n, images.shape[1:], seed)).to(images.device)
        g = g.to(torch.promote_types(images.dtype, torch.float32))
        scale = norm.to(g) / torch.linalg.vector_norm(g.flatten(1), dim=1)
        return (images + g * scale.view(-1, *[1] * (g.ndim - 1))).to(images.dtype)


@dataclass(frozen=True)
class Translation:
    """All images moved by ``dx`` px to the right and ``dy`` px down; what comes in from outside is the border value.

    Whole pixels are moved exactly, fractions by bilinear interpolation.

    Raises:
        ValueError: If a shift is not finite.
    """

    dx: float
    dy: float = 0.0

    def __post_init__(self):
        if not math.isfinite(self.dx) or not math.isfinite(self.dy):
            raise ValueError(f"a shift must be finite, in px; got dx={self.dx}, dy={self.dy}")

    def __call__(self, images: Tensor, numbers: range, seed: int) -> Tensor:
        H, W = _image_size(images, "translation")
        if self.dx == int(self.dx) and self.dy == int(self.dy):
            rows, columns = (
                (torch.arange(side, device=images.device) - int(by)).clamp(0, side - 1)
                for side, by in ((H, self.dy), (W, self.dx))
            )
            return images[:, :, rows][..., columns]
        return _warped(
            images, -torch.tensor([self.dx, self.dy], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, H, W)
        )


@dataclass(frozen=True)
class Rotation:
    """All images turned counter-clockwise about their centre; what comes in from outside is the border value.

    Quarter turns of square images move pixels exactly, all else is bilinear interpolation.

    Args:
        degrees: Angle.

    Raises:
        ValueError: If the angle is not finite.
    """

    degrees: float

    def __post_init__(self):
        if not math.isfinite(self.degrees):
            raise ValueError(f"an angle must be finite, in degrees; got {self.degrees}")

    def __call__(self, images: Tensor, numbers: range, seed: int) -> Tensor:
        H, W = _image_size(images, "rotation")
        if self.degrees % (90 if H == W else 180) == 0:
            return images.rot90(int(self.degrees // 90), (-2, -1))
        return _warped(images, affine_field(rotation(-self.degrees), (H, W)))


def named(
    perturbations: FieldFamily | Perturbation | Mapping[str, Perturbation | FieldFamily],
) -> dict[str, Perturbation]:
    """Perturbations by name. Fields deform; one by itself is D, and noise as strong, G, stands beside it.

    Raises:
        ValueError: If there is none, or something that can neither perturb images nor draw fields.
    """
    if not isinstance(perturbations, Mapping):
        perturbations = {"D": perturbations, "G": Noise(like="D")}
    if not perturbations:
        raise ValueError('name at least one perturbation, as in {"turn": Rotation(10)}')
    found = {name: Deformation(p) if hasattr(p, "sample") else p for name, p in perturbations.items()}
    for name, perturb in found.items():
        if not callable(perturb) or isinstance(perturb, type):
            raise ValueError(
                f"perturbation {name!r} must be fields such as Diffeomorphism.of_rms(1, cutoff=3, size=32), or a "
                f"function of (images, numbers, seed) such as Rotation(10); got {perturb!r}"
            )
        if isinstance(perturb, Deformation) and not hasattr(perturb.family, "sample"):
            raise ValueError(f"Deformation takes fields that can be drawn by .sample, got {perturb.family!r}")
    return found


def perturbed(
    images: Tensor, perturbations: Mapping[str, Perturbation], seed: int = 0, first: int = 0
) -> dict[str, Tensor]:
    """What each perturbation makes of the images, by its name.

    Args:
        images: Some of the images, first axis images.
        perturbations: By name. `Noise` like another one may stand before it.
        seed: Of what is random in them.
        first: Place of the first of these among all images.

    Raises:
        ValueError: If a perturbation returns another shape or type, or goes by one that is not there or is itself
            noise like another.
    """
    numbers = range(first, first + len(images))
    made: dict[str, Tensor] = {}
    for name, perturb in sorted(perturbations.items(), key=lambda item: _goes_by(item[1]) is not None):
        if not isinstance(perturb, Noise) or perturb.like is None:
            got = perturb(images, numbers, seed)
        elif _goes_by(perturbations.get(perturb.like, perturb)) is not None:
            raise ValueError(
                f"noise {name!r} must be like a perturbation of known size beside it, not like {perturb.like!r}"
            )
        else:
            size = torch.linalg.vector_norm((made[perturb.like].double() - images.double()).flatten(1), dim=1)
            got = perturb.added(images, numbers, seed, size)
        if not isinstance(got, Tensor) or (got.shape, got.dtype) != (images.shape, images.dtype):
            kind = f"{got.dtype} of {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
            raise ValueError(
                f"perturbation {name!r} must return images as it gets them, {images.dtype} of "
                f"{tuple(images.shape)}; it returned {kind}"
            )
        made[name] = got
    return {name: made[name].to(images.device) for name in perturbations}


def drawn(stream: str, numbers: range, seed: int, draw: Callable[[int, int], Tensor]) -> Tensor:
    """Random numbers that belong to images by their place: ``draw(n, seed)`` for blocks of n images, then cut.

    Args:
        stream: What they are for: ``"deformation"``, ``"noise"`` or ``"bootstrap"``.
        numbers: Places of the images, at least one, in steps of 1.
        seed: 0 or more.
        draw: Makes a tensor whose first axis is n, from a seed under 2^63.
    """
    blocks = range(numbers.start // _DRAWN_TOGETHER, (numbers.stop - 1) // _DRAWN_TOGETHER + 1)
    seeds = (
        np.random.SeedSequence([seed, _STREAMS[stream], block]).generate_state(1, np.uint64)[0] for block in blocks
    )
    made = torch.cat([draw(_DRAWN_TOGETHER, int(block_seed >> np.uint64(1))) for block_seed in seeds])
    return made[numbers.start - blocks.start * _DRAWN_TOGETHER :][: len(numbers)]


def _normals(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32, device="cpu")


def _goes_by(perturb: Perturbation) -> str | None:
    return perturb.like if isinstance(perturb, Noise) else None


def _warped(images: Tensor, field: Tensor) -> Tensor:
    precise = images.to(torch.promote_types(images.dtype, torch.float32))
    return warp(precise, field.to(precise)).to(images.dtype)


def _image_size(images: Tensor, what: str) -> tuple[int, int]:
    _check_floating(images, what)
    if images.ndim != 4:
        raise ValueError(f"a {what} needs images (N, C, H, W), got {tuple(images.shape)}")
    H, W = images.shape[-2:]
    return H, W


def _check_floating(images: Tensor, what: str) -> None:
    if not images.is_floating_point():
        raise ValueError(
            f"a {what} makes fractions, but images are {images.dtype}: pass them as the network takes them"
        )

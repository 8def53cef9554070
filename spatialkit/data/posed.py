"""Digits in a known pose: turned, scaled and shifted on a canvas, with clutter beside them if wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spatialkit.deform import affine_field, warp

__all__ = ["POSE", "Poses", "add_clutter", "in_pose"]

POSE = ("angle", "log2 scale", "dx", "dy")  # degrees against the clock, no unit, px to the right, px down


@dataclass(frozen=True)
class Poses:
    """A family of poses, each number uniform between its limits.

    Attributes:
        canvas: Side of the square canvas, px.
        angle: Largest turn either way, degrees.
        log2_scale: Smallest and largest log2 of the factor.
        shift: Largest shift either way along each axis, px.

    References:
        Finnveden et al. (2020), arXiv:2004.11678, by its released code: R is ``Poses(28, angle=90)``, T
        ``Poses(60, shift=16)``, S ``Poses(112, log2_scale=(-1, 2))``; T and S with clutter (see `add_clutter`).
    """

    canvas: int
    angle: float = 0.0
    log2_scale: tuple[float, float] = (0.0, 0.0)
    shift: float = 0.0

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``(n, 4)``, columns as in ``POSE``, on the CPU. Always 4 n random numbers, whatever the limits."""
        low = torch.tensor([-self.angle, self.log2_scale[0], -self.shift, -self.shift])
        high = torch.tensor([self.angle, self.log2_scale[1], self.shift, self.shift])
        return low + (high - low) * torch.rand(n, 4, generator=generator)


def in_pose(images: Tensor, poses: Tensor, canvas: int) -> Tensor:
    """Images on a black canvas, each in its own pose about its own centre.

    posed[u] = image[R(angle)^-1 (u - shift) / factor], u = (x, y) in px from the centre (y down), bilinear, 0 outside.
    Turns are against the clock; the shift comes last.

    Args:
        images: ``(N, C, n, n)``, float, background 0.
        poses: ``(N, 4)``, columns as in ``POSE``.
        canvas: Side of the canvas, px, at least n; n and canvas both odd or both even, so that centres agree.

    Returns:
        ``(N, C, canvas, canvas)``, like ``images``.

    Raises:
        ValueError: If shapes or the canvas do not fit.
    """
    n = images.shape[-1]
    if images.ndim != 4 or images.shape[-2] != n or poses.shape != (len(images), 4):
        raise ValueError(f"need square images and 4 numbers each, got {tuple(images.shape)} and {tuple(poses.shape)}")
    if canvas < n or (canvas - n) % 2:
        raise ValueError(f"canvas must be {n} px plus an even number, got {canvas}")
    angle, log2_scale, *shift = poses.to(images).unbind(1)
    angle = angle * (math.pi / 180)
    c, s = angle.cos() * torch.exp2(-log2_scale), angle.sin() * torch.exp2(-log2_scale)
    back = torch.stack([c, -s, s, c], dim=1).view(-1, 2, 2)  # R(angle)^-1 / factor
    field = affine_field(back, (canvas, canvas), before=torch.stack(shift, dim=1))
    margin = (canvas - n) // 2 + 1  # one pixel more, so that the border value is the background
    padded = F.pad(images, [margin] * 4)
    return warp(padded, F.pad(field, [1] * 4))[..., 1:-1, 1:-1]


def add_clutter(
    images: Tensor, pool: Tensor, sides: tuple[int, int], n_patches: int, generator: torch.Generator
) -> Tensor:
    """Images with patches of other images added at random places, at most 1.

    Args:
        images: ``(N, 1, H, W)``, float in 0..1.
        pool: ``(M, 1, h, w)``, float in 0..1: where patches are cut out, anywhere inside an image.
        sides: Smallest and largest side of a patch, px; each patch draws its own.
        n_patches: Patches per image.
        generator: Of all draws, on the CPU.

    Returns:
        ``(N, 1, H, W)``; patches lie wholly inside.

    Raises:
        ValueError: If a patch does not fit.

    References:
        Finnveden et al. (2020), by its released code: 6 patches, sides (6, 6) for translated and (2, 18) for scaled
        digits. There the test images, too, get clutter from training images.
    """
    low, high = sides
    H, W, (h, w) = *images.shape[-2:], pool.shape[-2:]
    if not 1 <= low <= high <= min(H, W, h, w):
        raise ValueError(f"patches of {low} to {high} px do not fit images of {H} x {W} and {h} x {w}")
    N, result = len(images), images.clone()
    inside = torch.arange(high)
    rows = torch.arange(N)[:, None, None]
    for _ in range(n_patches):
        side, which, *places = torch.rand(6, N, generator=generator, dtype=torch.float64).unbind()
        side = low + (side * (high - low + 1)).long()
        which = (which * len(pool)).long()
        tops = [(p * (room - side + 1)).long() for p, room in zip(places, (h, w, H, W), strict=True)]
        mask = inside < side[:, None]  # (N, high)
        y0, x0, y1, x1 = ((top[:, None] + inside) * mask for top in tops)
        patch = pool[which[:, None, None], 0, y0[:, :, None], x0[:, None, :]].to(images)
        patch *= (mask[:, :, None] & mask[:, None, :]).to(images)
        where = (
            rows.expand_as(patch),
            torch.zeros_like(rows).expand_as(patch),
            *torch.broadcast_tensors(y1[:, :, None], x1[:, None, :]),
        )
        result.index_put_(where, patch, accumulate=True)
    return result.clamp(max=1)

"""The one warp: images sampled where a displacement field says.

warped[u] = images[u + field[u]], u = (x, y) in px, origin at the centre of the top-left pixel; samples outside the
image take the border value.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["read_at", "warp"]


def warp(images: Tensor, field: Tensor) -> Tensor:
    """Images sampled at displaced places, by bilinear interpolation: warped[u] = images[u + field[u]].

    A positive dx thus moves content to the left, a positive dy upwards. u = (x, y) in px, origin at the centre of
    the top-left pixel; samples outside the image take the border value. Differentiable in both: with respect to the
    field, the gradient is 0 where a sample lies on the border or outside, and one-sided at the centre of a pixel,
    where bilinear interpolation has a kink (so everywhere, for a field of zeros). A field of zeros returns its image
    to the bit, unless a gradient to the field is asked for: the sampler then rounds places, by 1e-6 of a side.

    On CUDA, `torch.nn.functional.grid_sample` has no deterministic gradient: under
    `torch.use_deterministic_algorithms`, four reads per pixel take its place. They agree with it up to rounding.

    Args:
        images: Shape ``(N, C, H, W)``, float32 or float64, also feature maps. Convert integers first, as in
            ``images.float() / 255``: interpolation makes fractions.
        field: Displacements in px, ``(N, 2, H, W)``: dx, dy; dtype and device of ``images``. One field serves all
            images, and one image all fields.

    Returns:
        Shape ``(N, C, H, W)``; dtype and device of ``images``.

    Raises:
        ValueError: If ``images`` and ``field`` are empty, differ in size, number, dtype or device, are not float32
            or float64, or ``field`` is not finite.
    """
    N = _checked_number(images, field)
    images, field = images.expand(N, -1, -1, -1), field.expand(N, -1, -1, -1)
    by_four_reads = images.is_cuda and torch.are_deterministic_algorithms_enabled()
    warped = _by_four_reads(images, field) if by_four_reads else _by_grid_sample(images, field)
    if torch.compiler.is_exporting() or (field.requires_grad and torch.is_grad_enabled()):
        return warped  # a where would cut the gradient to a field of zeros
    still = (field == 0).all(3).all(2).all(1)[:, None, None, None]
    return torch.where(still, images, warped) if bool(still.any()) else warped


def _checked_number(images: Tensor, field: Tensor) -> int:
    """How many images come out; or a ValueError."""
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"images must be float32 or float64, got {images.dtype}: convert them, as images.float() / 255"
        )
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images must be (N, C, H, W) with no side 0, got {tuple(images.shape)}")
    H, W = images.shape[-2:]
    if field.ndim != 4 or field.shape[1:] != (2, H, W) or field.shape[0] == 0:
        raise ValueError(f"field must be (N, 2, {H}, {W}) as the images are, N at least 1; got {tuple(field.shape)}")
    n_images, n_fields = images.shape[0], field.shape[0]  # not len(), which an export would fix
    if n_images != n_fields and n_images != 1 and n_fields != 1:
        raise ValueError(f"need one field per image, or one of either; got {n_images} images, {n_fields} fields")
    number = n_images if n_images == n_fields or n_fields == 1 else n_fields
    if (field.dtype, field.device) != (images.dtype, images.device):
        raise ValueError(
            f"images are {images.dtype} on {images.device}, field {field.dtype} on {field.device}: "
            "they must agree, as by field.to(images)"
        )
    if torch.compiler.is_exporting():  # no look at values
        return number
    if not math.isfinite(field.detach().sum()):  # many times faster than a look at each number
        raise ValueError("field must be finite, with a finite sum: it holds nan, inf or values beyond all images")
    return number


def _by_grid_sample(images: Tensor, field: Tensor) -> Tensor:
    """The warp by PyTorch's own sampler, whose coordinates run from -1 to 1 between border pixels."""
    pixels = _pixels.__wrapped__ if torch.compiler.is_exporting() else _pixels  # keep no tensor of an export
    base, per_pixel = pixels(*images.shape[-2:], images.dtype, images.device)
    return _sampled(images, torch.addcmul(base, field, per_pixel).permute(0, 2, 3, 1))  # (N, H, W, 2), not copied


def _sampled(images: Tensor, places: Tensor) -> Tensor:
    """The package's one way to read between pixels; places from -1 to 1 between the centres of border pixels."""
    return F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=True)


def read_at(images: Tensor, points: Tensor) -> Tensor:
    """Images read at any points, as `warp` reads them: bilinear, outside the border value.

    Args:
        images: Shape ``(N, C, H, W)``, float32 or float64.
        points: (x, y) in px from the *centre* of the image, x to the right, y down; ``(N, K, P, 2)``, float64.

    Returns:
        Shape ``(N, C, K, P)``; dtype and device of ``images``.
    """
    H, W = images.shape[-2:]
    half = torch.tensor([max(W - 1, 1) / 2, max(H - 1, 1) / 2], dtype=torch.float64, device=points.device)
    return _sampled(images, (points / half).to(images))


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must serve where gradients are wanted, too
def _pixels(H: int, W: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places of the pixels in the sampler's unit, ``(1, 2, H, W)``, and how much of it a pixel is, ``(2, 1, 1)``."""
    x, y = (torch.linspace(-1, 1, side, dtype=torch.float64, device="cpu") for side in (W, H))
    base = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
    per_pixel = torch.tensor([2 / max(W - 1, 1), 2 / max(H - 1, 1)], dtype=torch.float64, device="cpu")
    return base.to(device, dtype), per_pixel.view(2, 1, 1).to(device, dtype)


def _by_four_reads(images: Tensor, field: Tensor) -> Tensor:
    """The warp from the four pixels around each place; its gradient is deterministic on CUDA, too."""
    N, C, H, W = images.shape
    left, right, tx = _neighbours(field[:, 0] + torch.arange(W, dtype=field.dtype, device=field.device), W)
    above, below, ty = _neighbours(field[:, 1] + torch.arange(H, dtype=field.dtype, device=field.device)[:, None], H)
    pixels = images.flatten(2)  # (N, C, H * W)

    def read(row: Tensor, column: Tensor) -> Tensor:
        place = (row * W + column).view(N, 1, H * W).expand(N, C, H * W)
        return pixels.gather(2, place).view(N, C, H, W)

    tx, ty = tx[:, None], ty[:, None]  # (N, 1, H, W): the same for all channels
    upper = torch.lerp(read(above, left), read(above, right), tx)
    lower = torch.lerp(read(below, left), read(below, right), tx)
    return torch.lerp(upper, lower, ty)


def _neighbours(places: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pixels before and after each place on an axis, and how far it lies between them, from 0 to 1."""
    inside = (places > 0) & (places < side - 1)
    places = torch.where(inside, places, places.detach().clamp(0, side - 1))
    before = places.detach().floor()
    after = (before + 1).clamp(max=side - 1)
    return before.long(), after.long(), places - before

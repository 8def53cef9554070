"""Spatial transformers: a small network says where to look, and a sampler looks there.

resampled[u] = images[A u + t], u = (x, y) in px from the centre of the image, x to the right and y down; pixels have
their values at their centres, between them they are interpolated bilinearly, and samples outside take the border value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatialkit.deform import affine_field, warp

__all__ = ["KINDS", "SpatialTransformer", "affine_matrix", "angle_scale_shift", "compose", "resample"]

KINDS = {"translation": 2, "rotation": 1, "scale": 1, "similarity": 4, "affine": 6}  # kind: numbers that it takes
_NARROW = (torch.float16, torch.bfloat16)


def affine_matrix(kind: str, numbers: Tensor) -> Tensor:
    """Matrices [A | t] from what a localisation network puts out; zeros give the identity.

    Args:
        kind: One of ``KINDS``. ``translation``: t. ``rotation``: an angle in radians. ``scale``: the logarithm of a
            factor. ``similarity``: angle, logarithm of the factor, t. ``affine``: what is added to the identity,
            row by row.
        numbers: ``(N, KINDS[kind])``.

    Returns:
        ``(N, 2, 3)``: A without a unit, t in half image sides (see `resample`). A sampler that reads along a turned
        grid sees its image turned the other way: a positive angle turns content *clockwise*, so it undoes an equal
        turn of the digit against the clock; likewise a factor above 1 shrinks.

    Raises:
        ValueError: If there is no such kind, or it takes another number of numbers.

    References:
        Jaderberg et al., "Spatial Transformer Networks" (2015), as cited by Jansson et al. (2020), reference 8.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if numbers.ndim != 2 or numbers.shape[1] != KINDS[kind]:
        raise ValueError(f"{kind} takes numbers of shape (N, {KINDS[kind]}), got {tuple(numbers.shape)}")
    one, zero = torch.ones_like(numbers[:, 0]), torch.zeros_like(numbers[:, 0])
    if kind == "affine":
        return numbers.view(-1, 2, 3) + torch.eye(2, 3, dtype=numbers.dtype, device=numbers.device)
    angle = numbers[:, 0] if kind in ("rotation", "similarity") else zero
    factor = numbers[:, {"scale": 0, "similarity": 1}[kind]].exp() if kind in ("scale", "similarity") else one
    tx, ty = numbers[:, -2:].unbind(1) if kind in ("translation", "similarity") else (zero, zero)
    a, b = factor * angle.cos(), factor * angle.sin()
    return torch.stack([a, b, tx, -b, a, ty], dim=1).view(-1, 2, 3)


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The one matrix that resamples as ``first`` and then ``second`` do: [A1 A2 | A1 t2 + t1]; all ``(N, 2, 3)``.

    For square images: on others, half a side of x and one of y are not of one length (see `resample`).
    """
    A, t = first[:, :, :2], first[:, :, 2:]
    with torch.autocast(first.device.type, enabled=False):
        return torch.cat([A @ second[:, :, :2], A @ second[:, :, 2:] + t], dim=2)


def angle_scale_shift(matrix: Tensor) -> Tensor:
    """What a matrix undoes: turn, magnification and shift of the content.

    The turn is that of the rotation closest to A, by both of its rows: it is known up to 360 degrees. (The released
    code of the study below takes -atan(a12 / a11), which is known up to 180 only.)

    Args:
        matrix: ``(N, 2, 3)``.

    Returns:
        ``(N, 4)``: degrees against the clock; log2 of the factor, the square root of |det A|; t as it stands, in
        half image sides, x and y. For a mirroring A (det A below 0) the angle means nothing.

    References:
        Finnveden et al., "Understanding when spatial transformer networks do not support invariance" (2020).
    """
    a, b, tx, c, d, ty = matrix.flatten(1).unbind(1)
    angle = torch.rad2deg(torch.atan2(b - c, a + d))
    return torch.stack([angle, (a * d - b * c).abs().log2() / 2, tx, ty], dim=1)


def resample(images: Tensor, matrix: Tensor, align_corners: bool = False) -> Tensor:
    """Images read along an affinely transformed grid: resampled[u] = images[A u + t].

    Pixel centres, origin at the image's centre, bilinear, border values outside. Differentiable in both arguments.

    Args:
        images: ``(N, C, H, W)``, float32 or float64, also feature maps. A acts on pixels: on an image that is not
            square, `torch.nn.functional.affine_grid` stretches with the sides, and this does not.
        matrix: ``(N, 2, 3)``: A | t, with t in half sides, so that one matrix fits maps of any resolution.
        align_corners: The unit of t. False: W / 2 and H / 2 px, from the centre to the outer edge of the border
            pixels. True: (W - 1) / 2 and (H - 1) / 2 px, to their centres. Nothing else depends on it.

    Returns:
        ``(N, C, H, W)``.

    Raises:
        ValueError: If shapes or types do not fit (see also `spatialkit.deform.warp`).
    """
    if images.ndim != 4 or matrix.shape != (images.shape[0], 2, 3):
        raise ValueError(
            f"need images (N, C, H, W) and a matrix (N, 2, 3) for each, got {tuple(images.shape)}, "
            f"{tuple(matrix.shape)}"
        )
    H, W = images.shape[-2:]
    sides = torch.tensor([W, H], dtype=matrix.dtype, device=matrix.device)
    t = matrix[:, :, 2] * (sides - 1 if align_corners else sides) / 2  # px
    return warp(images, affine_field(matrix[:, :, :2], (H, W), after=t))


class SpatialTransformer(nn.Module):
    """A localisation network, one linear layer that starts from the identity, and the sampler.

    Args:
        localisation: Any module; N x ... -> N x ``features``.
        features: Numbers that it puts out per image.
        kind: Which transformations; one of ``KINDS``.
        align_corners: The unit of shifts, see `resample`. It may be set anew later.

    Raises:
        ValueError: If there is no such kind.

    References:
        Jaderberg et al. (2015). Finnveden et al. (2020) use ``affine`` with zero weights in the last layer, as here.
    """

    def __init__(self, localisation: nn.Module, features: int, kind: str = "affine", align_corners: bool = False):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.localisation, self.kind, self.align_corners = localisation, kind, align_corners
        self.last = nn.Linear(features, KINDS[kind])
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def matrix(self, seen: Tensor) -> Tensor:
        """Where to look, N x 2 x 3, given what the localisation network sees."""
        numbers = self.last(self.localisation(seen))
        return affine_matrix(self.kind, numbers.float() if numbers.dtype in _NARROW else numbers)

    def forward(self, images: Tensor, seen: Tensor | None = None) -> Tensor:
        """Images resampled as the network says that sees them, or that sees something else.

        Places and images of under 32 bits, as under autocast, are resampled in float32; images keep their type.
        """
        matrix = self.matrix(images if seen is None else seen)
        if images.dtype in _NARROW:
            return resample(images.float(), matrix, self.align_corners).to(images.dtype)
        return resample(images, matrix, self.align_corners)

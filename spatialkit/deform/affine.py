"""Linear maps of the plane about the centre of an image, and the fields that carry them out.

(T f)(x) = f(T^-1 x): the content moves with the map. x = (x, y) is measured from the centre of the image, in px, x to
the right and y down; angles are counter-clockwise as seen. A map is a 2 x 2 matrix, float64.

A field reads the other way round, at T^-1 x: every turn, scaling, shear and shift of the package is one
`affine_field`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spatialkit.deform.warping import warp

__all__ = [
    "affine_field",
    "from_polar",
    "linear_field",
    "linear_transform",
    "mirror",
    "rotation",
    "scaling",
    "shear",
    "to_polar",
]


def rotation(degrees: float) -> Tensor:
    """A turn, counter-clockwise as seen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)  # y runs down


def scaling(x: float, y: float | None = None) -> Tensor:
    """Enlargement by a factor, or by one factor per axis.

    Raises:
        ValueError: If a factor is not above 0 and finite.
    """
    y = x if y is None else y
    if not (0 < x < math.inf and 0 < y < math.inf):
        raise ValueError(f"factors must be above 0 and finite, got {x} and {y}: use mirror() for reflections")
    return torch.tensor([[x, 0], [0, y]], dtype=torch.float64)


def shear(amount: float) -> Tensor:
    """Horizontal shear: a row y px below the centre moves ``amount * y`` px to the right."""
    return torch.tensor([[1, amount], [0, 1]], dtype=torch.float64)


def mirror(degrees: float = 0.0) -> Tensor:
    """Reflection in the line through the centre at this angle; 0 exchanges up and down."""
    flip = torch.tensor([[1, 0], [0, -1]], dtype=torch.float64)
    return rotation(degrees) @ flip @ rotation(-degrees)


def from_polar(coordinates: Tensor | Sequence[float], mirrored: bool = False) -> Tensor:
    """Invertible maps by their polar decomposition: a turn after a symmetric stretch, ``rotation(a) @ exp(S)``.

    ::

        S = [[p + q, r], [r, p - q]],    determinant exp(2 p)

    Every invertible map with positive determinant has exactly one such form (the angle up to full turns); the others
    have one after a reflection, ``rotation(a) @ exp(S) @ mirror()``.

    Args:
        coordinates: Shape ``(..., 4)``: a in degrees, p, q, r.
        mirrored: Whether the determinant is to be negative.

    Returns:
        Shape ``(..., 2, 2)``, float64.

    Raises:
        ValueError: If the last axis does not hold four numbers.
    """
    c = _real(coordinates)
    if c.ndim == 0 or c.shape[-1] != 4:
        raise ValueError(f"coordinates must be (..., 4): angle, p, q, r; got {tuple(c.shape)}")
    angle, p, q, r = torch.deg2rad(c[..., 0]), *c[..., 1:].unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))
    symmetric = torch.stack([p + q, r, r, p - q], -1).unflatten(-1, (2, 2))
    maps = turn @ torch.linalg.matrix_exp(symmetric)
    return maps @ mirror() if mirrored else maps


def to_polar(matrix: Tensor) -> tuple[Tensor, bool]:
    """The coordinates of an invertible map, ``(4,)`` as in `from_polar`, angle from -180 to 180, and whether mirrored.

    Raises:
        ValueError: If the matrix is not 2 x 2 and invertible.
    """
    matrix = _checked(matrix)
    mirrored = bool(torch.linalg.det(matrix) < 0)
    U, s, Vh = torch.linalg.svd(matrix @ mirror() if mirrored else matrix)
    turn, S = U @ Vh, Vh.T @ torch.diag(s.log()) @ Vh
    angle = torch.rad2deg(torch.atan2(turn[0, 1], turn[0, 0]))
    return torch.stack([angle, (S[0, 0] + S[1, 1]) / 2, (S[0, 0] - S[1, 1]) / 2, S[0, 1]]), mirrored


def affine_field(
    linear: Tensor, size: Sequence[int], *, before: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """The displacement field that reads every pixel at an affine image of its place: for `spatialkit.deform.warp`.

    field[u] = A (u - before) + after - u, u = (x, y) in px from the centre of the image, x to the right, y down. A maps
    places to where they are read: T^-1 for a map T of the content. Differentiable in all three.

    Args:
        linear: A, ``(2, 2)`` or ``(N, 2, 2)``, float32 or float64.
        size: Rows and columns of the images, H and W.
        before, after: Points (x, y), ``(2,)`` or ``(N, 2)``, in px; 0 by default.

    Returns:
        Shape ``(N, 2, H, W)``: dx, dy; dtype and device of ``linear``.
    """
    u = _places(size, linear)
    with torch.autocast(linear.device.type, enabled=False):
        read = linear @ (u if before is None else u - before[..., None])  # (N, 2, H * W)
    read = read if after is None else read + after[..., None]
    field = read - u
    return (field if field.ndim == 3 else field[None]).unflatten(2, tuple(size))


def _places(size: Sequence[int], like: Tensor) -> Tensor:
    """u of every pixel, row by row: (x, y) in px from the centre, ``(2, H * W)``."""
    y, x = (torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2 for n in size)
    return torch.stack([x.expand(*size), y[:, None].expand(*size)]).flatten(1)


def linear_field(matrix: Tensor, H: int, W: int) -> Tensor:
    """The displacement field with which `spatialkit.deform.warp` applies a map about the centre, in px.

    field[u] = (T^-1 - 1) u, u = (x, y) in px from the centre of the image: `affine_field` of T^-1, except that here the
    identity leaves the matrix and not the places, which rounds less and keeps the last bits of what was measured so.

    Args:
        matrix: T, shape ``(2, 2)``.
        H, W: Rows and columns of the images.

    Returns:
        Shape ``(1, 2, H, W)``: dx, dy; float64.

    Raises:
        ValueError: If the matrix is not 2 x 2 and invertible.
    """
    moves = torch.linalg.inv(_checked(matrix)) - torch.eye(2, dtype=torch.float64)
    return (moves @ _places((H, W), moves)).view(1, 2, H, W)


def linear_transform(images: Tensor, matrix: Tensor) -> Tensor:
    """(T f)(x) = f(T^-1 x) for each image or feature map, by bilinear interpolation.

    x in px from the centre of the image, y down; what comes in from outside is the border value (`warp`).

    Args:
        images: Shape ``(N, C, H, W)``, float32 or float64.
        matrix: T, shape ``(2, 2)``, as by `rotation`.

    Raises:
        ValueError: If the matrix is not 2 x 2 and invertible, or ``images`` do not suit `warp`.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), got {tuple(images.shape)}")
    return warp(images, linear_field(matrix, *images.shape[-2:]).to(images))


def _checked(matrix: Tensor) -> Tensor:
    matrix = _real(matrix)
    if matrix.shape != (2, 2) or not 0 < float(torch.linalg.det(matrix).abs()) < math.inf:
        raise ValueError(f"a map must be an invertible 2 x 2 matrix, got {matrix.tolist()}")
    return matrix


def _real(numbers: Tensor | Sequence) -> Tensor:
    if isinstance(numbers, Tensor) and numbers.is_complex():
        raise ValueError(f"maps and their coordinates must be real numbers, got {numbers.dtype}")
    return torch.as_tensor(numbers, dtype=torch.float64)

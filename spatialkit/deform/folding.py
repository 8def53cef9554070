"""Folds of a displacement field: where the map u -> u + field[u] turns cells of the pixel grid over.

A cell is the square between four neighbouring pixels; bilinear interpolation of the field maps it into a
quadrilateral. The Jacobian determinant of that map is linear in each coordinate inside the cell, and so smallest at
one of its corners, where it is the cross product of the two displaced sides that meet there. All four are positive
if and only if the map has a positive determinant in the whole cell; if they are so in all cells and the border is held
in place, as by `Diffeomorphism`, the interpolated map is one to one.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["folded", "jacobian"]

_PIXELS_AT_A_TIME = 2**20  # bounds the memory for Jacobians of many fields


def jacobian(field: Tensor) -> Tensor:
    """Smallest Jacobian determinant of u -> u + field[u] in each cell of the pixel grid.

    Args:
        field: Displacements in px, ``(N, 2, H, W)``: dx, dy.

    Returns:
        No unit, ``(N, H - 1, W - 1)``, of the field's dtype: the least of the determinants at the four corners (see
        the module). 1 without displacement, under 1 where something shrinks, 0 or less where the field folds.

    Raises:
        ValueError: If ``field`` has another shape, under 2 x 2 pixels or no field, or is not floating-point.
    """
    _check(field)
    (xx, yx), (xy, yy) = field.diff(dim=3).unbind(1), field.diff(dim=2).unbind(1)  # how dx, dy change along x; y
    xx, yy = xx + 1, yy + 1

    def corner(side_x: slice, side_y: slice) -> Tensor:
        """Determinant where a horizontal side (upper or lower) meets a vertical one (left or right)."""
        return xx[:, side_x] * yy[:, :, side_y] - yx[:, side_x] * xy[:, :, side_y]

    first, last = slice(None, -1), slice(1, None)
    upper = torch.minimum(corner(first, first), corner(first, last))
    lower = torch.minimum(corner(last, first), corner(last, last))
    return torch.minimum(upper, lower)


@torch.no_grad()
def folded(field: Tensor) -> Tensor:
    """Whether each field folds: whether any cell of it has a Jacobian determinant of 0 or less.

    ``folded(field).double().mean()`` is the share of folded samples, ``(jacobian(field) <= 0).double().mean()`` that
    of folded cells.

    Args:
        field: Displacements in px, ``(N, 2, H, W)``: dx, dy.

    Returns:
        bool, shape ``(N,)``.

    Raises:
        ValueError: As `jacobian`, or if ``field`` is not finite.
    """
    _check(field)
    at_once = max(1, _PIXELS_AT_A_TIME // field[0].numel())
    least = torch.cat([jacobian(part).amin((1, 2)) for part in field.split(at_once)])
    if not least.isfinite().all():
        raise ValueError("field must be finite, but holds nan, inf or values whose products are too large")
    return least <= 0


def _check(field: Tensor) -> None:
    if field.ndim != 4 or field.shape[1] != 2 or len(field) == 0 or min(field.shape[2:]) < 2:
        raise ValueError(f"field must be (N, 2, H, W), N at least 1, H and W at least 2; got {tuple(field.shape)}")
    if not field.is_floating_point():
        raise ValueError(f"field must be floating-point, got {field.dtype}")

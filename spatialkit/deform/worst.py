"""The deformation that a network minds most, among those as large as a given one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spatialkit.deform.diffeomorphism import Diffeomorphism
from spatialkit.deform.splines import ThinPlateSpline
from spatialkit.deform.warping import warp

__all__ = ["worst_field"]


def worst_field(
    response: Callable[[Tensor], Tensor],
    images: Tensor,
    family: ThinPlateSpline | Diffeomorphism,
    start: Tensor,
    *,
    steps: int = 30,
    rate: float = 0.1,
) -> Tensor:
    """Gradient ascent over a family's coefficients, from a given draw, at the mean square displacement of that draw.

    Each image has a field of its own. Adam moves its coefficients; after each step the field is scaled back to the
    root-mean-square displacement of its start. The best field on the way counts, the start included, so the
    response never falls. A local search: it bounds the worst response from below.

    Args:
        response: Warped images -> what to increase, one number each, shape ``(N,)``; differentiable.
        images: N x C x n x n, float.
        family: ``.field(coefficients, n)`` gives the fields.
        start: Coefficients of the first fields, N x 2 x k x k: shifts or normals. A field of zeros stays as it is.
        steps: Steps of the ascent, 0 or more.
        rate: Adam's learning rate, as a share of the root mean square of each start's coefficients.

    Returns:
        Fields, N x 2 x n x n, in px.

    Raises:
        ValueError: If ``start`` has not one entry per image, ``steps`` is negative, or a response is not of shape N.

    References:
        Left open in "Learned Deformation Stability in Convolutional Neural Networks" (2018), section 6.
    """
    if len(start) != len(images):
        raise ValueError(f"start must have one entry per image, {len(images)}; got {len(start)}")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}")
    size = images.shape[-1]
    first = family.field(start.detach(), size)
    length = _root_mean_square(first)
    unit = _root_mean_square(start.detach())
    moves = torch.zeros_like(start, requires_grad=True)  # in units of the start's coefficients
    adam = torch.optim.Adam([moves], lr=rate)
    best, highest = first, torch.full((len(images),), -torch.inf, device=images.device, dtype=images.dtype)
    for step in range(steps + 1):
        with torch.enable_grad():
            field = family.field(start.detach() + unit * moves, size)
            field = field * (length / _root_mean_square(field))
            values = response(warp(images, field))
            if values.shape != (len(images),):
                raise ValueError(
                    f"response must give one number per image, ({len(images)},); got {tuple(values.shape)}"
                )
            if step < steps:
                (moves.grad,) = torch.autograd.grad(-values.sum(), [moves])
        better = values.detach() > highest
        best = torch.where(better[:, None, None, None], field.detach(), best)
        highest = torch.where(better, values.detach(), highest)
        if step < steps:
            adam.step()
    return best


def _root_mean_square(x: Tensor) -> Tensor:
    """Of each entry along the first axis, N x 1 x 1 x 1; a hair above 0, where the root has no slope."""
    return (x.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-30).sqrt()

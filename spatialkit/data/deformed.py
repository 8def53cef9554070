"""A synthetic task whose classes are the deformations of one image each."""

import torch
from torch import Tensor

from spatialkit.deform import ThinPlateSpline, warp

__all__ = ["deformed_classes"]


def deformed_classes(
    images: Tensor, n_per_class: int, max_shift: float, seed: int, grid: int = 3
) -> tuple[Tensor, Tensor]:
    """Deform each image many times; which image it was is the class.

    Args:
        images: One image per class, K x C x n x n, float, square.
        n_per_class: Deformed copies of each.
        max_shift: Strength: largest shift of a control point along each axis, in px.
        seed: Of the deformations; another one gives a test set.
        grid: Control points per side (see `spatialkit.deform.ThinPlateSpline`).

    Returns:
        Images, K * n_per_class x C x n x n, in random order, and their classes.

    Raises:
        ValueError: If images are not square floats, or a number is none of the above.

    References:
        "Learned Deformation Stability in Convolutional Neural Networks" (2018), section 4.3, strengths 1 to 4. The
        source does not say how many control points it uses there, how many classes, nor how many copies.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be K x C x n x n with K at least 1, got {tuple(images.shape)}")
    if n_per_class < 1:
        raise ValueError(f"n_per_class must be at least 1, got {n_per_class}")
    n = len(images) * n_per_class
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    classes = torch.arange(len(images)).repeat_interleave(n_per_class)[order]
    fields = ThinPlateSpline(grid, max_shift).sample(n, images.shape[-1], seed, dtype=images.dtype)
    return warp(images[classes], fields.to(images.device)), classes

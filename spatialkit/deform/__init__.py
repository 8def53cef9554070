"""Displacement fields of two families, their size and their folds, linear maps, and the one warp that applies them.

Convention of the whole package: a field has shape ``(N, 2, H, W)``, in pixels; channel 0 is dx (columns), channel 1
dy (rows). warped[u] = images[u + field[u]], u = (x, y) in px, origin at the centre of the top-left pixel; samples
outside the image take the border value.
"""

from spatialkit.deform.affine import (
    affine_field,
    from_polar,
    linear_field,
    linear_transform,
    mirror,
    rotation,
    scaling,
    shear,
    to_polar,
)
from spatialkit.deform.diffeomorphism import Diffeomorphism, temperature_range
from spatialkit.deform.folding import folded, jacobian
from spatialkit.deform.splines import ThinPlateSpline
from spatialkit.deform.warping import read_at, warp
from spatialkit.deform.worst import worst_field

__all__ = [
    "Diffeomorphism",
    "ThinPlateSpline",
    "affine_field",
    "folded",
    "from_polar",
    "jacobian",
    "linear_field",
    "linear_transform",
    "mirror",
    "read_at",
    "rotation",
    "scaling",
    "shear",
    "temperature_range",
    "to_polar",
    "warp",
    "worst_field",
]

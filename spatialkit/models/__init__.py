"""Networks, one file per family."""

from spatialkit.models.plain import PlainCNN
from spatialkit.models.stn import STN, same_size
from spatialkit.models.transformer import SpatialTransformer, affine_matrix, angle_scale_shift, compose, resample
from spatialkit.models.vgg_style import DOWNSAMPLINGS, VGGStyle

__all__ = [
    "DOWNSAMPLINGS",
    "STN",
    "PlainCNN",
    "SpatialTransformer",
    "VGGStyle",
    "affine_matrix",
    "angle_scale_shift",
    "compose",
    "resample",
    "same_size",
]

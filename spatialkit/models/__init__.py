"""Networks, one file per family."""

from spatialkit.models.continuous import ContinuousCNN, convolve_in_plane
from spatialkit.models.plain import PlainCNN
from spatialkit.models.vgg_style import DOWNSAMPLINGS, VGGStyle

__all__ = ["DOWNSAMPLINGS", "ContinuousCNN", "PlainCNN", "VGGStyle", "convolve_in_plane"]

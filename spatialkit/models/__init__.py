"""Networks, one file per family."""

from spatialkit.models.plain import PlainCNN
from spatialkit.models.vgg_style import DOWNSAMPLINGS, VGGStyle

__all__ = ["DOWNSAMPLINGS", "PlainCNN", "VGGStyle"]

"""Measures of the spatial information that images, feature maps and kernels hold."""

from spatialkit.measure.layers import layer_orderness
from spatialkit.measure.orderness import OrdernessMeter, orderness, orderness_of_each, two_hop_means
from spatialkit.measure.published import central_diagonal_orderness, one_sided_orderness
from spatialkit.measure.watching import watching

__all__ = [
    "OrdernessMeter",
    "central_diagonal_orderness",
    "layer_orderness",
    "one_sided_orderness",
    "orderness",
    "orderness_of_each",
    "two_hop_means",
    "watching",
]

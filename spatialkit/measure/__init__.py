"""Measures of the spatial information that images, feature maps and kernels hold."""

from spatialkit.measure.orderness import OrdernessMeter, orderness, orderness_of_each, two_hop_means

__all__ = ["OrdernessMeter", "orderness", "orderness_of_each", "two_hop_means"]

"""Data: real image sets with checksums, small sets that need no file, block swapping, and synthetic tasks."""

from spatialkit.data.datasets import NAMES, Dataset, available, load, photographs
from spatialkit.data.deformed import deformed_classes
from spatialkit.data.fetch import DataMissing
from spatialkit.data.plane import GaussianSum, plane_points, random_blobs, random_filter
from spatialkit.data.seen import watch
from spatialkit.data.swap import block_swap, pad_to_multiple

__all__ = [
    "NAMES",
    "DataMissing",
    "Dataset",
    "GaussianSum",
    "available",
    "block_swap",
    "deformed_classes",
    "load",
    "pad_to_multiple",
    "photographs",
    "plane_points",
    "random_blobs",
    "random_filter",
    "watch",
]

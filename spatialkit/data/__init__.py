"""Data: real image sets with checksums, small sets that need no file, block swapping, and synthetic tasks."""

from spatialkit.data.datasets import NAMES, Dataset, available, load, photographs
from spatialkit.data.deformed import deformed_classes
from spatialkit.data.fetch import DataMissing
from spatialkit.data.posed import POSE, Poses, add_clutter, in_pose
from spatialkit.data.seen import watch
from spatialkit.data.swap import block_swap, pad_to_multiple

__all__ = [
    "NAMES",
    "POSE",
    "DataMissing",
    "Dataset",
    "Poses",
    "add_clutter",
    "available",
    "block_swap",
    "deformed_classes",
    "in_pose",
    "load",
    "pad_to_multiple",
    "photographs",
    "watch",
]

"""Data: real image sets with checksums, small sets that need no file, block swapping, and synthetic tasks."""

from spatialkit.data.berkeley import BoundaryImages, boundary_images
from spatialkit.data.brodatz import brodatz_textures
from spatialkit.data.datasets import NAMES, Dataset, available, load, photographs
from spatialkit.data.deformed import deformed_classes
from spatialkit.data.fetch import DataMissing
from spatialkit.data.imagenet import imagenet_images
from spatialkit.data.oriented import BlobOutlines, oriented_textures, outline
from spatialkit.data.point_pairs import (
    PointImages,
    ScaleDetection,
    all_pairs,
    move_points,
    scale_detection,
    scale_labels,
    two_points,
)
from spatialkit.data.posed import POSE, Poses, add_clutter, in_pose
from spatialkit.data.sets import TITLES
from spatialkit.data.swap import block_swap, pad_to_multiple

__all__ = [
    "NAMES",
    "POSE",
    "TITLES",
    "BlobOutlines",
    "BoundaryImages",
    "DataMissing",
    "Dataset",
    "PointImages",
    "Poses",
    "ScaleDetection",
    "add_clutter",
    "all_pairs",
    "available",
    "block_swap",
    "boundary_images",
    "brodatz_textures",
    "deformed_classes",
    "imagenet_images",
    "in_pose",
    "load",
    "move_points",
    "oriented_textures",
    "outline",
    "pad_to_multiple",
    "photographs",
    "scale_detection",
    "scale_labels",
    "two_points",
]

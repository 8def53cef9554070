"""Closed forms and continuous models: homogeneous filters, averages over groups, sums of Gaussians in the plane."""

from spatialkit.theory.continuous import ContinuousCNN, convolve_in_plane
from spatialkit.theory.homogeneous import homogeneous_sensitivities, pixel_response, step_moments
from spatialkit.theory.invariance import left_after_averaging
from spatialkit.theory.plane import GaussianSum, plane_points, random_blobs, random_filter

__all__ = [
    "ContinuousCNN",
    "GaussianSum",
    "convolve_in_plane",
    "homogeneous_sensitivities",
    "left_after_averaging",
    "pixel_response",
    "plane_points",
    "random_blobs",
    "random_filter",
    "step_moments",
]

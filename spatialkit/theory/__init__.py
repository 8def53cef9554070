"""Closed forms and continuous models: homogeneous filters, averages over groups, sums of Gaussians in the plane; atoms
of receptive fields, how they turn and scale, and the frames they make."""

from spatialkit.theory.continuous import ContinuousCNN, convolve_in_plane
from spatialkit.theory.frames import (
    error_of_a_loss,
    frame_bounds,
    frame_operator,
    framelets,
    monomials,
    noise_of_reconstruction,
    pixels,
    tensor_orders,
)
from spatialkit.theory.gaussian import derivative_orders, gaussian_atoms, gaussian_derivatives, gaussian_scales
from spatialkit.theory.homogeneous import homogeneous_sensitivities, pixel_response, step_moments
from spatialkit.theory.invariance import left_after_averaging
from spatialkit.theory.plane import GaussianSum, plane_points, random_blobs, random_filter
from spatialkit.theory.steering import best_steering, steer_angle, steer_scale, steering_error, steering_generator

__all__ = [
    "ContinuousCNN",
    "GaussianSum",
    "best_steering",
    "convolve_in_plane",
    "derivative_orders",
    "error_of_a_loss",
    "frame_bounds",
    "frame_operator",
    "framelets",
    "gaussian_atoms",
    "gaussian_derivatives",
    "gaussian_scales",
    "homogeneous_sensitivities",
    "left_after_averaging",
    "monomials",
    "noise_of_reconstruction",
    "pixel_response",
    "pixels",
    "plane_points",
    "random_blobs",
    "random_filter",
    "steer_angle",
    "steer_scale",
    "steering_error",
    "steering_generator",
    "step_moments",
    "tensor_orders",
]

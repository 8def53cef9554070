"""What homogeneous filters make of one active pixel and of noise: exact sums, no training.

A filter of F equal weights 1 / F moves mass like one step of a random walk, uniform over F neighbours. k layers of
stride 1 spread a single pixel into the law h_k of k steps. Its autocorrelation a_k(d) = sum_i h_k(i) h_k(i + d) gives
all sensitivities, because the input is never negative and a ReLU then passes everything on.
"""

import math

import numpy as np
import pandas as pd

__all__ = ["homogeneous_sensitivities", "pixel_response", "step_moments"]


def step_moments(kernel_size: int) -> tuple[float, float]:
    """Mean and variance of one step, uniform on F integers; in px and px^2.

    The integers are -(F - 1) / 2 ... (F - 1) / 2 for odd F and -F / 2 ... F / 2 - 1 for even F. So the mean is 0 or
    -1/2, the variance (F^2 - 1) / 12 for all F, and the diffusion constant half of the variance.

    Raises:
        ValueError: If the filter size is below 1.

    References:
        Tomasini et al. (2023), appendix A, whose Proposition 1 prints other constants (see notebook 09).
    """
    if kernel_size < 1:
        raise ValueError(f"kernel_size must be at least 1, got {kernel_size}")
    return (0.0 if kernel_size % 2 else -0.5), (kernel_size**2 - 1) / 12


def pixel_response(kernel_size: int, depth: int, size: int) -> np.ndarray:
    """What layers 0 ... ``depth`` of stride 1 make of a pixel of value 1, float64, depth + 1 x size.

    The pixel sits in the middle, ``size // 2``, of a ring. Row k is h_k: sums to 1, and has k times the moments of
    `step_moments`.

    Raises:
        ValueError: If a number is below 1 (depth: 0).
    """
    mean, _ = step_moments(kernel_size)
    if size < 1 or depth < 0:
        raise ValueError(f"size must be at least 1 and depth at least 0, got {size} and {depth}")
    first = -(kernel_size // 2)
    rows = [np.eye(1, size, size // 2)[0]]
    for _ in range(depth):
        rows.append(sum(np.roll(rows[-1], first + f) for f in range(kernel_size)) / kernel_size)
    return np.stack(rows)


def homogeneous_sensitivities(kernel_size: int, depth: int, size: int, stride: int = 1) -> pd.DataFrame:
    """Sensitivities of homogeneous ReLU layers for one active pixel, exactly, at finite depth.

    The response to a move by one pixel is eq. 4 of the source, D_k = ||f_k(pixel moved) - f_k(pixel)||^2 /
    ||f_k(pixel)||^2, averaged over places. The responses to noise of variance sigma^2 are eq. 6, E ||f_k(noise)||^2 /
    ||f_k(pixel)||^2 divided by ``size * sigma^2``, for three kinds of noise: ``rectified`` before it enters;
    ``plain``, which the ReLU of layer 1 rectifies; ``linear``, plain noise without any ReLU.

    Args:
        kernel_size: Filter size F.
        depth: Number of layers K.
        size: Length of the ring L; with stride F a multiple of F^K.
        stride: 1 or F.

    Returns:
        One row per layer: ``layer``; ``receptive field``, A_k in px: the standard deviation of the response with
        stride 1, F^k with stride F; ``D``; ``G rectified``, ``G plain``, ``G linear``.

    Raises:
        ValueError: If the stride is neither, or layers do not fit.

    References:
        Tomasini et al. (2023), eqs. 4 to 9; the closed forms at finite depth are ours (derived in notebook 09).
    """
    if kernel_size < 1 or depth < 1 or size < 2:
        raise ValueError(
            f"need kernel_size and depth of at least 1 and size of at least 2, got {kernel_size}, {depth}, {size}"
        )
    if stride == 1:
        return pd.DataFrame(_with_stride_1(kernel_size, depth, size))
    if stride != kernel_size:
        raise ValueError(f"stride must be 1 or kernel_size, {kernel_size}; got {stride}")
    if size % kernel_size**depth:
        raise ValueError(f"{depth} layers of stride {kernel_size} do not fit {size} pixels")
    rows = []
    for k in range(1, depth + 1):
        field = kernel_size**k
        crossing = 1 / field if field < size else 0.0  # a single unit has no border
        plain = kernel_size ** (k - 1) * _MEAN**2 + _VARIANCE
        row = {"layer": k, "receptive field": field, "D": 2 * crossing}
        rows.append(row | {"G rectified": field * _MEAN**2 + _VARIANCE, "G plain": plain, "G linear": 1.0})
    return pd.DataFrame(rows)


_MEAN = 1 / math.sqrt(2 * math.pi)  # of max(0, g) with g ~ N(0, 1)
_VARIANCE = 1 / 2 - 1 / (2 * math.pi)


def _with_stride_1(kernel_size: int, depth: int, size: int) -> list[dict]:
    shapes = pixel_response(kernel_size, depth, size)
    auto = np.array([[h @ np.roll(h, d) for d in range(size)] for h in shapes])  # a_k(d)
    variance = auto[1, 0]  # of plain noise after the first filter
    rectified = variance * _covariance_of_rectified(auto[1] / variance)
    rows = []
    for k in range(1, depth + 1):
        norm = auto[k, 0]
        row = {
            "layer": k,
            "receptive field": math.sqrt(k * step_moments(kernel_size)[1]),
            "D": 2 * (1 - auto[k, 1] / norm),
        }
        row |= {"G rectified": _MEAN**2 / norm + _VARIANCE, "G plain": float(rectified @ auto[k - 1]) / norm}
        rows.append(row | {"G linear": 1.0})
    return rows


def _covariance_of_rectified(rho: np.ndarray) -> np.ndarray:
    """E max(0, g) max(0, g') for normal g, g' of variance 1 and correlation rho (the mean is not taken off)."""
    rho = np.clip(rho, -1, 1)
    return (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi)

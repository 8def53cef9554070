"""How smooth learned kernels are: their total variation, and their energy over spatial frequencies.

A kernel of n = kH kW numbers lives on a grid graph, where each place is joined to its neighbours above, below, left
and right, without wrapping. The eigenvectors of its Laplacian are products of cosines (DCT-II), its eigenvalues::

    lambda = sum over axes of 2 - 2 cos(pi k / side),    k = 0, ..., side - 1

Those of the 3 x 3 grid are 0, 1, 1, 2, 3, 3, 4, 4, 6. Where an eigenvalue repeats, any rotation of its eigenvectors
serves as well, so that only the sum of the squared projections on them is a property of the kernel.

All functions take kernels ``(C_out, C_in, kH, kW)``, and those of one-dimensional networks, ``(C_out, C_in, kW)``.
"""

import math

import pandas as pd
import torch
from torch import Tensor

__all__ = ["frequency_content", "laplacian_spectrum", "total_variation"]


def total_variation(kernel: Tensor) -> float:
    """Normalised total variation of a layer's kernels, the sum of steps over the sum of values::

        TV / ||W||_1 = sum_edges |w[p] - w[q]| / sum_p |w[p]|

    over all pairs of neighbours p, q of all slices: 12 pairs and 9 values for each 3 x 3 slice.

    Args:
        kernel: Shape ``(C_out, C_in, kH, kW)`` or ``(C_out, C_in, kW)``.

    Returns:
        No unit. 0: constant slices. For many independent values of mean 0 it is known: edges / places (12 / 9 for
        3 x 3, 1 for 2 x 2) times sqrt 2 if normal (1.886, 1.414), 4 / 3 if uniform (1.778, 1.333). Kernels of
        different size, or strided 2 x 2 ones beside 3 x 3, so have different baselines. nan if all are 0.

    Raises:
        ValueError: If ``kernel`` has another shape, no neighbours (1 x 1), or is complex or not finite.

    References:
        "Learned Deformation Stability in Convolutional Neural Networks" (2018), section 4.1: one ratio of sums per
        layer. Its footnote 1 gives about 1.87 for random 3 x 3 kernels.
    """
    w = _checked(kernel)
    steps = sum((w.diff(dim=axis).abs().flatten(2).sum(2) for axis in range(2, w.ndim)), start=w.new_zeros(()))
    return float(steps.sum() / w.abs().sum())


def laplacian_spectrum(kernel: Tensor) -> pd.DataFrame:
    """Energy of a layer's kernels in each eigenspace of the grid Laplacian.

    Args:
        kernel: As in `total_variation`.

    Returns:
        One row per distinct eigenvalue, from the constant mode upwards: ``eigenvalue``; ``modes``, how many
        eigenvectors it has; ``energy``, the sum over them of the mean over slices of (eigenvector . slice)^2;
        ``share``, energy over the mean over slices of ||slice||^2 (nan if that is 0). Shares sum to 1; those of white
        noise are modes / places.

    Raises:
        ValueError: As `total_variation`.

    References:
        Tomasini et al. (2023), eq. 3 (energy) and eq. B.1 (share), both per eigenvector there.
    """
    w = _checked(kernel)
    for _ in range(2, w.ndim):
        w = torch.tensordot(w, _cosines(w.shape[2]), dims=([2], [1]))  # the next axis comes first, the new one last
    table = pd.DataFrame(
        {"eigenvalue": _eigenvalues(w.shape[2:]).flatten().numpy(), "energy": (w**2).mean((0, 1)).flatten().numpy()}
    )
    same = table["eigenvalue"].round(9).rename("same")
    spectrum = table.groupby(same).agg(
        eigenvalue=("eigenvalue", "mean"), modes=("eigenvalue", "size"), energy=("energy", "sum")
    )
    return spectrum.reset_index(drop=True).assign(share=lambda rows: rows["energy"] / rows["energy"].sum())


def frequency_content(kernel: Tensor) -> float:
    """Mean eigenvalue of the grid Laplacian, weighted by a layer's energy, over its mean for white noise::

        n / sum_l lambda_l * sum_l lambda_l E (psi_l . w)^2 / E ||w||^2

    with E the mean over slices and n places per slice. The second sum is that of (w[p] - w[q])^2 over all pairs of
    neighbours, which is how it is computed.

    Args:
        kernel: As in `total_variation`.

    Returns:
        No unit. 0: constant slices; 1: as white noise; at most 2.25 for 3 x 3; nan if all are 0.

    Raises:
        ValueError: As `total_variation`.

    References:
        Tomasini et al. (2023), caption of fig. C5, whose upper limit N of sum_i lambda_l we read as F^2.
    """
    w = _checked(kernel)
    squares = sum(w.diff(dim=axis).square().sum() for axis in range(2, w.ndim))
    white = float(_eigenvalues(w.shape[2:]).mean())
    return float(squares / w.square().sum()) / white


def _cosines(side: int) -> Tensor:
    """Orthonormal eigenvectors of a path's Laplacian, one per row, by frequency; float64, ``(side, side)``."""
    k, x = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)
    modes = torch.cos(math.pi * k * (x + 0.5) / side)
    return modes / torch.linalg.vector_norm(modes, dim=1, keepdim=True)


def _eigenvalues(sides: tuple[int, ...]) -> Tensor:
    """Eigenvalue of each product of cosines, float64, shape ``sides``."""
    paths = [2 - 2 * torch.cos(math.pi * torch.arange(side, dtype=torch.float64) / side) for side in sides]
    return sum(torch.meshgrid(*paths, indexing="ij"), start=torch.zeros((), dtype=torch.float64))


def _checked(kernel: Tensor) -> Tensor:
    if kernel.ndim not in (3, 4) or kernel.numel() == 0 or kernel.is_complex():
        raise ValueError(
            "kernel must be real, of shape (C_out, C_in, kH, kW) or (C_out, C_in, kW) with no side 0; "
            f"got {kernel.dtype} of shape {tuple(kernel.shape)}"
        )
    if math.prod(kernel.shape[2:]) == 1:
        raise ValueError("a kernel of one place has no neighbours and no frequencies: leave 1 x 1 kernels out")
    if not kernel.isfinite().all():
        raise ValueError("kernel holds nan or inf")
    return kernel.detach().to("cpu", torch.float64)

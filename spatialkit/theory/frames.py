"""Sets of atoms on a window: their frame bounds there and as undecimated convolutions, and what noise and losses do.

Atoms are ``(K, size, ..., size)``, float64, with the axes of `spatialkit.theory.gaussian`. Beside the sets here,
`gaussian_derivatives` makes Gaussian ones; the "first nine" of them are
``gaussian_atoms(derivative_orders(3)[:9], sigma, 3)``, the tensor set ``gaussian_atoms(tensor_orders(2), sigma, 3)``.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

__all__ = [
    "error_of_a_loss",
    "frame_bounds",
    "frame_operator",
    "framelets",
    "monomials",
    "noise_of_reconstruction",
    "pixels",
    "tensor_orders",
]

_NONE = 1e-12  # of the largest eigenvalue: below, a direction is left out and the rest is rounding


def tensor_orders(highest: int) -> list[tuple[int, int]]:
    """(p, q) with both exponents up to ``highest``, by p + q and then x first; 9 for 2.

    Raises:
        ValueError: If ``highest`` is negative.
    """
    if highest < 0:
        raise ValueError(f"highest must be at least 0, got {highest}")
    return sorted(product(range(highest + 1), range(highest + 1)), key=lambda o: (sum(o), -o[0]))


def pixels(size: int) -> Tensor:
    """One atom per pixel, 1 there and 0 elsewhere: the basis of an ordinary convolution; row by row."""
    return torch.eye(size * size, dtype=torch.float64).view(-1, size, size)


def framelets() -> Tensor:
    """Nine 3 x 3 atoms, outer products of (1, 2, 1) / 4, (1, 0, -1) sqrt 2 / 4 and (-1, 2, -1) / 4.

    The squares of the three spectra add up to 1 at every frequency: as undecimated convolutions they keep norms. On
    a single window they are a basis, neither orthogonal nor tight.

    References:
        Jacobsen's thesis, section 4.3, names framelets without their masks; these are the usual ones, of piecewise
        linear splines.
    """
    root = math.sqrt(2)
    masks = torch.tensor([[1, 2, 1], [root, 0, -root], [-1, 2, -1]], dtype=torch.float64) / 4
    return torch.einsum("py,qx->pqyx", masks, masks).flatten(0, 1)


def monomials(powers: Sequence[tuple[int, int]], size: int) -> Tensor:
    """Atoms x^p y^q, with x and y from -1 to 1 across the window: the naive set.

    Args:
        powers: (p, q) of every atom; the tensor set of nine is ``tensor_orders(2)``, the one that stays itself under
            rotations ``derivative_orders(n)``.
        size: Side of the window, px, odd, 3 or more.

    Raises:
        ValueError: If there is no power, one is negative, or the size is even or below 3.
    """
    if not powers or min(m for o in powers for m in o) < 0:
        raise ValueError(f"powers must be pairs of counts, at least one; got {list(powers)}")
    if size < 3 or size % 2 == 0:
        raise ValueError(f"size must be odd and at least 3, got {size}")
    x = (torch.arange(size, dtype=torch.float64) - size // 2) / (size // 2)
    return torch.stack([torch.outer(x**q, x**p) for p, q in powers])


def frame_operator(atoms: Tensor) -> Tensor:
    """S = sum of atom atom' over one window, with x' S x = sum <x, atom>^2: how strongly each direction is measured.

    Its trace is the sum of the squared norms of the atoms. A step of gradient descent on the coefficients of a kernel
    is one on the kernel, times S.

    Args:
        atoms: ``(K, size, ..., size)``, or K vectors ``(K, P)``.

    Returns:
        Shape ``(P, P)`` for P pixels, float64.

    Raises:
        ValueError: If ``atoms`` has no window.
    """
    flat = _checked(atoms).flatten(1)
    return flat.T @ flat


def frame_bounds(atoms: Tensor, side: int | None = None) -> tuple[float, float]:
    """A and B of A |x|^2 <= sum |<x, atom>|^2 <= B |x|^2, the smallest and largest eigenvalue of the frame operator.

    Args:
        atoms: ``(K, size, ..., size)``.
        side: None for x on one window, where the sum runs over the atoms. A number for periodic images of this many px
            a side, where it runs over the atoms at every pixel (an undecimated convolution); the operator is then
            diagonal in frequency, with the sum of the squared spectra.

    Returns:
        A and B; A is 0 if the atoms leave out a direction (no frame), up to rounding of 1e-12 of B. The frame is tight
        if they are equal, and keeps norms if both are 1.

    Raises:
        ValueError: If ``atoms`` has no window, or the images are smaller than it.

    References:
        Jacobsen's thesis, eq. 7, which says of tight frames what holds for A = B = 1.
    """
    atoms = _checked(atoms)
    if side is None:
        values = atoms.new_zeros(atoms[0].numel())
        singular = torch.linalg.svdvals(atoms.flatten(1)).square()  # fewer than pixels: the others are 0
        values[: len(singular)] = singular
    else:
        if side < max(atoms.shape[1:]):
            raise ValueError(f"images of {side} px must hold the window of {tuple(atoms.shape[1:])} px")
        axes = list(range(1, atoms.ndim))
        values = torch.fft.fftn(atoms, s=[side] * len(axes), dim=axes).abs().square().sum(0)
    low, high = float(values.min()), float(values.max())
    return (low if low > _NONE * high else 0.0), high


def noise_of_reconstruction(atoms: Tensor) -> float:
    """Mean square error of a window restored from coefficients with independent noise of variance 1: trace of S^-1.

    Restored by S^-1 sum c_k atom_k, which no other unbiased linear reconstruction beats. A basis of P orthonormal atoms
    gives P; P^2 over the trace of S is the least that a set can give, and tight frames do.

    Args:
        atoms: ``(K, size, ..., size)``, or K vectors ``(K, P)``.

    Returns:
        The sum over all pixels; nan if the atoms are no frame, so that nothing restores all windows.

    Raises:
        ValueError: If ``atoms`` has no window.
    """
    values = torch.linalg.eigvalsh(frame_operator(atoms))
    return float((1 / values).sum()) if _spans(values) else math.nan


def error_of_a_loss(atoms: Tensor) -> float:
    """Mean square error of a random kernel when one of its coefficients is set to 0, over the kernel's mean square::

        sum_k |atom_k|^2 |S^-1 atom_k|^2 / (K P)

    The coefficients are those of least norm, <S^-1 kernel, atom_k>; kernels are white, and all coefficients are equally
    likely to be lost. An orthonormal basis of P atoms gives 1 / P.

    Args:
        atoms: ``(K, size, ..., size)``, or K vectors ``(K, P)``.

    Returns:
        No unit; nan if the atoms are no frame, so that some kernels have no coefficients.

    Raises:
        ValueError: If ``atoms`` has no window.
    """
    S, flat = frame_operator(atoms), _checked(atoms).flatten(1)
    if not _spans(torch.linalg.eigvalsh(S)):
        return math.nan
    duals = torch.linalg.solve(S, flat.T).T  # (K, P)
    return float((flat.square().sum(1) * duals.square().sum(1)).mean() / flat.shape[1])


def _spans(eigenvalues: Tensor) -> bool:
    return bool(eigenvalues.min() > _NONE * eigenvalues.max())


def _checked(atoms: Tensor) -> Tensor:
    if atoms.ndim < 2 or not atoms.numel():
        raise ValueError(f"atoms must be (K, size, ..., size), got {tuple(atoms.shape)}")
    return atoms.double()

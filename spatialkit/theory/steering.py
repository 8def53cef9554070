"""Steering: what a linear map of the plane does to the derivatives of a Gaussian, as a matrix on the atoms.

(T f)(u) = f(T^-1 u) with u = (x, y), x to the right and y down; turns are counter-clockwise as seen, as in
`spatialkit.deform`. Atoms are sigma^m d^m G in the order of `derivative_orders`, on the whole plane, in units of sigma.
A steering matrix F holds, row by row, the moved atoms in terms of the atoms: T atom_i = sum_j F_ij atom_j, so that the
kernel W atoms, moved, is (W F) atoms. What the atoms answer to a moved image is moved back: Phi(T x) = F(T^-1) Phi(x),
for maps of determinant 1.

As printed, eq. 22 of the thesis is a turn by +theta here, where y runs down, and by -theta where y runs up.
"""

import math

import torch
from torch import Tensor

from spatialkit.theory.gaussian import derivative_orders, hermite

__all__ = ["best_steering", "steer_angle", "steer_scale", "steering_error", "steering_generator"]

_TURN = ((0.0, 1.0), (-1.0, 0.0))  # d/d(angle) of a turn, per radian
_STEP, _REACH = 0.25, 9.0  # of the grid that stands for the plane, in sigma: sums equal integrals to rounding


def steering_generator(order: int, direction: Tensor) -> Tensor:
    """B, with (d/dt) atom(exp(-t A) u) = B atoms at t = 0: the moved atoms are exp(t B) atoms where these suffice.

    The derivative is -(A u) . grad atom; it is sampled on the plane and solved for the atoms, which hold it exactly.

    Args:
        order: Highest total order of the atoms to be moved.
        direction: A, ``(2, 2)``: ((0, 1), (-1, 0)) turns, in radians; the unit matrix scales, in logarithms.

    Returns:
        Shape ``(K, K')``, float64: K atoms up to ``order``, K' up to ``order + 2``. For turns all columns past K are 0:
        the atoms up to any order stay among themselves. Scaling sends order m to m + 2, and no finite set suffices.

    Raises:
        ValueError: If the order is negative or the direction no finite 2 x 2 matrix.
    """
    A = _checked(direction)
    orders, index = derivative_orders(order), {o: i for i, o in enumerate(derivative_orders(order + 2))}
    u = _plane(1.0)
    atoms = _atoms(order + 2, u)
    flow = u @ A.T  # (P, 2): A u
    d_x = torch.stack([atoms[index[dx + 1, dy]] for dx, dy in orders])
    d_y = torch.stack([atoms[index[dx, dy + 1]] for dx, dy in orders])
    return _solve(atoms, -(flow[:, 0] * d_x + flow[:, 1] * d_y))


def steer_angle(order: int, degrees: float) -> Tensor:
    """F of a turn, counter-clockwise as seen, exact: the exponential of the generator.

    Args:
        order: Highest total order of the atoms.
        degrees: The angle.

    Returns:
        Shape ``(K, K)``, float64. Sampled atoms are turned as exactly as continuous ones:
        ``steer_angle(m, a) @ gaussian_derivatives(m, ...).flatten(1)`` are the turned functions at the pixels.

    Raises:
        ValueError: If the order is negative or the angle not finite.
    """
    if not math.isfinite(degrees):
        raise ValueError(f"degrees must be finite, got {degrees}")
    B = steering_generator(order, torch.tensor(_TURN))
    return torch.linalg.matrix_exp(math.radians(degrees % 360) * B[:, : len(B)])


def steer_scale(order: int, factor: float, extra: int = 0, *, brightness: bool = True) -> Tensor:
    """F of an enlargement by ``factor``: the best that atoms up to ``order + extra`` can do, in L2 over the plane.

    Not exact: `steering_error` says by how much. The enlarged atom f(u / s) is s^2 times the atom of width s sigma.

    Args:
        order: Highest total order of the atoms to be moved.
        factor: s, above 0.
        extra: Orders of atoms to be used beyond those that are moved.
        brightness: Whether derivatives may have a share of the Gaussian itself. Without it the error on the plane is a
            little larger, and a constant image still gets no answer; photographs are mostly constant.

    Returns:
        Shape ``(K, K')``, float64.

    Raises:
        ValueError: If a count is negative or the factor not above 0 and finite.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be above 0 and finite, got {factor}")
    return best_steering(order, factor * torch.eye(2), extra, brightness=brightness)


def best_steering(order: int, matrix: Tensor, extra: int = 0, *, brightness: bool = True) -> Tensor:
    """F of any linear map T, ``(2, 2)``, by least squares over the plane on the atoms up to ``order + extra``.

    ``brightness`` as for `steer_scale`.

    Raises:
        ValueError: If a count is negative, or the map is not finite, invertible and 2 x 2.
    """
    if extra < 0:
        raise ValueError(f"extra must be at least 0, got {extra}")
    u, moved = _moved(order, matrix)
    atoms = _atoms(order + extra, u)
    F = _solve(atoms, moved)
    if not brightness and order > 0:
        F[1:, 0], F[1:, 1:] = 0, _solve(atoms[1:], moved[1:])
    return F


def steering_error(steering: Tensor, order: int, matrix: Tensor) -> Tensor:
    """What a steering matrix leaves, by total order: root of sum |F atoms - T atoms|^2 / sum |T atoms|^2 on the plane.

    Args:
        steering: F, ``(K, K')``; K atoms up to ``order``, K' up to any order.
        order: Highest total order of the atoms moved.
        matrix: T, ``(2, 2)``.

    Returns:
        Shape ``(order + 1,)``, no unit, float64: over all atoms of order 0, of order 1, ...

    Raises:
        ValueError: If the shape of F fits no set of atoms, or T is not finite, invertible and 2 x 2.
    """
    u, moved = _moved(order, matrix)
    used = next((m for m in range(order, order + 21) if len(derivative_orders(m)) == steering.shape[-1]), None)
    if used is None or len(steering) != len(moved):
        raise ValueError(f"no set of atoms of order {order} and above has the shape {tuple(steering.shape)}")
    left = (steering @ _atoms(used, u) - moved).square().sum(1)
    total = torch.tensor([sum(o) for o in derivative_orders(order)])
    by_order = lambda values: torch.zeros(order + 1, dtype=torch.float64).index_add_(0, total, values)  # noqa: E731
    return (by_order(left) / by_order(moved.square().sum(1))).sqrt()


def _moved(order: int, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the plane, wide enough for both, and the atoms moved, seen there."""
    T = _checked(matrix)
    if torch.linalg.det(T) == 0:
        raise ValueError(f"the map must be invertible, got {T.tolist()}")
    u = _plane(max(1.0, float(torch.linalg.matrix_norm(T, 2))))
    return u, _atoms(order, u @ torch.linalg.inv(T).T)


def _atoms(order: int, u: Tensor) -> Tensor:
    """Derivatives of the Gaussian of width 1 at points ``(P, 2)``; shape (K, P)."""
    signed = (-1.0) ** torch.arange(order + 1, dtype=torch.float64)[:, None]
    x, y = (signed * hermite(order, t) * torch.exp(-t.square() / 2) for t in u.unbind(1))
    return torch.stack([x[dx] * y[dy] for dx, dy in derivative_orders(order)])


def _plane(reach: float) -> Tensor:
    along = torch.arange(-_REACH * reach, _REACH * reach + _STEP, _STEP, dtype=torch.float64)
    return torch.cartesian_prod(along, along)


def _solve(atoms: Tensor, functions: Tensor) -> Tensor:
    """The functions, (n, P), as combinations of atoms, (K, P), by least squares; shape (n, K)."""
    Q, R = torch.linalg.qr(atoms.T)
    return torch.linalg.solve_triangular(R, Q.T @ functions.T, upper=True).T


def _checked(matrix: Tensor) -> Tensor:
    if matrix.shape != (2, 2) or not matrix.isfinite().all():
        raise ValueError(f"need a finite 2 x 2 matrix, got {matrix.tolist()}")
    return matrix.double()

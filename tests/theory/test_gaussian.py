"""Gaussian derivatives: explicit formulas, other libraries, derivatives taken another way, and laws of scale."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, special

from spatialkit.theory import derivative_orders, gaussian_atoms, gaussian_derivatives, gaussian_scales
from spatialkit.theory.gaussian import RELEASED_ORDERS, hermite

EXPLICIT = [  # sigma^m times the m-th derivative of a Gaussian, over the Gaussian; t = x / sigma
    lambda t: torch.ones_like(t),
    lambda t: -t,
    lambda t: t**2 - 1,
    lambda t: -(t**3 - 3 * t),
    lambda t: t**4 - 6 * t**2 + 3,
]


def window(sigma, size):
    x = torch.arange(size, dtype=torch.float64) - size // 2
    g = torch.exp(-(x**2) / (2 * sigma**2))
    return x, g / g.sum()


@pytest.mark.parametrize(("sigma", "size"), [(0.7, 5), (1.5, 11), (4.0, 7)])
def test_atoms_are_products_of_the_explicit_derivatives(sigma, size):
    x, g = window(sigma, size)
    atoms = gaussian_derivatives(4, sigma, size)
    assert atoms.dtype == torch.float64
    for atom, (dx, dy) in zip(atoms, derivative_orders(4), strict=True):
        rows, columns = EXPLICIT[dy](x / sigma) * g, EXPLICIT[dx](x / sigma) * g
        assert (atom - rows[:, None] * columns).abs().max() < 1e-14


def test_polynomials_are_scipys():
    t = torch.linspace(-6, 6, 41, dtype=torch.float64)
    for m, row in enumerate(hermite(9, t)):
        np.testing.assert_allclose(row, special.eval_hermitenorm(m, t.numpy()), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("order", range(6))
def test_profiles_are_scipys_filters(order):
    # gaussian_filter1d answers to an impulse with its kernel, the derivative of a Gaussian of sum 1 on the same window.
    sigma, size = 1.3, 13
    impulse = np.zeros(size)
    impulse[size // 2] = 1.0
    kernel = ndimage.gaussian_filter1d(impulse, sigma, order=order, mode="constant", radius=size // 2)
    ours = gaussian_atoms([(order,)], sigma, size)[0]
    np.testing.assert_allclose(ours, sigma**order * kernel, atol=1e-10)


def test_derivatives_are_those_that_autograd_takes():
    sigma, size = 1.2, 9
    x, g = window(sigma, size)
    mass = float(torch.exp(-(x**2) / (2 * sigma**2)).sum())
    y = x.clone().requires_grad_()
    value = torch.exp(-(y**2) / (2 * sigma**2)) / mass
    for order in range(5):
        ours = gaussian_atoms([(order,)], sigma, size)[0]
        assert (ours - sigma**order * value).abs().max() < 1e-10
        (value,) = torch.autograd.grad(value.sum(), y, create_graph=True)


def test_the_printed_equation_20_is_off_by_the_root_of_two_sigma_per_order():
    # (-1)^m sigma^(-m/2) H_m(x / (sigma sqrt 2)) G, as printed, against the derivative; H_m of the physicists.
    for sigma, ratios in ((1.0, (1.41, 2, 2.83, 4)), (2.0, (2, 4, 8, 16))):
        x, g = window(sigma, 7)
        for m, ratio in enumerate(ratios, start=1):
            hermite_h = torch.from_numpy(special.eval_hermite(m, (x / (sigma * math.sqrt(2))).numpy()))
            printed = (-1) ** m * sigma ** (-m / 2) * hermite_h * g
            derivative = gaussian_atoms([(m,)], sigma, 7)[0] / sigma**m
            assert (printed - (2 * sigma) ** (m / 2) * derivative).abs().max() < 1e-10
            assert (2 * sigma) ** (m / 2) == pytest.approx(ratio, abs=0.005)
            assert (derivative - (-1 / (sigma * math.sqrt(2))) ** m * hermite_h * g).abs().max() < 1e-12


def test_x_is_the_last_axis_and_y_runs_down():
    orders = derivative_orders(1)
    assert orders == [(0, 0), (1, 0), (0, 1)]
    _, x, y = gaussian_derivatives(1, 1.0, 5)
    assert torch.equal(y, x.T)
    assert (x[:, 0] > 0).all() and (x[:, -1] < 0).all()  # a Gaussian rises up to the middle and falls after it
    _, x, y, z = gaussian_derivatives(1, 1.0, 5, dims=3)
    torch.testing.assert_close(z, x.permute(2, 1, 0), atol=1e-15, rtol=0)
    torch.testing.assert_close(y, x.permute(0, 2, 1), atol=1e-15, rtol=0)


def test_correlation_gives_the_derivative_times_minus_one_to_the_order():
    sigma, size = 1.0, 13
    x = torch.arange(size, dtype=torch.float64) - size // 2
    ramp = (3 * x).expand(size, size)  # image = 3 x: derivative 3 along x, 0 along y
    answers = (gaussian_derivatives(1, sigma, size) * ramp).sum((1, 2))
    torch.testing.assert_close(answers, torch.tensor([0.0, -3 * sigma, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_order_0_has_sum_1_on_any_window_and_atoms_keep_their_size():
    for size in (3, 7, 15):
        assert float(gaussian_derivatives(0, 2.0, size).sum()) == pytest.approx(1, abs=1e-14)
    norms = gaussian_derivatives(3, 1.5, 11).flatten(1).norm(dim=1)  # as measured on the released code
    expected = {(0, 0): 0.188, (1, 0): 0.133, (2, 0): 0.163, (1, 1): 0.094, (3, 0): 0.258, (2, 1): 0.115}
    found = dict(zip(derivative_orders(3), norms.tolist(), strict=True))
    assert {o: round(found[o], 3) for o in expected} == expected
    assert gaussian_derivatives(3, 1.5, 11, unit_norm=True).flatten(1).norm(dim=1) == pytest.approx(1, abs=1e-14)


def test_counts_of_atoms_are_the_sources():
    assert [len(derivative_orders(m)) for m in range(1, 5)] == [3, 6, 10, 15]
    assert [len(derivative_orders(m, 3)) for m in range(4)] == [1, 4, 10, 20]
    assert sorted(RELEASED_ORDERS) == sorted(derivative_orders(4))
    scales = ((1, 2, 4, 8), (1, 2, 4), (1, 2), (1,))
    totals = [sum(len(gaussian_scales(m, s, 5)) for s in scales) for m in range(1, 5)]
    assert totals == [24, 54, 94, 144]


def test_several_scales_keep_one_smoothing_kernel():
    atoms = gaussian_scales(1, (1.0, 2.0), 9)
    assert torch.equal(atoms[:3], gaussian_derivatives(1, 1.0, 9))
    assert torch.equal(atoms[3:], gaussian_derivatives(1, 2.0, 9)[1:])


@settings(max_examples=25, deadline=None)
@given(j=st.floats(1.0, 2.5), n=st.floats(1.0, 2.5), order=st.integers(0, 4))
def test_smoothing_makes_a_derivative_wider(j, n, order):
    # G_m(sqrt(j^2 + n^2)) = G_m(j) * G(n), eq. 21; aliasing is largest at sigma = 1 and order 4.
    wide = math.hypot(j, n)
    fine, smooth = (gaussian_atoms([(m,)], s, 61)[0].numpy() for m, s in ((order, j), (0, n)))
    both = np.convolve(fine / j**order, smooth, mode="same")
    direct = gaussian_atoms([(order,)], wide, 61)[0].numpy() / wide**order
    assert np.abs(both - direct).max() < 2e-3 * np.abs(direct).max()


@settings(max_examples=25, deadline=None)
@given(sigma=st.floats(0.3, 6.0), half=st.integers(1, 8), order=st.integers(0, 4))
def test_mirroring_the_window_changes_the_sign_of_odd_orders(sigma, half, order):
    atoms = gaussian_derivatives(order, sigma, 2 * half + 1)
    for atom, (dx, dy) in zip(atoms, derivative_orders(order), strict=True):
        torch.testing.assert_close(atom.flip(1), (-1) ** dx * atom, atol=1e-13, rtol=0)
        torch.testing.assert_close(atom.flip(0), (-1) ** dy * atom, atol=1e-13, rtol=0)


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="order must be at least 0"):
        gaussian_derivatives(-1, 1.0, 5)
    with pytest.raises(ValueError, match="dims 1, 2 or 3"):
        gaussian_derivatives(1, 1.0, 5, dims=4)
    with pytest.raises(ValueError, match="sigma must be finite"):
        gaussian_derivatives(1, 0.0, 5)
    with pytest.raises(ValueError, match="sigma must be finite"):
        gaussian_derivatives(1, math.nan, 5)
    with pytest.raises(ValueError, match="size must be odd"):
        gaussian_derivatives(1, 1.0, 4)
    with pytest.raises(ValueError, match="one length"):
        gaussian_atoms([(1, 0), (1,)], 1.0, 5)
    with pytest.raises(ValueError, match="one length"):
        gaussian_atoms([], 1.0, 5)
    with pytest.raises(ValueError, match="at least one scale"):
        gaussian_scales(1, (), 5)
    with pytest.raises(ValueError, match="take a larger size"):
        gaussian_derivatives(1, 1.0, 1, unit_norm=True)

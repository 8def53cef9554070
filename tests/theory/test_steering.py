"""Steering matrices against closed forms, against functions sampled after the map, and as a group."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialkit.deform import rotation, scaling, shear
from spatialkit.theory import (
    best_steering,
    derivative_orders,
    gaussian_derivatives,
    steer_angle,
    steer_scale,
    steering_error,
    steering_generator,
)

SCALE = torch.eye(2)


def binomial_rotation(order, degrees):
    """d/dx' and d/dy' along the turned axes, multiplied out; x' = (cos, -sin), y' = (sin, cos), y down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    orders = derivative_orders(order)
    F = torch.zeros(len(orders), len(orders), dtype=torch.float64)
    for i, (a, b) in enumerate(orders):
        for p, q in itertools.product(range(a + 1), range(b + 1)):  # p of a, q of b derivatives fall on y, x
            weight = math.comb(a, p) * cos ** (a - p) * (-sin) ** p * math.comb(b, q) * sin**q * cos ** (b - q)
            F[i, orders.index((a - p + q, b - q + p))] += weight
    return F


@pytest.mark.parametrize("degrees", [0.0, 17.0, 90.0, -120.0, 359.0, 1000.0])
def test_turns_are_the_binomial_formula(degrees):
    torch.testing.assert_close(steer_angle(4, degrees), binomial_rotation(4, degrees), atol=1e-10, rtol=0)


def test_equation_22_is_a_turn_by_plus_theta_with_y_down():
    theta = 0.4
    c, s = math.cos(theta), math.sin(theta)
    F, orders = steer_angle(3, math.degrees(theta)), derivative_orders(3)
    printed = {
        (2, 0): {(2, 0): c**2, (1, 1): -2 * c * s, (0, 2): s**2},
        (3, 0): {(3, 0): c**3, (2, 1): -3 * c**2 * s, (1, 2): 3 * c * s**2, (0, 3): -(s**3)},
    }
    for atom, weights in printed.items():
        row = {o: float(F[orders.index(atom), j]) for j, o in enumerate(orders)}
        assert row == pytest.approx({o: weights.get(o, 0.0) for o in orders}, abs=1e-10)


def test_a_quarter_turn_turns_the_window():
    atoms = gaussian_derivatives(4, 1.3, 9)
    turned = (steer_angle(4, 90) @ atoms.flatten(1)).view_as(atoms)
    torch.testing.assert_close(turned, torch.rot90(atoms, 1, (1, 2)), atol=1e-10, rtol=0)


@settings(max_examples=20, deadline=None)
@given(degrees=st.floats(-400, 400), order=st.integers(0, 4))
def test_turned_atoms_are_the_turned_functions_at_the_pixels(degrees, order):
    sigma, size = 1.4, 7
    along = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(along, along, indexing="ij")
    back = torch.linalg.inv(rotation(degrees))
    u, v = (back[i, 0] * x + back[i, 1] * y for i in range(2))  # T^-1 (x, y)
    d = [lambda t: t * 0 + 1, lambda t: -t, lambda t: t**2 - 1, lambda t: 3 * t - t**3, lambda t: t**4 - 6 * t**2 + 3]
    g = gaussian_derivatives(0, sigma, size)[0]  # isotropic: the same after any turn
    moved = torch.stack([d[a](u / sigma) * d[b](v / sigma) * g for a, b in derivative_orders(order)])
    atoms = gaussian_derivatives(order, sigma, size)
    steered = (steer_angle(order, degrees) @ atoms.flatten(1)).view_as(atoms)
    torch.testing.assert_close(steered, moved, atol=1e-10, rtol=0)


@settings(max_examples=20, deadline=None)
@given(a=st.floats(-180, 180), b=st.floats(-180, 180))
def test_turns_are_a_group(a, b):
    torch.testing.assert_close(steer_angle(3, a) @ steer_angle(3, b), steer_angle(3, a + b), atol=1e-10, rtol=0)


def test_weights_of_a_kernel_steer_the_kernel_and_responses_the_other_way():
    # Eq. 25: <kernel turned, image> = <kernel, image turned back>, here by a quarter turn of the pixels.
    generator = torch.Generator().manual_seed(0)
    atoms = gaussian_derivatives(3, 1.0, 7).flatten(1)
    W = torch.randn(len(atoms), dtype=torch.float64, generator=generator)
    image = torch.randn(7, 7, dtype=torch.float64, generator=generator)
    responses = lambda x: atoms @ x.flatten()  # noqa: E731
    assert float(W @ steer_angle(3, 90) @ responses(image)) == pytest.approx(
        float(W @ responses(torch.rot90(image, -1))), abs=1e-10
    )


def test_the_generator_of_scale_is_the_heat_equation():
    # d/dlog s of f(u / s) for f = d^(a, b) G: (a + b + 2) f + d^(a + 2, b) G + d^(a, b + 2) G.
    orders, wide = derivative_orders(4), derivative_orders(6)
    expected = torch.zeros(len(orders), len(wide), dtype=torch.float64)
    for i, (a, b) in enumerate(orders):
        expected[i, i] = a + b + 2
        expected[i, wide.index((a + 2, b))] = expected[i, wide.index((a, b + 2))] = 1
    torch.testing.assert_close(steering_generator(4, SCALE), expected, atol=1e-10, rtol=0)


def test_turns_stay_among_the_atoms_and_scalings_do_not():
    turn, scale = (steering_generator(3, a) for a in (torch.tensor([[0.0, 1], [-1, 0]]), SCALE))
    assert turn[:, 10:].abs().max() < 1e-10
    assert scale[:, 10:].abs().max() > 0.5


def test_least_squares_find_the_exact_turn():
    torch.testing.assert_close(best_steering(4, rotation(33)), steer_angle(4, 33), atol=1e-10, rtol=0)
    assert steering_error(steer_angle(4, 33), 4, rotation(33)).max() < 1e-10


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_scaling_by_a_tenth_leaves_an_eighth_and_two_more_orders_a_fiftieth(factor):
    for order in range(1, 5):
        error = steering_error(steer_scale(order, factor), order, scaling(factor))
        assert 0.11 < error[order] < 0.175  # the highest order has nothing above it
        error = steering_error(steer_scale(order, factor, extra=2), order, scaling(factor))
        assert 0.015 < error[order] < 0.035


def test_errors_of_scaling_fall_with_extra_orders_and_beat_the_truncated_series():
    factor, order = 1.1, 3
    errors = [steering_error(steer_scale(order, factor, e), order, scaling(factor)).max() for e in (0, 2, 4, 6)]
    assert all(b < a / 3 for a, b in itertools.pairwise(errors))
    series = torch.linalg.matrix_exp(math.log(factor) * steering_generator(order + 2, SCALE)[:, :21])[:10]
    by_series = steering_error(series, order, scaling(factor))
    assert (steering_error(steer_scale(order, factor, 2), order, scaling(factor)) <= by_series + 1e-12).all()


def test_no_scaling_is_the_identity_and_wider_atoms_are_the_enlarged_ones():
    torch.testing.assert_close(steer_scale(2, 1.0), torch.eye(6, dtype=torch.float64), atol=1e-10, rtol=0)
    s, sigma, size = 1.2, 2.0, 31
    F = steer_scale(2, s, extra=8)
    atoms, wide = gaussian_derivatives(10, sigma, size), gaussian_derivatives(2, s * sigma, size)
    steered = (F @ atoms.flatten(1)).view(-1, size, size) / s**2
    assert (steered - wide).abs().max() < 2e-3 * wide.abs().max()


@pytest.mark.parametrize("factor", [0.8, 1.1])
def test_without_brightness_a_constant_image_gets_no_answer_from_derivatives(factor):
    order, extra = 3, 2
    free, apart = (steer_scale(order, factor, extra, brightness=wanted) for wanted in (True, False))
    means = gaussian_derivatives(order + extra, 3.0, 61).sum((1, 2))  # 1 for the Gaussian, 0 for derivatives
    assert (free @ means)[1:].abs().max() > 1e-3
    assert (apart @ means)[1:].abs().max() < 1e-10
    torch.testing.assert_close(apart[0], free[0], atol=0, rtol=0)
    errors = [steering_error(F, order, scaling(factor)) for F in (free, apart)]
    assert (errors[0] <= errors[1] + 1e-12).all() and (errors[1] < 1.3 * errors[0]).all()


def test_without_brightness_turns_stay_exact():
    torch.testing.assert_close(best_steering(3, rotation(33), brightness=False), steer_angle(3, 33), atol=1e-10, rtol=0)
    assert steer_scale(0, 1.1, brightness=False).shape == (1, 1)


def test_shears_are_never_exact():
    assert steering_error(best_steering(3, shear(0.1)), 3, shear(0.1)).min() > 1e-4


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="degrees must be finite"):
        steer_angle(2, math.inf)
    with pytest.raises(ValueError, match="factor must be above 0"):
        steer_scale(2, 0.0)
    with pytest.raises(ValueError, match="extra must be"):
        steer_scale(2, 1.1, -1)
    with pytest.raises(ValueError, match="must be invertible"):
        best_steering(2, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="finite 2 x 2"):
        steering_generator(2, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="no set of atoms"):
        steering_error(torch.zeros(6, 7), 2, rotation(1))
    with pytest.raises(ValueError, match="order must be at least 0"):
        steer_angle(-1, 1.0)

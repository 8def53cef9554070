"""Frame bounds by other means, and the facts about 3 x 3 windows."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialkit.theory import (
    derivative_orders,
    error_of_a_loss,
    frame_bounds,
    frame_operator,
    framelets,
    gaussian_atoms,
    gaussian_derivatives,
    monomials,
    noise_of_reconstruction,
    pixels,
    tensor_orders,
)
from spatialkit.theory.gaussian import RELEASED_ORDERS


def circular_matrix(atoms, side):
    """All atoms at all pixels of a periodic image, as rows; the slow way."""
    rows = []
    for atom, dy, dx in itertools.product(atoms, range(side), range(side)):
        image = torch.zeros(side, side, dtype=torch.float64)
        image[: atom.shape[0], : atom.shape[1]] = atom
        rows.append(image.roll((dy, dx), (0, 1)).flatten())
    return torch.stack(rows)


@pytest.mark.parametrize(
    "atoms",
    [
        pytest.param(framelets(), id="framelets"),
        pytest.param(gaussian_derivatives(2, 1.0, 5), id="gaussian"),
        pytest.param(monomials(tensor_orders(2), 3), id="monomials"),
    ],
)
def test_bounds_are_extreme_eigenvalues_of_the_frame_operator(atoms):
    window = torch.linalg.eigvalsh(atoms.flatten(1).T @ atoms.flatten(1))
    assert frame_bounds(atoms) == pytest.approx((max(float(window[0]), 0), float(window[-1])), abs=1e-12)
    rows = circular_matrix(atoms, 6)
    images = torch.linalg.eigvalsh(rows.T @ rows)
    assert frame_bounds(atoms, side=6) == pytest.approx((float(images[0]), float(images[-1])), abs=1e-10)


def test_framelets_are_tight_only_as_an_undecimated_convolution():
    for side in (3, 8, 33):
        assert frame_bounds(framelets(), side) == pytest.approx((1, 1), abs=1e-14)
    assert frame_bounds(framelets()) == pytest.approx((1 / 16, 1 / 4), abs=1e-15)  # squares of 1/4 and 1/2, by hand


def test_pixels_are_an_orthonormal_basis_of_a_window_and_tight_with_9_beyond():
    assert frame_bounds(pixels(3)) == pytest.approx((1, 1), abs=1e-14)
    assert frame_bounds(pixels(3), 16) == pytest.approx((9, 9), abs=1e-13)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_the_first_nine_gaussians_are_no_frame_of_a_3_x_3_window_and_the_tensor_set_is(sigma):
    # xxx is proportional to x on three points, and yyy to y.
    rank = lambda atoms: int(torch.linalg.matrix_rank(atoms.flatten(1)))  # noqa: E731
    ours = gaussian_atoms(derivative_orders(3)[:9], sigma, 3)
    released = gaussian_atoms(RELEASED_ORDERS[:9], sigma, 3)
    tensor = gaussian_atoms(tensor_orders(2), sigma, 3)
    assert (rank(ours), rank(released), rank(tensor)) == (8, 7, 9)
    assert frame_bounds(ours)[0] == frame_bounds(released)[0] == 0
    assert frame_bounds(tensor)[0] > 0


def test_the_naive_set_spans_a_window_and_is_far_from_tight():
    A, B = frame_bounds(monomials(tensor_orders(2), 3))
    assert 0 < A < 0.1 * B


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), which=st.sampled_from(["framelets", "gaussian", "naive"]))
def test_energies_of_coefficients_lie_between_the_bounds(seed, which):
    tables = {
        "framelets": framelets(),
        "gaussian": gaussian_derivatives(2, 1.0, 3),
        "naive": monomials(tensor_orders(2), 3),
    }
    atoms, image = tables[which], torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    A, B = frame_bounds(atoms, 7)
    padded = torch.nn.functional.pad(image[None, None], (1, 1, 1, 1), mode="circular")
    energy = torch.nn.functional.conv2d(padded, atoms[:, None]).square().sum() / image.square().sum()
    assert A - 1e-12 <= float(energy) <= B + 1e-12
    window = image[:3, :3]
    A, B = frame_bounds(atoms)
    energy = (atoms * window).sum((1, 2)).square().sum() / window.square().sum()
    assert A - 1e-12 <= float(energy) <= B + 1e-12


def triangle():
    """Three unit vectors at 120 degrees: the tight frame of the plane with one vector too many."""
    angles = torch.deg2rad(torch.tensor([90.0, 210.0, 330.0], dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_three_vectors_at_120_degrees():
    # S = 3/2: tight, and the energy of the coefficients is 3/2 of that of the vector, not 1.
    torch.testing.assert_close(frame_operator(triangle()), 1.5 * torch.eye(2).double(), atol=1e-14, rtol=0)
    assert frame_bounds(triangle()) == pytest.approx((1.5, 1.5), abs=1e-14)
    assert noise_of_reconstruction(triangle()) == pytest.approx(4 / 3, abs=1e-14)  # 2 / A; a basis: 2
    assert error_of_a_loss(triangle()) == pytest.approx(2 / 9, abs=1e-14)  # a basis: 1 / 2


SPANNING = {
    "framelets": framelets(),
    "naive": monomials(tensor_orders(2), 3),
    "fifteen": gaussian_derivatives(4, 0.7, 3),
}


@pytest.mark.parametrize("name", SPANNING)
def test_noise_and_losses_are_what_a_simulation_finds(name):
    atoms = SPANNING[name].flatten(1)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    restore = torch.linalg.pinv(atoms)  # (P, K)
    errors = (restore @ draw(len(atoms), 20_000)).square().sum(0)
    assert noise_of_reconstruction(atoms) == pytest.approx(float(errors.mean()), rel=0.05)
    kernels = draw(9, 20_000)
    coefficients = restore.T @ kernels  # of least norm: atoms' restore.T = 1
    torch.testing.assert_close(atoms.T @ coefficients, kernels, atol=1e-10, rtol=0)
    lost = torch.randint(len(atoms), (20_000,), generator=generator)
    wrong = coefficients.gather(0, lost[None])[0, :, None] * atoms[lost]
    assert error_of_a_loss(atoms) == pytest.approx(float(wrong.square().sum(1).mean() / 9), rel=0.1)


def test_no_set_has_less_noise_than_a_tight_frame_of_its_energy():
    for atoms in SPANNING.values():
        S = frame_operator(atoms)
        assert noise_of_reconstruction(atoms) > 81 / float(S.trace())
        tight = torch.linalg.qr(torch.randn(len(atoms), 9, dtype=torch.float64))[0] * (S.trace() / 9).sqrt()
        assert noise_of_reconstruction(tight) == pytest.approx(81 / float(S.trace()), rel=1e-12)


def test_without_a_frame_noise_and_losses_are_not_defined():
    first = gaussian_atoms(derivative_orders(3)[:9], 0.7, 3)
    assert math.isnan(noise_of_reconstruction(first)) and math.isnan(error_of_a_loss(first))


def test_a_step_on_coefficients_is_a_step_on_the_kernel_times_the_frame_operator():
    atoms = gaussian_derivatives(4, 0.7, 3).flatten(1)
    c, target = torch.linspace(-1, 1, 15, dtype=torch.float64).requires_grad_(), torch.arange(9.0).double()
    kernel = c @ atoms
    (kernel.sin() * target).sum().backward()
    downhill = (kernel.detach().cos() * target) @ frame_operator(atoms)
    torch.testing.assert_close(c.grad @ atoms, downhill, atol=1e-12, rtol=0)


def test_three_dimensions():
    atoms = gaussian_derivatives(1, 1.0, 3, dims=3)
    assert frame_bounds(atoms)[0] == 0  # 4 atoms, 27 pixels
    assert frame_bounds(atoms, 5)[1] == pytest.approx(1, abs=1e-12)  # at frequency 0: the smoothing kernel, sum 1


def test_orders_and_powers_are_x_first():
    assert tensor_orders(1) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    _, x, y, xy = monomials(tensor_orders(1), 3)
    assert x[0].tolist() == [-1, 0, 1] and y[:, 0].tolist() == [-1, 0, 1]
    assert torch.equal(xy, x * y)


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="at least 0"):
        tensor_orders(-1)
    with pytest.raises(ValueError, match="odd and at least 3"):
        monomials([(0, 0)], 4)
    with pytest.raises(ValueError, match="at least one"):
        monomials([], 3)
    for function in (frame_bounds, frame_operator, noise_of_reconstruction, error_of_a_loss):
        with pytest.raises(ValueError, match="atoms must be"):
            function(torch.zeros(3))
    with pytest.raises(ValueError, match="must hold the window"):
        frame_bounds(framelets(), 2)

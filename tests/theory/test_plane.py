import math

import pytest
import torch
from scipy import signal

from spatialkit.deform import rotation, shear
from spatialkit.theory.plane import GaussianSum, plane_points, random_blobs, random_filter

SIZE, PIXEL = 121, 0.03  # a square of side 3.6, outside which all is below rounding


@pytest.fixture(scope="module")
def blobs():
    return random_blobs(2, 3, blobs=4)


@pytest.fixture(scope="module")
def kernel():
    return random_filter(5)


def test_points_run_row_by_row_with_y_down():
    assert plane_points(2, 1.0).tolist() == [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]


def test_values_are_the_sum_of_the_formula(blobs):
    point = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    for n in range(2):
        total = 0.0
        for a, m, S in zip(blobs.amplitude[n], blobs.mean[n], blobs.covariance[n], strict=True):
            away = point[0] - m
            total += float(a) * math.exp(-0.5 * float(away @ torch.linalg.inv(S) @ away))
        assert float(blobs.at(point)[n, 0]) == pytest.approx(total, abs=1e-12)


def test_shared_gaussians_give_the_same_as_separate_ones(blobs):
    a = torch.randn(3, 4, dtype=torch.float64)
    shared = GaussianSum(a, blobs.mean[0], blobs.covariance[0])
    separate = GaussianSum(a, blobs.mean[:1].expand(3, -1, -1), blobs.covariance[:1].expand(3, -1, -1, -1))
    assert torch.allclose(shared.pixels(7, 0.1), separate.pixels(7, 0.1), atol=1e-14)
    assert shared.shape == separate.shape == (3,)


def test_transformed_is_read_at_the_inverse(blobs):
    T = rotation(20) @ shear(0.7)
    points = plane_points(9, 0.1)
    assert torch.allclose(blobs.transformed(T).at(points), blobs.at(points @ torch.linalg.inv(T).T), atol=1e-12)


def test_several_maps_make_a_leading_axis(kernel):
    maps = torch.stack([rotation(20), shear(0.7)])
    both = kernel.transformed(maps).pixels(9, 0.1)
    assert torch.allclose(both, torch.stack([kernel.transformed(T).pixels(9, 0.1) for T in maps]), atol=1e-14)


def test_convolution_agrees_with_a_sum_over_pixels(blobs, kernel):
    # Sums over pixels of smooth functions converge faster than any power of the pixel.
    exact = blobs.convolved(kernel).pixels(SIZE, PIXEL)
    k = kernel.pixels(SIZE, PIXEL).numpy() * PIXEL**2
    for n, image in enumerate(blobs.pixels(SIZE, PIXEL).numpy()):
        assert torch.allclose(exact[n], torch.from_numpy(signal.fftconvolve(image, k, mode="same")), atol=2e-4)


def test_inner_products_and_norms_agree_with_sums_over_pixels(blobs, kernel):
    x, k = blobs.pixels(SIZE, PIXEL), kernel.pixels(SIZE, PIXEL)
    assert torch.allclose(blobs.inner(kernel), (x * k).sum((-2, -1)) * PIXEL**2, atol=1e-4)
    assert torch.allclose(blobs.norm(), (x.square().sum((-2, -1)) * PIXEL**2).sqrt(), rtol=1e-3)


def test_random_filter_has_norm_one_and_no_symmetry(kernel):
    assert float(kernel.norm()) == pytest.approx(1, abs=1e-12)
    turned = kernel.transformed(rotation(90))
    assert abs(float(kernel.inner(turned))) < 0.9


def test_average_over_a_group_is_invariant(kernel):
    group = [rotation(72 * k) for k in range(5)]
    symmetric = kernel.averaged(group)
    difference = symmetric.plus(symmetric.transformed(rotation(72)).times(-1))
    assert float(difference.norm()) < 1e-7  # the square root of rounding
    points = plane_points(9, 0.05)
    assert torch.allclose(symmetric.at(points), symmetric.transformed(rotation(-72)).at(points), atol=1e-12)


def test_same_seed_same_functions():
    assert torch.equal(random_blobs(3, 7).mean, random_blobs(3, 7).mean)
    assert not torch.equal(random_blobs(3, 7).mean, random_blobs(3, 8).mean)


def test_blobs_stay_in_their_disc_and_widths():
    many = random_blobs(50, 0, reach=0.4, widths=(0.05, 0.1))
    assert float(many.mean.norm(dim=-1).max()) <= 0.4
    widths = torch.linalg.eigvalsh(many.covariance).sqrt()
    assert float(widths.min()) >= 0.05 - 1e-9 and float(widths.max()) <= 0.1 + 1e-9


def test_rejects_what_does_not_fit(blobs, kernel):
    with pytest.raises(ValueError, match="need"):
        GaussianSum(blobs.amplitude, blobs.mean[:, :2], blobs.covariance)
    with pytest.raises(ValueError, match="same leading axes"):
        blobs.plus(kernel)
    with pytest.raises(ValueError, match="at least one map"):
        kernel.averaged([])
    with pytest.raises(ValueError, match="width difference must be above 0"):
        random_blobs(1, 0, widths=(0.2, 0.1))

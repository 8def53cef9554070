import numpy as np
import pytest
import torch

from spatialkit.measure import central_diagonal_orderness, one_sided_orderness


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noisy_ramps(*shape):
    """A slope of 1.3 per row under noise of variance 9: off the border (18 + 2.6^2) / (18 + 1.3^2) - 1 = 0.26."""
    return 3 * noise(*shape) + 1.3 * torch.arange(shape[-2])[:, None]


def slow_one_sided_orderness(images, fixed):
    below = (2, 0) if fixed else (0, 2)
    values = []
    for image in images.flatten(0, 1).numpy():
        H, W = image.shape
        near = [
            (image[y, x] - image[y + dy, x + dx]) ** 2
            for y in range(H - 1)
            for x in range(W - 1)
            for dy, dx in ((0, 1), (1, 0), (1, 1))
        ]
        far = [
            (image[y, x] - image[y + dy, x + dx]) ** 2
            for y in range(H - 2)
            for x in range(W - 2)
            for dy, dx in ((0, 2), below, (2, 2))
        ]
        values.append((np.mean(far) + 1e-8) / (np.mean(near) + 1e-8) - 1)
    return np.mean(values)


def exact_central_diagonal_orderness(images):
    """What the estimator tends to with many draws: the mean over the central third and all signs."""
    H, W = images.shape[-2:]
    sums = [0.0, 0.0]
    for y in range(H // 3, 2 * (H // 3)):
        for x in range(W // 3, 2 * (W // 3)):
            for sign_y, sign_x in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                for hops in (1, 2):
                    other = images[..., (y + hops * sign_y) % H, (x + hops * sign_x) % W]
                    sums[hops - 1] += float((images[..., y, x] - other).square().mean())
    return np.clip(sums[1] / sums[0], 1, 2) - 1


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("size", [(3, 3), (5, 6), (8, 7)])
def test_one_sided_matches_loops(fixed, size):
    images = noise(3, 2, *size).cumsum(-1)
    expected = slow_one_sided_orderness(images, fixed)
    assert one_sided_orderness(images, fixed=fixed) == pytest.approx(expected, rel=1e-12)


def test_one_sided_doubles_the_horizontal_term_unless_fixed():
    stripes = torch.arange(9.0)[:, None].expand(1, 1, 9, 9)  # changes along columns only
    assert one_sided_orderness(stripes) == pytest.approx(4 / 2 - 1)
    assert one_sided_orderness(stripes, fixed=True) == pytest.approx(8 / 2 - 1)


def test_one_sided_is_0_for_constant_images():
    assert one_sided_orderness(torch.full((2, 1, 6, 6), 0.1), scale=2) == 0


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (9, 8)])
def test_central_diagonal_tends_to_the_mean_over_its_draws(size):
    images = noisy_ramps(20_000, 1, *size)
    expected = exact_central_diagonal_orderness(images)
    assert 0.2 < expected < 0.8  # not clipped
    assert central_diagonal_orderness(images) == pytest.approx(expected, abs=0.08)  # 4 sd of the draw


def test_central_diagonal_is_clipped():
    ramp = torch.arange(12.0).expand(50, 1, 12, 12)
    assert central_diagonal_orderness(ramp) == 1
    stripes = (torch.arange(12) % 2).expand(50, 1, 12, 12)
    assert central_diagonal_orderness(stripes) == 0


def test_central_diagonal_has_no_value_for_constant_images():
    assert np.isnan(central_diagonal_orderness(torch.full((5, 1, 12, 12), 0.1), scale=3))


def test_central_diagonal_depends_on_its_seed_alone():
    images = noisy_ramps(200, 3, 12, 12)
    torch.manual_seed(0)
    first = central_diagonal_orderness(images, seed=3)
    torch.manual_seed(1)
    assert central_diagonal_orderness(images, seed=3) == first
    assert central_diagonal_orderness(images, seed=4) != first


@pytest.mark.parametrize("estimator", [central_diagonal_orderness, one_sided_orderness])
def test_averages_blocks_first(estimator):
    images = noise(20, 2, 15, 16).cumsum(-1)
    blocks = images[..., :16].reshape(20, 2, 5, 3, 16)[..., :15].reshape(20, 2, 5, 3, 5, 3).mean((3, 5))
    assert estimator(images, 3) == pytest.approx(estimator(blocks, 1), rel=1e-10)


@pytest.mark.parametrize("estimator", [central_diagonal_orderness, one_sided_orderness])
def test_takes_arrays_of_integers(estimator):
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 12, 12), np.uint8)
    assert estimator(images) == estimator(images.astype(float))


@pytest.mark.parametrize("estimator", [central_diagonal_orderness, one_sided_orderness])
def test_refuses_what_orderness_refuses(estimator):
    with pytest.raises(ValueError, match="leave 2 x 2 at scale 4; need 3 x 3"):
        estimator(torch.zeros(1, 1, 8, 8), scale=4)
    for value in (torch.nan, torch.inf):
        images = noise(9, 1, 12, 12).cumsum(-1)
        images[3, 0, 5, 5] = value
        with pytest.raises(ValueError, match="nan or inf"):
            estimator(images)


def test_central_diagonal_refuses_3_pixels_a_side():
    with pytest.raises(ValueError, match="3 x 4 pixels left at scale 2; this estimator needs 4 x 4"):
        central_diagonal_orderness(torch.zeros(1, 1, 6, 8), scale=2)

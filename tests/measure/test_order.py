from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spatialkit.measure import orderness, orderness_of_each, two_hop_means
from spatialkit.measure.layers import PathSums

every_neighbourhood = pytest.mark.parametrize("neighbours", ["straight", "4", "8"])


def slow_two_hop_means(image, neighbours):
    """Far and near mean square of one (H, W) image, by trying all triples of its pixels."""
    pixels = list(np.ndindex(image.shape))

    def city_block(p, q):
        return abs(p[0] - q[0]) + abs(p[1] - q[1])

    def chebyshev(p, q):
        return max(abs(p[0] - q[0]), abs(p[1] - q[1]))

    is_path = {
        "straight": lambda p, q, r: (r[0] - q[0], r[1] - q[1]) == (q[0] - p[0], q[1] - p[1]),
        "4": lambda p, q, r: city_block(q, r) == 1 and r != p,
        "8": lambda p, q, r: chebyshev(q, r) == 1 and chebyshev(p, r) == 2,
    }[neighbours]
    distance = chebyshev if neighbours == "8" else city_block
    edges = [(p, q) for p, q in product(pixels, pixels) if distance(p, q) == 1]
    paths = [(p, q, r) for (p, q), r in product(edges, pixels) if is_path(p, q, r)]
    far = [(image[p] - image[r]) ** 2 for p, _, r in paths]
    near = [(image[p] - image[q]) ** 2 for p, q, _ in paths]
    return np.mean(far), np.mean(near)


def maps_with_covariance(root_y, root_x):
    """As many maps as pixels, whose second moments are exactly those of (root_y, root_x); (H * W, 1, H, W).

    Their covariance is the sum over maps of the outer product with themselves, so that expectations
    of squared differences have no sampling error.
    """
    H, W = len(root_y), len(root_x)
    return torch.einsum("yi,xj->ijyx", root_y, root_x).reshape(H * W, 1, H, W)


def exponential_root(rho, size):
    lag = torch.arange(size, dtype=torch.float64)
    return torch.linalg.cholesky(rho ** (lag[:, None] - lag).abs())


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- oracles -------------------------------------------------------------------------------------


@every_neighbourhood
@pytest.mark.parametrize("size", [(3, 3), (3, 4), (5, 3), (4, 6), (7, 5)])
def test_matches_a_loop_over_all_triples(neighbours, size):
    images = noise(2, 2, *size)
    far, near = two_hop_means(images, neighbours=neighbours)
    for n, c in np.ndindex(2, 2):
        slow_far, slow_near = slow_two_hop_means(images[n, c].numpy(), neighbours)
        assert far[n, c].item() == pytest.approx(slow_far, rel=1e-12)
        assert near[n, c].item() == pytest.approx(slow_near, rel=1e-12)


@pytest.mark.parametrize("neighbours", ["straight", "4"])
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_is_rho_for_exponential_city_block_correlation(neighbours, rho, size):
    # E(p - q)^2 = 2 (1 - rho); straight or diagonal, r is 2 steps away: E(p - r)^2 = 2 (1 - rho^2).
    maps = maps_with_covariance(*(exponential_root(rho, side) for side in size))
    assert orderness(maps, neighbours=neighbours) == pytest.approx(rho, rel=1e-10)


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_mixes_distances_as_8_neighbours_do(rho, size):
    H, W = size
    # Paths by displacement of r, each counted in both directions. (0, 2) has 3 middles, 2 in the first and last row.
    n_02 = 2 * (W - 2) * (3 * H - 2) + 2 * (H - 2) * (3 * W - 2)
    n_12 = 8 * (H - 1) * (W - 2) + 8 * (H - 2) * (W - 1)  # two middles, one of them a side neighbour of p
    n_22 = 4 * (H - 2) * (W - 2)
    n_side_first = 2 * (W - 2) * H + 2 * (H - 2) * W + n_12 / 2
    n_corner_first = n_02 + n_12 + n_22 - n_side_first
    far = n_02 * (1 - rho**2) + n_12 * (1 - rho**3) + n_22 * (1 - rho**4)
    near = n_side_first * (1 - rho) + n_corner_first * (1 - rho**2)
    maps = maps_with_covariance(*(exponential_root(rho, side) for side in size))
    assert orderness(maps, neighbours="8") == pytest.approx(far / near - 1, rel=1e-10)


@every_neighbourhood
def test_is_0_without_order(neighbours):
    white = maps_with_covariance(torch.eye(5), torch.eye(6))
    assert orderness(white, neighbours=neighbours) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("neighbours", ["straight", "4"])
def test_is_1_for_a_random_walk_along_rows_and_columns(neighbours):
    # x[i, j] = a[i] + b[j] with walks a and b: E(x[p] - x[q])^2 is the city-block distance.
    walk = torch.ones(6, 6, dtype=torch.float64).tril()
    across = walk.T[:, None, None, :].expand(6, 1, 6, 6)
    walks = torch.cat([across, across.mT])
    assert orderness(walks, neighbours=neighbours) == pytest.approx(1, rel=1e-12)


def test_is_3_for_a_ramp_along_straight_paths():
    ramp = 2.0 * torch.arange(7)[:, None] - 5.0 * torch.arange(6)
    assert orderness(ramp[None, None], neighbours="straight") == 3


def test_tends_to_five_thirds_for_a_large_ramp_with_4_neighbours():
    # Inside, 4 of 12 paths run along or against the ramp's axis and 8 go round a corner.
    ramp = torch.arange(2000.0).expand(1, 1, 300, 2000)
    assert orderness(ramp) == pytest.approx(5 / 3, abs=0.01)  # the first and last row take part as 1/150


@pytest.mark.parametrize("neighbours", ["straight", "4"])
def test_is_minus_1_for_a_checkerboard(neighbours):
    board = torch.arange(5)[:, None] + torch.arange(6)
    assert orderness((board % 2)[None, None], neighbours=neighbours) == -1


def test_is_unmoved_by_an_offset_per_image():
    # The source's example: a(image) + noise is correlated but has no order.
    maps = maps_with_covariance(torch.eye(5), torch.eye(5))
    assert orderness(maps + noise(25, 1, 1, 1)) == pytest.approx(0, abs=1e-12)


# --- scales --------------------------------------------------------------------------------------


@every_neighbourhood
@pytest.mark.parametrize(("size", "scale"), [((9, 12), 3), ((11, 8), 2), ((13, 14), 4)])
def test_averages_blocks_from_the_top_left(neighbours, size, scale):
    images = noise(2, 3, *size)
    H, W = size[0] // scale, size[1] // scale
    blocks = images[..., : H * scale, : W * scale].reshape(2, 3, H, scale, W, scale).mean((3, 5))
    assert orderness(images, scale, neighbours) == pytest.approx(orderness(blocks, 1, neighbours), rel=1e-10)


@every_neighbourhood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 2, 3, 5, 7])
def test_has_no_value_for_constant_images(neighbours, dtype, scale):
    images = torch.full((2, 3, 31, 25), 0.1, dtype=dtype)
    assert np.isnan(orderness(images, scale, neighbours))


# --- pooling -------------------------------------------------------------------------------------


@every_neighbourhood
def test_pools_what_it_is_asked_to(neighbours):
    images = noise(4, 3, 6, 5).cumsum(-1) * torch.tensor([1.0, 5.0, 25.0])[:, None, None]
    each = {of: orderness_of_each(images, of, 1, neighbours) for of in ("image", "map", "slice")}
    for n, c in np.ndindex(4, 3):
        assert each["image"][n].item() == pytest.approx(orderness(images[n : n + 1], 1, neighbours))
        assert each["map"][c].item() == pytest.approx(orderness(images[:, c : c + 1], 1, neighbours))
        one = images[n : n + 1, c : c + 1]
        assert each["slice"][n, c].item() == pytest.approx(orderness(one, 1, neighbours))
    assert [tuple(values.shape) for values in each.values()] == [(4,), (3,), (4, 3)]


def test_has_no_value_for_a_dead_map_only():
    images = noise(4, 3, 6, 5)
    images[:, 1] = 0
    assert orderness_of_each(images, "map").isnan().tolist() == [False, True, False]


def test_means_can_be_bootstrapped_over_images():
    images = noise(6, 2, 5, 7).cumsum(-1)
    chosen = torch.tensor([3, 3, 0, 5, 1, 3])
    far, near = two_hop_means(images)
    assert float(far[chosen].mean() / near[chosen].mean() - 1) == pytest.approx(orderness(images[chosen]))


@every_neighbourhood
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_meter_agrees_with_all_images_at_once(neighbours, batch):
    images = noise(7, 3, 8, 9).cumsum(-1)
    meter = PathSums(scale=2, neighbours=neighbours)
    for part in images.split(batch):
        meter.update(part)
    torch.testing.assert_close(meter.per_map(), orderness_of_each(images, "map", 2, neighbours))


def test_does_not_depend_on_how_the_images_are_cut(monkeypatch):
    images = (100 * noise(11, 3, 9, 8)).to(torch.uint8)
    whole = torch.stack(two_hop_means(images, 2))
    monkeypatch.setattr(import_module("spatialkit.measure.order"), "_PIXELS_AT_A_TIME", 400)  # 5 maps
    torch.testing.assert_close(torch.stack(two_hop_means(images, 2)), whole, rtol=1e-6, atol=0)


# --- symmetries ----------------------------------------------------------------------------------

small_images = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(3, 6), st.integers(3, 7)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-100, 100).map(float))
)
neighbourhoods = st.sampled_from(["straight", "4", "8"])
gains = st.integers(-9, 9).filter(bool)


@settings(deadline=None, max_examples=50)
@given(small_images, neighbourhoods, gains, st.integers(-1000, 1000))
def test_ignores_gain_and_offset(images, neighbours, gain, offset):
    expected = pytest.approx(orderness(images, 1, neighbours), rel=1e-12, abs=1e-12, nan_ok=True)
    assert orderness(gain * images + offset, 1, neighbours) == expected


@settings(deadline=None, max_examples=50)
@given(small_images, neighbourhoods, st.integers(0, 3), st.booleans(), st.randoms(use_true_random=False))
def test_ignores_turns_flips_and_the_order_of_images(images, neighbours, turns, flip, random):
    order = random.sample(range(len(images)), len(images))
    turned = np.rot90(images[order], turns, (-2, -1))
    turned = turned[..., ::-1] if flip else turned
    expected = pytest.approx(orderness(images, 1, neighbours), rel=1e-12, abs=1e-12, nan_ok=True)
    assert orderness(turned, 1, neighbours) == expected


@settings(deadline=None, max_examples=100)
@given(small_images, neighbourhoods)
def test_stays_between_minus_1_and_3(images, neighbours):
    # Both steps have the same mean square a, and |E(p - r)^2| <= (sqrt a + sqrt a)^2.
    values = orderness_of_each(images, "slice", 1, neighbours)
    constant = torch.from_numpy(np.ptp(images, axis=(-2, -1)) == 0)
    assert (values.isnan() == constant).all()
    assert ((values >= -1 - 1e-12) & (values <= 3 + 1e-12) | constant).all()


# --- kinds of input ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_count_as_floats(dtype):
    images = (noise(3, 2, 8, 7) > 0).double() * 255
    as_floats = images.bool().double() if dtype == torch.bool else images
    # uint8 and int16 are summed in float32, whose rounding is relative to the ratio, so + 1.
    assert orderness(images.to(dtype)) + 1 == pytest.approx(orderness(as_floats) + 1, rel=1e-6)


def test_large_integers_do_not_overflow():
    ramp = 2**50 * torch.arange(5).expand(1, 1, 4, 5)
    assert orderness(ramp, neighbours="straight") == 3


@every_neighbourhood
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("size", [(32, 32), (300, 201)])
def test_narrow_types_are_summed_closely(neighbours, dtype, size):
    images = (10 * noise(2, 1, *size) + 128).to(dtype)
    narrow = torch.stack(two_hop_means(images, 1, neighbours))
    exact = torch.stack(two_hop_means(images.double(), 1, neighbours))
    # Squares of few-bit values lie on a lattice, where the rounding errors of a sum can agree in sign.
    torch.testing.assert_close(narrow, exact, rtol=1e-6 if dtype == torch.float32 else 1e-5, atol=0)


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(lambda x: x.numpy(), id="array"),
        pytest.param(lambda x: np.broadcast_to(x.numpy(), x.shape), id="read-only"),
        pytest.param(lambda x: x.numpy().copy(order="F"), id="column-major"),
        pytest.param(lambda x: x.contiguous(memory_format=torch.channels_last), id="channels-last"),
        pytest.param(lambda x: x.clone().requires_grad_(), id="with-gradient"),
    ],
)
def test_takes_arrays_and_tensors_of_any_layout(same):
    images = noise(3, 2, 6, 7).cumsum(-1)
    assert orderness(same(images), 2) == orderness(images, 2)
    assert not two_hop_means(same(images))[0].requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_neighbourhood
def test_a_gpu_agrees_with_the_cpu(neighbours):
    images = noise(5, 3, 12, 13).cumsum(-1).float()
    far, near = two_hop_means(images.cuda(), 2, neighbours)
    assert far.is_cuda
    torch.testing.assert_close(
        (far / near).cpu() - 1, orderness_of_each(images, "slice", 2, neighbours), rtol=1e-5, atol=1e-5
    )


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(5, 6, 7), r"of shape \(N, C, H, W\).* got torch.float32 of shape \(5, 6, 7\)"),
        (np.zeros((5, 6)), r"of shape \(N, C, H, W\).* got torch.float64 of shape \(5, 6\)"),
        (torch.zeros(0, 1, 6, 7), r"no side 0; got .* \(0, 1, 6, 7\)"),
        (torch.zeros(1, 1, 6, 7, dtype=torch.complex64), "must be real.* got torch.complex64"),
    ],
)
def test_refuses_what_is_no_set_of_images(images, message):
    with pytest.raises(ValueError, match=message):
        orderness(images)


@pytest.mark.parametrize(("size", "scale", "left"), [((2, 9), 1, "2 x 9"), ((9, 8), 3, "3 x 2"), ((9, 8), 10, "0 x 0")])
def test_refuses_images_too_small_for_the_scale(size, scale, left):
    with pytest.raises(ValueError, match=f"leave {left} at scale {scale}; need 3 x 3"):
        orderness(torch.zeros(1, 1, *size), scale)


@pytest.mark.parametrize("scale", [0, -1, 1.5, 2.0, "2"])
def test_refuses_a_scale_that_is_no_number_of_pixels(scale):
    with pytest.raises(ValueError, match="whole number of pixels, at least 1; got "):
        orderness(torch.zeros(1, 1, 9, 9), scale)


@pytest.mark.parametrize("neighbours", [4, "6", None])
def test_refuses_unknown_neighbours(neighbours):
    with pytest.raises(ValueError, match="one of straight, 4, 8; got "):
        orderness(torch.zeros(1, 1, 9, 9), 1, neighbours)


@pytest.mark.filterwarnings("error")
@every_neighbourhood
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("place", [(0, 0), (5, 3), (6, 6)])
def test_refuses_values_it_cannot_square(neighbours, bad, place):
    images = torch.zeros(3, 1, 7, 7)
    images[1, 0][place] = bad
    with pytest.raises(ValueError, match="nan or inf, or differences whose squares are too large for"):
        orderness(images, 1, neighbours)


def test_refuses_to_pool_over_the_unknown():
    with pytest.raises(ValueError, match="one of image, map, slice; got 'channel'"):
        orderness_of_each(torch.zeros(1, 1, 9, 9), "channel")

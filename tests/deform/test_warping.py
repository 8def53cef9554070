import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from spatialkit.deform import Diffeomorphism, warp, warping

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
every_path = pytest.mark.parametrize("path", [warp, warping._by_grid_sample, warping._by_four_reads])
SIZES = [(1, 1), (1, 6), (5, 1), (8, 8), (7, 12), (33, 16)]


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images_and_field(H, W, n=3, reach=3.0):
    """Images with values from 0 to 1 and normal displacements."""
    return noise(n, 2, H, W).sigmoid(), reach * noise(n, 2, H, W, seed=1)


# --- oracles -------------------------------------------------------------------------------------


@every_path
@pytest.mark.parametrize("size", SIZES)
def test_is_the_bilinear_interpolation_of_scipy(path, size):
    images, field = images_and_field(*size)
    y, x = np.mgrid[: size[0], : size[1]]
    expected = [
        [map_coordinates(channel, [y + dy, x + dx], order=1, mode="nearest") for channel in image]
        for image, (dx, dy) in zip(images.numpy(), field.numpy(), strict=True)
    ]
    torch.testing.assert_close(path(images, field), torch.tensor(np.array(expected)), rtol=0, atol=1e-13)


@every_path
@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-2, 3), (20, -20)])
def test_whole_pixels_are_read_from_where_the_field_points(path, dx, dy):
    images = noise(2, 3, 6, 9)
    field = torch.tensor([dx, dy], dtype=torch.float64)[:, None, None].expand(2, 2, 6, 9)
    rows, columns = (torch.arange(6) + dy).clamp(0, 5), (torch.arange(9) + dx).clamp(0, 8)
    torch.testing.assert_close(path(images, field), images[:, :, rows][..., columns], rtol=0, atol=1e-13)


@every_path
@pytest.mark.parametrize("size", [(8, 8), (7, 12)])
def test_a_ramp_shows_where_it_was_read(path, size):
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    places = torch.stack([x, y])[None]
    field = noise(4, 2, *size)
    limits = torch.tensor([size[1] - 1, size[0] - 1])[:, None, None]
    expected = (places + field).clamp(torch.zeros(()), limits)
    torch.testing.assert_close(path(places.expand(4, -1, -1, -1), field), expected, rtol=0, atol=1e-13)


# --- both paths ----------------------------------------------------------------------------------


def values_and_gradients(path, images, field):
    images, field = images.clone().requires_grad_(), field.clone().requires_grad_()
    warped = path(images, field)
    (warped * noise(*warped.shape, seed=9)).sum().backward()
    return warped.detach(), images.grad, field.grad


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reach", [0.3, 3.0, 1e6])
def test_four_reads_agree_with_the_sampler_in_values_and_gradients(size, reach):
    images, field = images_and_field(*size, reach=reach)
    ours, theirs = (values_and_gradients(p, images, field) for p in (warping._by_four_reads, warping._by_grid_sample))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-14)


def test_four_reads_agree_with_the_sampler_for_a_field_that_holds_the_border():
    images, field = noise(3, 2, 16, 16), Diffeomorphism(3, 0.01).sample(3, 16, seed=0, dtype=torch.float64)
    ours, theirs = (values_and_gradients(p, images, field) for p in (warping._by_four_reads, warping._by_grid_sample))
    torch.testing.assert_close(ours[:2], theirs[:2], rtol=0, atol=1e-12)
    # Along the border dx or dy is 0, a kink, where the gradient is of one side or the other as rounding has it.
    mine, other = (gradient[..., 1:-1, 1:-1] for gradient in (ours[2], theirs[2]))
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@every_path
def test_gradients_are_those_of_finite_differences(path):
    images, field = noise(2, 2, 5, 4), 0.4 + 0.9 * noise(2, 2, 5, 4, seed=1).tanh()  # inside and outside, off the kinks
    assert torch.autograd.gradcheck(path, (images.requires_grad_(), field.requires_grad_()))


@every_path
def test_the_field_has_no_gradient_where_samples_lie_on_the_border_or_outside(path):
    images, field = noise(1, 1, 6, 6), torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    field[0, 0, 2, 3], field[0, 0, 4, 1] = 7.5, -3.25  # off the right, off the left
    _, _, gradient = values_and_gradients(path, images, field)
    dx, dy = gradient[0]
    assert dx[2, 3] == dx[4, 1] == 0
    assert (dx[:, [0, -1]] == 0).all() and (dy[[0, -1]] == 0).all()
    assert (dy[1:-1] != 0).all()


@needs_gpu
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_gpu_agrees_with_the_cpu(deterministic):
    images, field = images_and_field(17, 12)
    expected = values_and_gradients(warp, images, field)
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        results = [values_and_gradients(_warp_on_gpu, images, field) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(was)
    for ours, theirs in zip(results[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    if deterministic:
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def _warp_on_gpu(images, field):
    return warp(images.cuda(), field.cuda()).cpu()


# --- properties ----------------------------------------------------------------------------------


@every_path
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_no_displacement_is_the_identity(path, dtype, atol):
    # The sampler's coordinates from -1 to 1 round to 1e-7 of the image, some 1e-6 px.
    images = noise(2, 3, 32, 40).to(dtype)
    warped = path(images, torch.zeros(2, 2, 32, 40, dtype=dtype))
    assert warped.dtype == dtype
    torch.testing.assert_close(warped, images, rtol=0, atol=atol)


@every_path
def test_stays_within_the_values_of_the_image(path):
    images, field = images_and_field(9, 7)
    warped = path(images, field)
    assert (warped.amax((2, 3)) <= images.amax((2, 3)) + 1e-12).all()
    assert (warped.amin((2, 3)) >= images.amin((2, 3)) - 1e-12).all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_field_serves_all_images_and_one_image_all_fields(memory_format):
    images, field = images_and_field(6, 8, n=4)
    images = images.contiguous(memory_format=memory_format)
    for some_images, some_field in [(images, field[:1]), (images[:1], field), (images[:1], field[:1])]:
        n = max(len(some_images), len(some_field))
        expected = warp(
            some_images.repeat(n // len(some_images), 1, 1, 1), some_field.repeat(n // len(some_field), 1, 1, 1)
        )
        for path in (warp, lambda i, f, n=n: warping._by_four_reads(i.expand(n, -1, -1, -1), f.expand(n, -1, -1, -1))):
            torch.testing.assert_close(path(some_images, some_field), expected, rtol=0, atol=1e-13)


def test_gradients_of_a_shared_field_add_up():
    images, field = images_and_field(6, 8, n=4)
    shared = field[:1].clone().requires_grad_()
    warp(images, shared).square().sum().backward()
    each = field[:1].repeat(4, 1, 1, 1).requires_grad_()
    warp(images, each).square().sum().backward()
    torch.testing.assert_close(shared.grad[0], each.grad.sum(0), rtol=0, atol=1e-12)


def test_warping_without_gradients_leaves_nothing_behind_for_those_who_want_them():
    warping._pixels.cache_clear()
    images, field = images_and_field(9, 11)
    with torch.inference_mode():
        warp(images, field)
    _, of_images, of_field = values_and_gradients(warp, images, field)
    assert of_images.any() and of_field.any()


def test_deterministic_algorithms_do_not_change_the_cpu():
    images, field = images_and_field(8, 8)
    expected = warp(images, field)
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(warp(images, field), expected)
    finally:
        torch.use_deterministic_algorithms(was)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "field", "message"),
    [
        ((3, 6, 7), (3, 2, 6, 7), r"images must be \(N, C, H, W\) with no side 0, got \(3, 6, 7\)"),
        ((0, 1, 6, 7), (1, 2, 6, 7), r"no side 0, got \(0, 1, 6, 7\)"),
        ((3, 0, 6, 7), (3, 2, 6, 7), r"no side 0, got \(3, 0, 6, 7\)"),
        ((3, 1, 6, 7), (3, 2, 7, 6), r"field must be \(N, 2, 6, 7\) as the images are.* got \(3, 2, 7, 6\)"),
        ((3, 1, 6, 7), (3, 6, 7, 2), r"field must be \(N, 2, 6, 7\) .* got \(3, 6, 7, 2\)"),
        ((3, 1, 6, 7), (2, 6, 7), r"field must be \(N, 2, 6, 7\) .* got \(2, 6, 7\)"),
        ((3, 1, 6, 7), (0, 2, 6, 7), r"N at least 1; got \(0, 2, 6, 7\)"),
        ((3, 1, 6, 7), (2, 2, 6, 7), "one field per image, or one of either; got 3 images, 2 fields"),
    ],
)
def test_refuses_shapes_that_do_not_fit(images, field, message):
    with pytest.raises(ValueError, match=message):
        warp(torch.zeros(images), torch.zeros(field))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex64])
def test_refuses_images_between_whose_values_it_cannot_interpolate(dtype):
    with pytest.raises(ValueError, match=f"float32 or float64, got {dtype}: convert them"):
        warp(torch.zeros(1, 1, 6, 7, dtype=dtype), torch.zeros(1, 2, 6, 7))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (torch.zeros(1, 2, 6, 7, dtype=torch.float64), "images are torch.float32 on cpu, field torch.float64 on cpu"),
        (
            torch.zeros(1, 2, 6, 7, device="meta"),
            r"on cpu, field torch.float32 on meta.*agree, as by field.to\(images\)",
        ),
    ],
)
def test_refuses_a_field_of_another_type_or_place(field, message):
    with pytest.raises(ValueError, match=message):
        warp(torch.zeros(1, 1, 6, 7), field)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (2, 1, 5, 6)])
def test_refuses_fields_that_point_nowhere(bad, place):
    field = torch.zeros(3, 2, 6, 7)
    field[place] = bad
    with pytest.raises(ValueError, match="field must be finite"):
        warp(torch.zeros(3, 1, 6, 7), field)


def test_refuses_infinities_that_cancel():
    field = torch.zeros(1, 2, 6, 7)
    field[0, 0, 0, 0], field[0, 0, 0, 1] = float("inf"), -float("inf")
    with pytest.raises(ValueError, match="field must be finite"):
        warp(torch.zeros(1, 1, 6, 7), field)

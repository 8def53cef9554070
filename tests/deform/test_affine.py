import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spatialkit.deform import (
    affine_field,
    from_polar,
    linear_field,
    linear_transform,
    mirror,
    read_at,
    rotation,
    scaling,
    shear,
    to_polar,
    warp,
)
from spatialkit.measure import Rotation

SOME = [rotation(33), scaling(1.3), scaling(1.2, 0.7), shear(0.4), mirror(25), rotation(70) @ shear(-0.6)]


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("T", SOME)
def test_agrees_with_scipy(images, T):
    # SciPy reads output[row, column] = input[matrix @ (row, column) + offset], at rows and columns.
    H, W = images.shape[-2:]
    back = torch.linalg.inv(T).flip(0, 1).numpy()  # (y, x) instead of (x, y)
    centre = torch.tensor([(H - 1) / 2, (W - 1) / 2]).numpy()
    ours = linear_transform(images, T)
    for n in range(2):
        for c in range(3):
            theirs = ndimage.affine_transform(
                images[n, c].numpy(), back, centre - back @ centre, order=1, mode="nearest"
            )
            assert torch.allclose(ours[n, c], torch.from_numpy(theirs), atol=1e-12)


def test_rotation_turns_as_the_perturbation_does(images):
    assert torch.allclose(linear_transform(images, rotation(20)), Rotation(20)(images, range(2), 0), atol=1e-12)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_move_pixels(images, turns):
    square = images[..., :9]
    assert torch.allclose(linear_transform(square, rotation(90 * turns)), square.rot90(turns, (-2, -1)), atol=1e-12)


def test_mirror_exchanges_up_and_down_or_left_and_right(images):
    assert torch.allclose(linear_transform(images, mirror()), images.flip(-2), atol=1e-12)
    assert torch.allclose(linear_transform(images, mirror(90)), images.flip(-1), atol=1e-12)


def test_shear_moves_lower_rows_to_the_right():
    image = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    image[..., 3] = 1  # a vertical line
    assert linear_transform(image, shear(1.0))[0, 0].argmax(dim=1).tolist() == list(range(7))


def test_scaling_enlarges():
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[..., 3:6, 3:6] = 1
    assert float(linear_transform(image, scaling(2)).sum()) > 3 * float(image.sum())


def test_field_is_the_one_for_warp(images):
    T = SOME[-1]
    assert torch.equal(linear_transform(images, T), warp(images, linear_field(T, 9, 11)))


@pytest.mark.parametrize("T", SOME)
def test_polar_form_and_back(T):
    assert torch.allclose(from_polar(*to_polar(T)), T, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-179, 179), *[st.floats(-1, 1)] * 3, st.booleans())
def test_polar_coordinates_are_unique(angle, p, q, r, mirrored):
    T = from_polar([angle, p, q, r], mirrored)
    assert float(torch.linalg.det(T)) == pytest.approx((-1 if mirrored else 1) * math.exp(2 * p), rel=1e-9)
    found, flag = to_polar(T)
    assert flag == mirrored
    assert found.tolist() == pytest.approx([angle, p, q, r], abs=1e-8)


def test_polar_coordinates_of_known_maps():
    assert torch.allclose(from_polar([30.0, 0, 0, 0]), rotation(30))
    assert torch.allclose(from_polar([0, math.log(2), 0, 0]), scaling(2))
    assert torch.allclose(from_polar([0, 0, math.log(2), 0]), scaling(2, 0.5))


def test_rejects_what_is_no_map(images):
    with pytest.raises(ValueError, match="invertible 2 x 2"):
        linear_transform(images, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="invertible 2 x 2"):
        to_polar(torch.eye(3))
    with pytest.raises(ValueError, match="factors must be above 0"):
        scaling(-1)
    with pytest.raises(ValueError, match="angle, p, q, r"):
        from_polar([1.0, 2.0])
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        linear_transform(images[0], rotation(3))


@pytest.mark.parametrize("N, size", [(1, (4, 7)), (3, (5, 5)), (2, (1, 6))])
def test_the_field_reads_at_the_affine_image_of_every_pixel(N, size):
    draw = torch.Generator().manual_seed(N)
    A, before, after = (torch.randn(N, *s, generator=draw, dtype=torch.float64) for s in ((2, 2), (2,), (2,)))
    field = affine_field(A, size, before=before, after=after)
    assert field.shape == (N, 2, *size)
    centre = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2], dtype=torch.float64)
    for n, row, column in itertools.product(range(N), range(size[0]), range(size[1])):
        u = torch.tensor([column, row]) - centre
        expected = A[n] @ (u - before[n]) + after[n] - u
        torch.testing.assert_close(field[n, :, row, column], expected, rtol=0, atol=1e-12)


def test_one_matrix_gives_one_field_and_a_linear_field_is_that_of_the_inverse():
    T = SOME[-1]
    field = affine_field(torch.linalg.inv(T), (6, 9))
    torch.testing.assert_close(field, linear_field(T, 6, 9), rtol=0, atol=1e-12)


def test_points_are_read_where_the_warp_reads_them(images):
    T = rotation(20) @ scaling(1.4)
    H, W = images.shape[-2:]
    y, x = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (H, W))
    u = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 2)  # (1, P, 2)
    read = read_at(images, (u @ torch.linalg.inv(T).mT)[None].expand(2, 1, -1, 2))
    torch.testing.assert_close(read.view_as(images), linear_transform(images, T), rtol=0, atol=1e-12)

"""Spatial transformers: the sampling convention against PyTorch, SciPy and exact moves; kinds; gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from spatialkit.models import SpatialTransformer, affine_matrix, angle_scale_shift, compose, resample
from spatialkit.models.transformer import KINDS


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(side):
    """A low-frequency image, dark at its border, on which resampling twice costs little."""
    u = torch.linspace(-1, 1, side, dtype=torch.float64)
    x, y = u.expand(side, side), u[:, None].expand(side, side)
    return (torch.exp(-8 * ((x - 0.2) ** 2 + (y + 0.1) ** 2)) * (1 + 0.5 * torch.sin(3 * x + y)))[None, None]


def some_matrices(n, seed=0):
    return torch.eye(2, 3, dtype=torch.float64) + 0.6 * (draw(n, 2, 3, seed=seed) - 0.5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("side", [8, 11])
def test_agrees_with_the_sampler_of_pytorch(align_corners, side):
    images, matrix = draw(5, 2, side, side), some_matrices(5, seed=1)
    grid = F.affine_grid(matrix, [5, 2, side, side], align_corners=align_corners)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=align_corners)
    torch.testing.assert_close(resample(images, matrix, align_corners), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("H, W", [(9, 9), (8, 13)])
def test_agrees_with_scipy(H, W):
    images, matrix = draw(3, 1, H, W), some_matrices(3, seed=2)
    flip = torch.tensor([[0.0, 1], [1, 0]], dtype=torch.float64)  # SciPy counts row, column; we x, y
    centre = torch.tensor([(H - 1) / 2, (W - 1) / 2], dtype=torch.float64)
    for image, m, ours in zip(images, matrix, resample(images, matrix), strict=True):
        A = flip @ m[:, :2] @ flip
        offset = flip @ (m[:, 2] * torch.tensor([W / 2, H / 2])) + centre - A @ centre
        expected = ndimage.affine_transform(image[0].numpy(), A.numpy(), offset.numpy(), order=1, mode="nearest")
        torch.testing.assert_close(ours[0], torch.from_numpy(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_exact(side, turns):
    images = draw(2, 3, side, side)
    matrix = affine_matrix("rotation", torch.full((2, 1), turns * math.pi / 2, dtype=torch.float64))
    expected = images.rot90(-turns, (-2, -1))  # a positive angle turns content clockwise
    torch.testing.assert_close(resample(images, matrix), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("align_corners, pixels", [(False, 4.0), (True, 3.5)])
def test_a_shift_of_one_is_half_a_side(align_corners, pixels):
    images = torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8)
    matrix = affine_matrix("translation", torch.tensor([[1.0, 0]], dtype=torch.float64))
    expected = (images + pixels).clamp(max=7)  # a ramp: each column reads ``pixels`` further right
    torch.testing.assert_close(resample(images, matrix, align_corners), expected)


def test_whole_pixels_move_exactly():
    images = draw(1, 1, 10, 10)
    matrix = affine_matrix("translation", torch.tensor([[0.4, -0.2]], dtype=torch.float64))  # 2 px, -1 px of half 5
    assert torch.allclose(resample(images, matrix)[..., 1:, :-2], images[..., :-1, 2:], rtol=0, atol=1e-12)


def test_composition_is_resampling_twice():
    image = smooth(65)
    first, second = (affine_matrix("similarity", torch.tensor([v], dtype=torch.float64)) for v in (
        [0.4, 0.1, 0.10, -0.05], [-0.9, 0.05, -0.04, 0.08],
    ))  # fmt: skip
    once = resample(image, compose(first, second))
    twice = resample(resample(image, first), second)
    assert (once - twice).norm() / once.norm() < 5e-3  # two bilinear readings; the wrong order gives 0.2
    assert (resample(image, compose(second, first)) - twice).norm() / once.norm() > 0.05


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=12, max_size=12))
def test_composition_is_associative_with_the_identity_as_unit(values):
    a, b = torch.eye(2, 3, dtype=torch.float64) + 0.4 * torch.tensor(values, dtype=torch.float64).view(2, 1, 2, 3)
    one = torch.eye(2, 3, dtype=torch.float64)[None]
    torch.testing.assert_close(compose(compose(a, b), a), compose(a, compose(b, a)))
    torch.testing.assert_close(compose(a, one), a)
    torch.testing.assert_close(compose(one, a), a)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right_and_zeros_give_the_identity(kind):
    n = KINDS[kind]
    identity = torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3)
    assert torch.equal(affine_matrix(kind, torch.zeros(2, n, dtype=torch.float64)), identity)
    numbers = (0.3 * draw(2, n, seed=3) + 0.05).requires_grad_()
    images = draw(2, 1, 5, 5, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, v: resample(i, affine_matrix(kind, v)), (images, numbers))


@pytest.mark.parametrize("kind, values, pose", [
    ("translation", [0.2, -0.1], [0, 0, 0.2, -0.1]),
    ("rotation", [2.5], [math.degrees(2.5), 0, 0, 0]),
    ("scale", [math.log(2)], [0, 1, 0, 0]),
    ("similarity", [-3.0, -math.log(4), 0.3, 0.1], [math.degrees(-3), -2, 0.3, 0.1]),
    ("affine", [1, 0, 0, 0, 1, 0.5], [0, 1, 0, 0.5]),
])  # fmt: skip
def test_the_pose_is_read_back_from_the_matrix(kind, values, pose):
    matrix = affine_matrix(kind, torch.tensor([values], dtype=torch.float64))
    torch.testing.assert_close(angle_scale_shift(matrix), torch.tensor([pose], dtype=torch.float64))


def test_a_transformer_starts_as_the_identity_and_learns_a_shift():
    model = SpatialTransformer(nn.Sequential(nn.Flatten(), nn.Linear(25, 4)), 4, "translation").double()
    images = draw(6, 1, 5, 5)
    torch.testing.assert_close(model(images), images)
    target = resample(images, affine_matrix("translation", torch.full((6, 2), 0.3, dtype=torch.float64)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_what_is_seen_may_differ_from_what_is_transformed():
    model = SpatialTransformer(nn.Flatten(), 3, "rotation").double()
    nn.init.ones_(model.last.weight)
    images, seen = draw(2, 1, 7, 7), draw(2, 3)
    expected = resample(images, affine_matrix("rotation", seen.sum(dim=1, keepdim=True)))
    torch.testing.assert_close(model(images, seen), expected)


def test_refuses_bad_input():
    with pytest.raises(ValueError, match="kind must be one of translation"):
        affine_matrix("shear", torch.zeros(1, 1))
    with pytest.raises(ValueError, match="kind must be one of translation"):
        SpatialTransformer(nn.Flatten(), 3, "shear")
    with pytest.raises(ValueError, match=r"rotation takes numbers of shape \(N, 1\)"):
        affine_matrix("rotation", torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"a matrix \(N, 2, 3\) for each"):
        resample(torch.zeros(2, 1, 4, 4), torch.zeros(1, 2, 3))


def transformer():
    torch.manual_seed(0)
    model = SpatialTransformer(nn.Sequential(nn.Flatten(), nn.Linear(50, 4)), 4, "affine").eval()
    nn.init.normal_(model.last.weight, std=0.3)
    return model


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_works_in_few_bits_and_under_autocast(narrow):
    model, images = transformer(), draw(3, 2, 5, 5).float()
    exact = model(images)
    with torch.autocast("cpu", dtype=narrow):
        mixed = model(images)
        inner = model(images.to(narrow))
    assert mixed.dtype == torch.float32 and inner.dtype == narrow
    torch.testing.assert_close(mixed, exact, atol=0.05, rtol=0)
    torch.testing.assert_close(inner.float(), exact, atol=0.05, rtol=0)
    torch.testing.assert_close(model.to(narrow)(images.to(narrow)).float(), exact, atol=0.05, rtol=0)


def test_can_be_exported_for_any_number_of_images():
    model, images = transformer(), draw(3, 2, 5, 5).float()
    number = torch.export.Dim("number", min=2, max=64)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: number},)).module()
    for x in (images, draw(7, 2, 5, 5, seed=1).float()):
        torch.testing.assert_close(exported(x), model(x))
    torch.testing.assert_close(model(images), exported(images))  # nothing of the export was kept

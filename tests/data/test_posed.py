"""Digits in a known pose: against exact moves and the transformer that undoes them; clutter against a slow loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from spatialkit.data import Poses, add_clutter, in_pose
from spatialkit.models import affine_matrix, angle_scale_shift, resample


def blob(side, dtype=torch.float64):
    u = torch.linspace(-1, 1, side, dtype=dtype)
    x, y = u.expand(side, side), u[:, None].expand(side, side)
    return torch.exp(-12 * ((x - 0.2) ** 2 + 2 * (y + 0.1) ** 2))[None, None]


@pytest.mark.parametrize("side, canvas", [(6, 6), (6, 10), (7, 11)])
def test_no_pose_pads_with_black(side, canvas):
    images = torch.rand(3, 2, side, side, dtype=torch.float64)
    margin = (canvas - side) // 2
    expected = F.pad(images, [margin] * 4)
    torch.testing.assert_close(in_pose(images, torch.zeros(3, 4), canvas), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pose, move", [
    ([90, 0, 0, 0], lambda x: x.rot90(1, (-2, -1))),
    ([-90, 0, 0, 0], lambda x: x.rot90(-1, (-2, -1))),
    ([0, 0, 2, 0], lambda x: x.roll(2, -1)),
    ([0, 0, 0, -1], lambda x: x.roll(-1, -2)),
    ([90, 0, 2, 0], lambda x: x.rot90(1, (-2, -1)).roll(2, -1)),
])  # fmt: skip
def test_quarter_turns_and_whole_pixels_are_exact(pose, move):
    images = F.pad(torch.rand(1, 1, 6, 6, dtype=torch.float64), [2] * 4)
    poses = torch.tensor([pose], dtype=torch.float64)
    torch.testing.assert_close(in_pose(images, poses, 10), move(images), rtol=0, atol=1e-12)


def test_twice_the_size_has_four_times_the_ink_and_samples_outside_are_black():
    image = blob(21)
    twice = in_pose(image, torch.tensor([[0.0, 1, 0, 0]], dtype=torch.float64), 61)
    assert float(twice.sum() / image.sum()) == pytest.approx(4, rel=1e-3)
    away = in_pose(torch.ones(1, 1, 5, 5), torch.tensor([[0.0, 0, 30, 0]]), 9)
    assert away.abs().sum() == 0


@pytest.mark.parametrize("side, bound", [(41, 0.02), (81, 0.005)])
def test_the_transformer_with_the_same_pose_undoes_it(side, bound):
    shift, canvas = side / 8, side + 20 * (side // 40)
    image = F.pad(blob(side), [(canvas - side) // 2] * 4)
    pose = torch.tensor([[35.0, 0.4, shift, -shift / 2]], dtype=torch.float64)
    t = 2 * shift / canvas
    numbers = torch.tensor([[math.radians(35), 0.4 * math.log(2), t, -t / 2]], dtype=torch.float64)
    matrix = affine_matrix("similarity", numbers)
    undone = resample(in_pose(image, pose, canvas), matrix)
    assert (undone - image).norm() / image.norm() < bound  # bilinear reading: second order in the pixel
    found = angle_scale_shift(matrix) * torch.tensor([1, 1, canvas / 2, canvas / 2])
    torch.testing.assert_close(found, pose)


def test_poses_are_uniform_within_their_limits_and_follow_the_seed():
    family = Poses(40, angle=90, log2_scale=(-1, 2), shift=8)
    drawn = family.draw(4000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, family.draw(4000, torch.Generator().manual_seed(0)))
    low, high = torch.tensor([-90.0, -1, -8, -8]), torch.tensor([90.0, 2, 8, 8])
    share = (drawn - low) / (high - low)
    assert share.min() >= 0 and share.max() <= 1
    torch.testing.assert_close(share.mean(0), torch.full((4,), 0.5), rtol=0, atol=0.02)  # sd of a mean 0.0046
    assert (Poses(28, angle=90).draw(5, torch.Generator().manual_seed(0))[:, 1:] == 0).all()


def test_clutter_of_one_size_against_a_slow_loop():
    images, pool = torch.zeros(50, 1, 12, 12), torch.rand(4, 1, 9, 9) * 0.9 + 0.1
    cluttered = add_clutter(images, pool, (3, 3), 1, torch.Generator().manual_seed(0))
    windows = pool.unfold(2, 3, 1).unfold(3, 3, 1).reshape(-1, 9)
    for image in cluttered[:, 0]:
        rows, columns = (image > 0).nonzero().unbind(1)
        patch = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert patch.shape == (3, 3)
        assert (windows == patch.reshape(9)).all(dim=1).any()


def test_clutter_adds_up_to_at_most_one_and_leaves_its_input_alone():
    images, pool = torch.full((30, 1, 10, 10), 0.3), torch.full((2, 1, 8, 8), 0.4)
    cluttered = add_clutter(images, pool, (2, 5), 3, torch.Generator().manual_seed(1))
    assert set(cluttered.unique().mul(10).round().int().tolist()) <= {3, 7, 10}
    assert torch.equal(images, torch.full((30, 1, 10, 10), 0.3))
    one = add_clutter(images, pool, (2, 5), 1, torch.Generator().manual_seed(1))
    sides = ((one > 0.5).sum((1, 2, 3)).float().sqrt() + 0.5).int().tolist()
    assert set(sides) == {2, 3, 4, 5}


def test_refuses_bad_input():
    with pytest.raises(ValueError, match="4 numbers each"):
        in_pose(torch.zeros(2, 1, 6, 6), torch.zeros(2, 3), 8)
    for canvas in (4, 9):
        with pytest.raises(ValueError, match="plus an even number"):
            in_pose(torch.zeros(2, 1, 6, 6), torch.zeros(2, 4), canvas)
    with pytest.raises(ValueError, match="do not fit"):
        add_clutter(torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 5, 5), (2, 6), 1, torch.Generator())

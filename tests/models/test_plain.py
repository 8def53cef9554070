"""Plain networks: sizes as the source describes them."""

import pytest
import torch
from torch import nn

from spatialkit.models import PlainCNN


@pytest.mark.parametrize(
    ("shape", "pool_every", "sides"),
    [
        ((1, 30, 30), 1, [15, 8, 4, 2, 1, 1]),
        ((1, 28, 28), 1, [14, 7, 4, 2, 1]),
        ((3, 32, 32), 2, [32, 16, 16, 8, 8, 4]),
    ],
)
def test_pooling_keeps_odd_sides_and_stops_at_one_pixel(shape, pool_every, sides):
    model = PlainCNN(shape, 10, depth=len(sides), width=5, pool_every=pool_every)
    maps = model.feature_maps(torch.randn(2, *shape))
    assert [tuple(m.shape) for m in maps] == [(2, 5, side, side) for side in sides]
    assert model(torch.randn(2, *shape)).shape == (2, 10)


def test_pooling_before_the_relu_is_the_same_as_after():
    model = PlainCNN((2, 9, 9), 3, depth=1, width=4, seed=1)
    x = torch.randn(3, 2, 9, 9)
    expected = nn.functional.max_pool2d(torch.relu(model.blocks[0][0](x)), 2, ceil_mode=True)
    assert torch.equal(model.feature_maps(x)[0], expected)


def test_the_number_of_parameters_is_the_sources():
    # CIFAR-10, 4 convolutions of 64 units, two fully connected layers: counted by hand.
    model = PlainCNN((3, 32, 32), 10, depth=4, width=64, pool_every=2, hidden_layers=1)
    convolutions = (27 + 1) * 64 + 3 * (576 + 1) * 64
    assert sum(p.numel() for p in model.parameters()) == convolutions + (64 * 64 + 1) * 64 + (64 + 1) * 10


def test_depth_zero_is_a_linear_classifier():
    model = PlainCNN((1, 6, 6), 10, depth=0)
    x = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(model(2 * x) - model(x), model(x) - model(0 * x))


def test_the_first_kernel_may_cover_the_whole_image():
    model = PlainCNN((1, 7, 7), 10, depth=2, width=4, first_kernel_size=7)
    assert [m.shape[-1] for m in model.feature_maps(torch.randn(1, 1, 7, 7))] == [1, 1]


def test_initial_weights_follow_he_and_the_seed():
    weights = [PlainCNN((64, 8, 8), 10, depth=1, seed=s).blocks[0][0].weight for s in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)  # 36,864 draws: sd 0.4 %


def test_bad_sizes_say_what_is_wrong():
    with pytest.raises(ValueError, match="counts must be at least 1"):
        PlainCNN((1, 8, 8), 10, depth=-1)
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        PlainCNN((1, 8, 8), 10, depth=1, kernel_size=4)
    with pytest.raises(ValueError, match="first_kernel_size must fit"):
        PlainCNN((1, 8, 8), 10, depth=1, first_kernel_size=9)

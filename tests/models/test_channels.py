"""Shuffled channels: every kernel is kept, and meets another channel."""

import pytest
import torch
from torch import nn

from spatialkit.models import build, shuffle_channels


def small(seed=0):
    """A first layer of three channels, a grouped layer, a depthwise one, an odd kernel, a normalisation, an end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.Conv2d(8, 6, (1, 5), groups=2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
        )


def kernels(model):
    return [w for w in model.parameters() if w.ndim == 4]


@pytest.mark.parametrize("seed", [0, 7])
def test_agrees_with_a_plain_loop(seed):
    model = small()
    generator = torch.Generator().manual_seed(seed)
    for old, new in zip(kernels(model), kernels(shuffle_channels(model, seed)), strict=True):
        order = torch.randperm(old.shape[1], generator=generator).tolist()
        for c in range(old.shape[0]):
            for d in range(old.shape[1]):
                assert torch.equal(new[c, d], old[c, order[d]])


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "efficientnet_b0"])
def test_every_output_channel_keeps_its_kernels(name):
    model = build(name, (3, 32, 32), 10, width=1 / 16)
    shuffled = shuffle_channels(model, 3)
    moved = 0
    for old, new in zip(kernels(model), kernels(shuffled), strict=True):
        for one, other in zip(old, new, strict=True):  # sorted rows, one per kernel: equal as multisets
            assert torch.equal(one.flatten(1).unique(dim=0), other.flatten(1).unique(dim=0))
        moved += not torch.equal(old, new)
    assert moved > len(kernels(model)) / 2
    rest = [(p, q) for p, q in zip(model.parameters(), shuffled.parameters(), strict=True) if p.ndim != 4]
    assert rest and all(torch.equal(p, q) for p, q in rest)


def test_shuffling_the_kernels_is_shuffling_the_channels_before_them():
    model = nn.Conv2d(16, 4, 3).double()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    images = torch.randn(2, 16, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    back = torch.empty_like(images)
    back[:, order] = images  # channel d of the images now meets the kernel that channel order[d] met
    torch.testing.assert_close(shuffle_channels(model, 2)(images), model(back))


def test_kernels_alike_over_channels_put_out_the_same():
    model = small().eval()
    with torch.no_grad():
        for weight in kernels(model):
            weight.copy_(weight.mean(dim=1, keepdim=True).expand_as(weight))
        images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))
        assert torch.equal(shuffle_channels(model)(images), model(images))


def test_the_first_layer_is_shuffled_and_depthwise_layers_are_not():
    model = small()
    orders = {tuple(_order(model[0].weight, shuffle_channels(model, seed)[0].weight)) for seed in range(60)}
    assert len(orders) == 6  # all of 3!; a given one is missed by 60 seeds with probability (5/6)^60 < 2e-5
    for seed in range(5):
        assert torch.equal(shuffle_channels(model, seed)[3].weight, model[3].weight)


def _order(old, new):
    return [next(e for e in range(3) if torch.equal(new[:, d], old[:, e])) for d in range(3)]


def test_the_original_and_the_random_numbers_stay():
    model = small()
    before, state = [v.clone() for v in model.state_dict().values()], torch.get_rng_state()
    shuffled = shuffle_channels(model)
    with torch.no_grad():
        for p in shuffled.parameters():
            p.zero_()
    assert all(torch.equal(v, old) for v, old in zip(model.state_dict().values(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_decides():
    first, again, other = (kernels(shuffle_channels(small(), seed))[2] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_refuses_a_network_without_convolutions():
    with pytest.raises(ValueError, match="no convolution over images, so no channels to shuffle"):
        shuffle_channels(build("fc2", (1, 8, 8), 2))

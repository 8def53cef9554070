"""Networks in frames: sizes that their authors print, every convolution in its own set, the same network in pixels."""

import pytest
import torch
from torch import nn

from spatialkit.models import BasisConv2d, framed_densenet, framed_resnet
from spatialkit.theory import framelets, gaussian_derivatives, pixels


def convolutions(network):
    return [m for m in network.modules() if isinstance(m, BasisConv2d)]


def in_pixels(layer, block):
    return pixels(3)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (110, 1.7)])
def test_resnets_have_the_sizes_of_he_et_al(depth, millions):
    network = framed_resnet(in_pixels, depth)
    assert len(convolutions(network)) == depth - 1  # and a linear layer
    # weights without 1 x 1 shortcuts, which the paper's Table 6 does not count
    shortcuts = sum(m.weight.numel() for m in network.modules() if type(m) is nn.Conv2d)
    assert shortcuts == 16 * 32 + 32 * 64
    size = (sum(p.numel() for p in network.parameters()) - shortcuts) / 1e6
    assert size == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize(("depth", "millions"), [(40, 1.0), (100, 7.0)])
def test_densenets_have_the_sizes_of_huang_et_al(depth, millions):
    network = framed_densenet(in_pixels, depth)
    assert len(convolutions(network)) == depth - 3  # and two transitions and a linear layer
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("build", [framed_resnet, framed_densenet])
def test_every_convolution_has_the_set_of_its_place(build):
    asked = []

    def frame(layer, block):
        asked.append((layer, block))
        return (framelets(), gaussian_derivatives(4, 0.7, 3))[layer % 2]

    network = build(frame, {framed_resnet: 14, framed_densenet: 10}[build])
    assert [len(m.basis) for m in convolutions(network)] == [(9, 15)[i % 2] for i in range(len(asked))]
    assert [layer for layer, _ in asked] == list(range(len(asked)))
    blocks = [block for _, block in asked]
    assert blocks == ([0, *(i // 2 for i in range(12))] if build is framed_resnet else list(range(7)))
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    ("build", "depth", "stages"), [(framed_resnet, 8, (16, 32, 64)), (framed_densenet, 7, (28, 40, 52))]
)
def test_stages_halve_the_side(build, depth, stages):
    network, shapes = build(in_pixels, depth, outputs=3), []
    for module in network:
        module.register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape[1:])))
    network(torch.randn(1, 3, 32, 32))
    for channels, side in zip(stages, (32, 16, 8), strict=True):
        assert (channels, side, side) in shapes
    assert shapes[-1] == (3,)


def test_an_untouched_branch_leaves_the_shortcut():
    network = framed_resnet(in_pixels, 8)
    block = network[1]  # 16 to 16 channels: the shortcut is the identity
    with torch.no_grad():
        block.branch[-1].coefficients.zero_()
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_bad_depths_say_what_is_wrong():
    for depth in (2, 21):
        with pytest.raises(ValueError, match=r"depth must be 6 n \+ 2"):
            framed_resnet(in_pixels, depth)
    for depth in (4, 41):
        with pytest.raises(ValueError, match=r"depth must be 3 n \+ 4"):
            framed_densenet(in_pixels, depth)

"""Networks to compare with: their published sizes, what a residual block computes, seeds and bad input."""

import pytest
import torch
import torch.nn.functional as F

from spatialkit.models import all_cnn, lin_nin, resnet20

NETWORKS = [all_cnn, lin_nin, resnet20]
SHAPE = (3, 16, 16)


def kernels(model):
    return sum(p.numel() for p in model.parameters() if p.ndim > 1)


def images(n=4, shape=SHAPE):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def test_all_cnn_has_the_published_kernels():
    """By hand: 27 c + 18 c^2 in the first three layers, 18 c^2 + 3 x 36 c^2 + 4 c^2 + 2 c k after them."""
    c, k = 96, 10
    assert kernels(all_cnn((3, 32, 32), k)) == 27 * c + 18 * c**2 + 18 * c**2 + 108 * c**2 + 4 * c**2 + 2 * c * k


def test_network_in_network_has_the_published_parameters():
    # 966,986 with the published biases, one per output channel of each convolution
    biases = 192 + 160 + 96 + 5 * 192 + 10
    assert kernels(lin_nin((3, 32, 32), 10)) + biases == 966_986


def test_resnet20_has_the_published_parameters():
    assert sum(p.numel() for p in resnet20((3, 32, 32), 10).parameters()) == 269_722  # He et al.: 0.27 M


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("side", [16, 33])
def test_any_side_gives_one_output_per_class(network, side):
    model = network((1, side, side), 7, channels=12).eval()
    assert model(images(shape=(1, side, side))).shape == (4, 7)


def test_a_residual_block_adds_what_it_got():
    """With a stride: every second place, and zeros as new channels."""
    model = resnet20(SHAPE, 10, channels=4).eval()
    block = model[3 + 3]  # convolution, normalisation and ReLU come first; the fourth block has a stride
    x = torch.rand(2, 4, 8, 8)
    expected = torch.zeros(2, 8, 4, 4)
    expected[:, :4] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), F.relu(block.branch(x) + expected))
    for parameter in block.branch.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone(network):
    before = torch.get_rng_state()
    outputs = [network(SHAPE, 10, channels=8, seed=seed).eval()(images()) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("arguments", [((3, 32), 10, 8), ((3, 0, 32), 10, 8), (SHAPE, 0, 8), (SHAPE, 10, 0)])
def test_bad_counts_are_refused(network, arguments):
    shape, classes, channels = arguments
    with pytest.raises(ValueError, match="counts at least 1"):
        network(shape, classes, channels=channels)

"""Structured receptive field networks: the source's numbers, and controls that differ in one thing."""

import pytest
import torch
from torch import nn

from spatialkit.models import RFNN, BasisConv2d, NiN, equal_widths, rfnin, rfnin_bases
from spatialkit.theory import derivative_orders

TABLE_1 = [  # order, scales, parameters, the same as printed (millions), atoms
    (1, False, 1_876_356, 1.8, 12),
    (2, False, 3_425_508, 3.4, 24),
    (3, False, 5_491_044, 5.5, 40),
    (4, False, 8_072_964, 8.1, 60),
    (1, True, 2_172_996, 2.2, 24),
    (2, True, 4_167_108, 4.2, 54),
    (3, True, 6_825_924, 6.8, 94),
    (4, True, 10_149_444, 10.1, 144),
]


def count(model):
    return sum(p.numel() for p in model.parameters())


def by_hand(order, multi_scale):
    b, channels, total = (order + 1) * (order + 2) // 2, 3, 0
    for layer, width in enumerate((96, 256, 384, 1024)):
        atoms = b + (b - 1) * (3 - layer) * multi_scale
        total += (channels * atoms + 1) * width + (width + 1) * (100 if layer == 3 else width)
        channels = width
    return total


def small(kernels=None, **options):
    kernels = rfnin_bases(2) if kernels is None else kernels
    return NiN((3, 16, 16), 5, kernels, (6, 8, 8, 10)[: len(kernels)], **options)


@pytest.mark.parametrize(("order", "multi_scale", "exact", "printed", "atoms"), TABLE_1)
def test_parameters_and_atoms_are_those_of_table_1(order, multi_scale, exact, printed, atoms):
    assert count(rfnin((3, 224, 224), 100, order, multi_scale)) == exact == by_hand(order, multi_scale)
    assert printed == (1.8 if exact == 1_876_356 else round(exact / 1e6, 1))  # one is cut off, the others are rounded
    assert sum(len(basis) for basis in rfnin_bases(order, multi_scale)) == atoms


def test_the_plain_network_in_network_has_caffes_parameters():
    sides, widths = (11, 5, 3, 3), (96, 256, 384, 1024)
    assert count(NiN((3, 224, 224), 100, sides, widths, mixing=2, stride=4)) == 6_672_676
    assert count(NiN((3, 224, 224), 1000, sides, widths, mixing=2, stride=4)) == 7_595_176


@pytest.mark.parametrize("sides", [(3, 3, 3, 3), (11, 9, 7, 5)])
def test_a_control_of_equal_parameters_is_as_near_as_channels_allow(sides):
    model = rfnin((3, 32, 32), 10, 3, widths=(96, 96, 96, 96))
    widths = equal_widths(count(model), 3, 10, sides, (96, 96, 96, 96))
    control = NiN((3, 32, 32), 10, sides, widths)
    assert count(control) == pytest.approx(count(model), rel=0.02)
    for step in (-1, 1):
        other = NiN((3, 32, 32), 10, sides, [w + step for w in widths])
        assert abs(count(other) - count(model)) >= abs(count(control) - count(model))


def test_a_control_of_equal_support_differs_in_its_spatial_kernels_alone():
    model = small()
    sides = [block[0].basis.shape[-1] for block in model.blocks]
    control = small(sides)
    x = torch.randn(2, 3, 16, 16)
    for ours, theirs in zip(model.blocks, control.blocks, strict=True):
        assert isinstance(ours[0], BasisConv2d) and isinstance(theirs[0], nn.Conv2d)
        assert ours[0].kernel.shape == theirs[0].weight.shape
        assert [type(m) for m in ours[1:]] == [type(m) for m in theirs[1:]]
        x = ours(x)
    assert model(torch.randn(2, 3, 16, 16)).shape == control(torch.randn(2, 3, 16, 16)).shape == (2, 5)


def test_rewritten_in_pixels_it_is_the_plain_network():
    model = small().eval()
    plain = small([block[0].basis.shape[-1] for block in model.blocks]).eval()
    state = dict(model.state_dict())
    for i, block in enumerate(model.blocks):
        del state[f"blocks.{i}.0.basis"], state[f"blocks.{i}.0.coefficients"]
        state[f"blocks.{i}.0.weight"] = block[0].fuse().weight
    plain.load_state_dict(state)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(plain(x), model(x), atol=1e-5, rtol=1e-5)


def test_free_atoms_are_learned_where_asked_and_start_as_given():
    bases = rfnin_bases(2)
    fixed, first, every = small(), small(free=[0]), small(free=range(4))
    assert count(first) - count(fixed) == bases[0].numel()
    assert count(every) - count(fixed) == sum(b.numel() for b in bases)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(every.eval()(x), fixed.eval()(x))


def test_weights_follow_the_seed_and_leave_torchs_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    a, b, c = (small(seed=seed) for seed in (0, 0, 1))
    RFNN()
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_dropout_precedes_the_last_block_in_training_alone():
    model = small(dropout=0.5)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    inner = x
    for block in model.blocks:
        inner = block(inner)
    torch.testing.assert_close(model(x), inner.mean((2, 3)))
    assert (
        min(float(block(torch.randn(1, block[0].in_channels, 8, 8)).detach().min()) for block in model.blocks[:-1]) >= 0
    )


@pytest.mark.parametrize("side", [8, 9, 32])
def test_small_and_odd_images_fit(side):
    assert rfnin((1, side, side), 4, 1, widths=(2, 2, 2, 2))(torch.randn(1, 1, side, side)).shape == (1, 4)


def test_windows_hold_three_sigma_or_are_the_released_ones():
    assert [b.shape[-1] for b in rfnin_bases(3)] == [7, 7, 7, 5]
    assert [b.shape[-1] for b in rfnin_bases(3, multi_scale=True)] == [11, 9, 7, 5]


def test_the_network_for_mnist_has_the_released_parameters_and_sizes():
    model = RFNN()
    assert count(model) == 640 + 2 * 64 * 64 * 6 + 3136 * 10 == 81_152
    assert count(RFNN(spatial=[rfnin_bases(3)[0]] * 3)) == 113_920  # third order everywhere, as the text has it
    assert count(RFNN(spatial=(11, 7, 7))) == 121 * 64 + 2 * 64 * 64 * 49 + 31_360
    x, shapes = torch.randn(2, 1, 28, 28), []
    for layer in model.layers:
        shapes.append(layer[1](x).shape[-1])
        x = layer(x)
        shapes.append(x.shape[-1])
    assert shapes == [28, 13, 19, 9, 15, 7]
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_the_normalisation_is_the_sources():
    norm, x = RFNN().layers[0][-1], 30 * torch.randn(1, 64, 2, 2)
    squares = torch.stack([x[:, max(0, c - 4) : c + 5].square().sum(1) for c in range(64)], 1)
    torch.testing.assert_close(norm(x), x / (2 + 1e-4 * squares) ** 0.75)
    torch.testing.assert_close(norm(x), nn.LocalResponseNorm(9, alpha=9e-4, k=2.0)(x))


def test_the_released_first_layer_goes_along_the_axes_with_the_same_result():
    model, x = RFNN(width=8), torch.randn(2, 1, 28, 28)
    first = model.layers[0][1]
    assert first.separable and not model.layers[1][1].separable
    torch.testing.assert_close(first(x), first.fuse()(x), atol=1e-5, rtol=1e-5)
    given = [layer[1].basis for layer in model.layers]  # the same atoms, given by hand
    torch.testing.assert_close(RFNN(given, width=8).eval()(x), model.eval()(x), atol=1e-5, rtol=1e-5)


def test_initial_weights_of_the_network_for_mnist():
    source, he = (RFNN(initial=initial).requires_grad_(False) for initial in ("source", "he"))
    weights = source.layers[1][1].coefficients
    assert float(weights.abs().max()) <= 1 and float(weights.var()) == pytest.approx(1 / 3, rel=0.02)  # 24,576 draws
    assert float(source.head[-1].weight.std()) == pytest.approx(0.01, rel=0.02)
    assert float(he.layers[1][1].kernel.square().sum((2, 3)).mean()) == pytest.approx(2 / 64, rel=0.05)
    assert len(source.layers[0][1].basis) == len(derivative_orders(3))


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="counts must be at least 1"):
        NiN((3, 16, 16), 0, (3,), (4,))
    with pytest.raises(ValueError, match="one width per block"):
        NiN((3, 16, 16), 5, (3, 3), (4,))
    with pytest.raises(ValueError, match="free must name blocks with atoms"):
        NiN((3, 16, 16), 5, (3,), (4,), free=[0])
    with pytest.raises(ValueError, match="too small for 4 blocks"):
        rfnin((3, 7, 7), 5, 1)
    with pytest.raises(ValueError, match="must be odd"):
        NiN((3, 16, 16), 5, (4,), (4,))
    with pytest.raises(ValueError, match="layers must be from 1 to 4"):
        rfnin((3, 64, 64), 5, 1, widths=(2,) * 5)
    with pytest.raises(ValueError, match="three kernels"):
        RFNN(spatial=(3, 3))
    with pytest.raises(ValueError, match="too small"):
        RFNN(image_shape=(1, 2, 2))
    with pytest.raises(ValueError, match="more than 10"):
        equal_widths(10, 3, 10, (3, 3), (4, 4))
    with pytest.raises(ValueError, match="one width per side"):
        equal_widths(10_000, 3, 10, (3, 3), (4,))

"""Convolutions in a basis: the same as convolving with the atoms, as ordinary convolutions, and along axes in turn."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import spatialkit as sk
from spatialkit.models import BasisConv2d, BasisConv3d
from spatialkit.theory import framelets, gaussian_derivatives, gaussian_scales, monomials, pixels, tensor_orders

SETS = {
    "pixels": pixels(3),
    "framelets": framelets(),
    "naive": monomials(tensor_orders(2), 3),
    "gaussian": gaussian_derivatives(3, 1.0, 7),
    "two scales": gaussian_scales(2, (1.0, 2.0), 9),
    "one atom": torch.ones(1, 1, 3),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def atoms_then_mixing(layer, images):
    """Every channel with every atom, then a 1 x 1 convolution: Algorithm 1 of the source."""
    N, C = images.shape[:2]
    convolve = F.conv2d if images.ndim == 4 else F.conv3d
    maps = convolve(images.flatten(0, 1)[:, None], layer.basis[:, None], None, layer.stride, layer.padding)
    maps = maps.unflatten(0, (N, C)).flatten(1, 2)
    mixing = layer.coefficients.flatten(1).view(layer.out_channels, -1, *[1] * (images.ndim - 2))
    return convolve(maps, mixing, layer.bias)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_atoms_then_mixing_and_the_ordinary_convolution(name, bias):
    layer = BasisConv2d(3, 5, SETS[name], stride=(2, 1), padding=(1, 2), bias=bias).double()
    if bias:
        nn.init.normal_(layer.bias)
    images = torch.randn(2, 3, 12, 11, dtype=torch.float64)
    expected = atoms_then_mixing(layer, images)
    torch.testing.assert_close(layer(images), expected, atol=1e-10, rtol=0)
    plain = layer.fuse()
    assert type(plain) is nn.Conv2d and not any(isinstance(m, BasisConv2d) for m in plain.modules())
    torch.testing.assert_close(plain(images), expected, atol=1e-10, rtol=0)
    assert all(p.requires_grad and p.is_leaf for p in plain.parameters())


def test_a_network_is_rewritten_in_pixels_without_change():
    # eq. 24, in float32, after the network has learnt something
    torch.manual_seed(1)
    network = nn.Sequential(
        BasisConv2d(3, 8, gaussian_derivatives(2, 1.0, 5), padding="same"), nn.ReLU(), BasisConv2d(8, 4, framelets())
    )
    images = torch.randn(4, 3, 16, 16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        loss = network(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rewritten = nn.Sequential(*(m.fuse() if isinstance(m, BasisConv2d) else m for m in network))
    expected = network(images)
    assert (rewritten(images) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_pixels_with_their_weights_are_an_ordinary_convolution():
    plain = nn.Conv2d(2, 3, 3, padding=1)
    layer = BasisConv2d(2, 3, pixels(3), padding=1)
    with torch.no_grad():
        layer.coefficients.copy_(plain.weight.flatten(2))
        layer.bias.copy_(plain.bias)
    images = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(layer(images), plain(images))


def test_gradients_are_those_of_the_slow_way_and_of_the_printed_update():
    # Algorithm 1: the gradient of a weight is the sum over places of what its atom answers times the loss's gradient.
    layer = BasisConv2d(2, 3, gaussian_derivatives(2, 1.0, 5), padding=2).double()
    images = torch.randn(2, 2, 7, 7, dtype=torch.float64)
    output = layer(images)
    delta = torch.randn_like(output)
    (ours,) = torch.autograd.grad((output * delta).sum(), layer.coefficients)
    (slow,) = torch.autograd.grad((atoms_then_mixing(layer, images) * delta).sum(), layer.coefficients)
    answers = F.conv2d(images.flatten(0, 1)[:, None], layer.basis[:, None], padding=2).unflatten(0, (2, 2))
    torch.testing.assert_close(ours, slow, atol=1e-10, rtol=0)
    torch.testing.assert_close(ours, torch.einsum("nikhw,nohw->oik", answers, delta), atol=1e-10, rtol=0)
    assert torch.autograd.gradcheck(lambda c: F.conv2d(images, (c.flatten(0, 1) @ layer.basis.flatten(1)).view(
        3, 2, 5, 5), padding=2), layer.coefficients.detach().requires_grad_())  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), name=st.sampled_from(list(SETS)))
def test_initial_kernels_do_not_depend_on_the_scale_of_the_set(scale, name):
    basis = SETS[name]
    kernels = []
    for factor in (1.0, scale):
        torch.manual_seed(0)
        kernels.append(BasisConv2d(4, 6, factor * basis).kernel)
    torch.testing.assert_close(*kernels, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["pixels", "framelets", "naive", "gaussian"])
def test_initial_kernels_have_hes_square_norm(name):
    layer = BasisConv2d(64, 256, SETS[name])  # 16,384 kernels
    square = layer.kernel.detach().square().sum((2, 3))
    assert float(square.mean()) == pytest.approx(2 / 64, rel=0.05)
    assert (layer.bias == 0).all()


def test_sets_are_buffers_or_are_learned():
    fixed, free = (BasisConv2d(2, 3, framelets(), fixed=fixed) for fixed in (True, False))
    assert [n for n, _ in fixed.named_parameters()] == ["coefficients", "bias"]
    assert sorted(n for n, _ in free.named_parameters()) == ["basis", "bias", "coefficients"]
    assert set(fixed.state_dict()) == set(free.state_dict()) == {"basis", "bias", "coefficients"}
    free(torch.randn(1, 2, 5, 5)).sum().backward()
    assert free.basis.grad.abs().sum() > 0
    before = framelets()
    assert fixed.basis.dtype == torch.float32
    given_ = before.float()
    layer = BasisConv2d(2, 3, given_)
    given_.zero_()  # the layer has its own copy
    assert layer.basis.abs().sum() > 0


def layers():
    volume = gaussian_derivatives(2, 1.0, 5, dims=3)
    return [
        pytest.param(BasisConv2d(3, 4, SETS["gaussian"], padding=3), (2, 3, 10, 10), id="2-d"),
        pytest.param(
            BasisConv2d(3, 4, SETS["gaussian"], padding=3, separable=True), (2, 3, 10, 10), id="2-d separable"
        ),
        pytest.param(BasisConv3d(2, 4, volume, padding=2), (1, 2, 8, 7, 6), id="3-d"),
        pytest.param(BasisConv3d(2, 4, volume, padding=2, separable=True), (1, 2, 8, 7, 6), id="3-d separable"),
    ]


@pytest.mark.parametrize(("layer", "shape"), layers())
def test_state_copies_dtypes_autocast_and_export(layer, shape, tmp_path):
    images = torch.randn(shape)
    expected = layer(images)
    other = copy.deepcopy(layer)
    other.reset_parameters()
    assert not torch.equal(other(images), expected)
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(other(images), expected)
    double = copy.deepcopy(layer).double()
    torch.testing.assert_close(double(images.double()), expected.double(), atol=1e-5, rtol=1e-4)
    exported = torch.export.export(layer, (images,)).module()
    torch.testing.assert_close(exported(images), expected, atol=1e-6, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.kernel.dtype == torch.float32
        low = layer(images)
    assert low.dtype == torch.bfloat16
    assert (low.float() - expected).abs().max() < 0.03 * expected.abs().max()  # 8 bits, a few roundings
    assert copy.deepcopy(layer).to("meta")(images.to("meta")).shape == expected.shape


def test_a_state_with_other_atoms_reaches_a_separable_layer():
    wide = BasisConv2d(1, 2, gaussian_derivatives(2, 2.0, 7))
    layer = BasisConv2d(1, 2, gaussian_derivatives(2, 1.0, 7), separable=True)
    layer.load_state_dict(wide.state_dict())
    images = torch.randn(1, 1, 9, 9)
    torch.testing.assert_close(layer(images), wide(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, (1, 2, 3)])
@pytest.mark.parametrize("dims", [2, 3])
def test_convolving_along_the_axes_in_turn_is_the_same(stride, dims):
    if isinstance(stride, tuple):
        stride = stride[:dims]
    kind = BasisConv2d if dims == 2 else BasisConv3d
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        basis = torch.cat([gaussian_scales(2, (1.0, 2.0), 7, dims), torch.zeros(1, *[7] * dims)])  # and an empty atom
        layer = kind(2, 3, basis, stride=stride, padding=tuple(range(1, dims + 1)), separable=True)
        images = torch.randn(2, 2, *range(9, 9 + dims))
        torch.testing.assert_close(layer(images), atoms_then_mixing(layer, images), atol=1e-10, rtol=0)
        torch.testing.assert_close(layer(images), layer.fuse()(images), atol=1e-10, rtol=0)
    finally:
        torch.set_default_dtype(default)


def test_what_atoms_share_is_convolved_once():
    layer = BasisConv3d(1, 2, gaussian_derivatives(3, 4.0, 25, dims=3), separable=True)
    assert [len(getattr(layer, f"_taps{stage}")) for stage in range(3)] == [4, 10, 20]


def test_is_at_the_top_of_the_package():
    assert sk.BasisConv2d is BasisConv2d and sk.gaussian_derivatives is gaussian_derivatives
    assert "padding=(1, 1)" in repr(sk.BasisConv2d(1, 1, framelets(), padding="same"))


def test_bad_arguments_say_what_is_wrong():
    basis = framelets()
    for wrong, words in [
        ({"in_channels": 0}, "channels must be at least 1"),
        ({"basis": basis[0]}, r"finite numbers \(K, kH, kW\)"),
        ({"basis": basis[:0]}, "at least one"),
        ({"basis": basis * math.nan}, "finite numbers"),
        ({"basis": basis * 0}, "0 everywhere"),
        ({"basis": basis.numpy()}, "must be a tensor"),
        ({"basis": basis.to(torch.complex128)}, "real numbers"),
        ({"stride": 0}, "stride must be an integer of at least 1"),
        ({"stride": (1, 1, 1)}, "or 2 of them"),
        ({"padding": -1}, "padding must be an integer of at least 0"),
        ({"padding": "valid"}, "padding must be"),
        ({"padding": "same", "stride": 2}, "needs stride 1"),
        ({"padding": "same", "basis": torch.ones(1, 2, 2)}, "odd sides"),
        ({"separable": True, "fixed": False}, "does not stay separable"),
        ({"separable": True, "basis": torch.eye(3)[None]}, "atom 0 is no product"),
    ]:
        with pytest.raises(ValueError, match=words):
            BasisConv2d(**{"in_channels": 1, "out_channels": 1, "basis": basis} | wrong)
    with pytest.raises(ValueError, match="kD, kH, kW"):
        BasisConv3d(1, 1, basis)

"""Attribute networks: exact counts, the fast form against a direct loop in five dimensions, symmetry, gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spatialkit as sk
from spatialkit.models.attribute_layers import ColourLayer, FactoredLayer, PatchNorm, WindowLayer, marginal, patches

SMALL = {"values": 8, "factors": 5, "window": (3, 5)}
EVERYWHERE = {"padding": "circular", "halved": (), "attribute_stride": 1, "values": 4, "window": (3, 5)}


@pytest.fixture(autouse=True)
def _in_double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network(shape=(3, 8, 8), classes=10, **options):
    return sk.AttributeCNN(shape, classes, **{**SMALL, **options})


def images(n=3, shape=(3, 8, 8), seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def settled(model, n=4):
    """In evaluation mode, with statistics of some batches, scales and shifts as training would leave them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | PatchNorm) and module.weight is not None:
                module.weight.copy_(1 + 0.3 * torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
        for seed in range(5):
            model(images(n, model.image_shape, seed))
    return model.eval()


# ------------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize(("classes", "window", "plus", "expected"), [
    (10, (7, 11), False, 97_650),  # printed .098 M
    (10, (7, 11), True, 344_640),  # .34 M
    (100, (11, 11), False, 250_308),  # .25 M
    (100, (11, 11), True, 887_424),  # .89 M
])  # fmt: skip
def test_free_parameters_are_those_that_the_text_prints(classes, window, plus, expected):
    with torch.device("meta"):
        model = sk.AttributeCNN((3, 32, 32), classes, window=window, plus=plus)
    assert model.free_parameters == expected


def test_the_released_network_has_its_parameters():
    with torch.device("meta"):
        model = sk.AttributeCNN.released((3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 360_522
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d | PatchNorm) for p in m.parameters())
    assert 360_522 - norms == 359_594


def test_free_parameters_with_plus_are_those_of_the_convolutions():
    model = network(plus=True)
    assert model.free_parameters == sum(p.numel() for name, p in model.named_parameters() if "norm" not in name)


def test_sizes_of_the_printed_network():
    """Fig 13: a spatial subsampling in layers 5 and 9, attributes K/4 x K/2 x K."""
    shapes = [tuple(x.shape[1:]) for x in sk.AttributeCNN((3, 32, 32), 10).eval().arrays(images(1, (3, 32, 32)))]
    sides = [32] * 4 + [16] * 4 + [8] * 3
    assert shapes[0] == (32, 32, 16) and shapes[1] == (32, 32, 8, 16)
    assert shapes[2:] == [(n, n, 4, 8, 16 if j < 11 else 10) for j, n in enumerate(sides[2:], start=3)]


# ------------------------------------------------------------------------------------------------ direct loops


def at(x, place, circular):
    """Entries of an array at these places of its axes 1, 2, ...; 0 or the other end beyond the border."""
    size = x.shape[1 : 1 + len(place)]
    if circular:
        return x[(slice(None), *(p % n for p, n in zip(place, size, strict=True)))]
    inside = all(0 <= p < n for p, n in zip(place, size, strict=True))
    return x[(slice(None), *place)] if inside else torch.zeros_like(x[(slice(None), *(0 for _ in place))])


def direct_filters(x, h, stride, circular):
    """x * h at every place that is kept, N x H' x W' x A x B x Q."""
    _, H, W = x.shape[:3]
    rows = []
    for y, z in itertools.product(range(0, H, stride), range(0, W, stride)):
        total = sum(
            at(x, (y + dy - 1, z + dx - 1), circular)[..., None] * h[:, dy, dx]
            for dy, dx in itertools.product(range(3), range(3))
        )
        rows.append(total)
    return torch.stack(rows, dim=1).unflatten(1, (-(-H // stride), -(-W // stride)))


def direct_windows(z, g, step, circular):
    """Convolution along both attributes, place by place: N x H x W x A x B x Q -> N x H x W x A' x B' x filters."""
    N, H, W, A, B, _ = z.shape
    a, b = g.shape[2:]
    z = z.flatten(0, 2)
    out = [
        sum(
            at(z, (i + k - a // 2, m + n - b // 2), circular) @ g[:, :, k, n].T
            for k, n in itertools.product(range(a), range(b))
        )
        for i, m in itertools.product(range(0, A, step if a > 1 else 1), range(0, B, step))
    ]
    return torch.stack(out, dim=1).view(N, H, W, -1, -(-B // step), g.shape[0])


def standardised(x):
    """Mean 0 and variance 1 over all axes but the last."""
    mean = x.flatten(0, -2).mean(dim=0)
    return (x - mean) / (x.flatten(0, -2).var(dim=0, correction=0) + 1e-5).sqrt()


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("stride", "step"), [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("plus", [False, True])
def test_a_layer_is_its_definition(plus, stride, step, circular):
    torch.manual_seed(0)
    layer = FactoredLayer(3, 4, (3, 5), plus, stride=stride, step=step, circular=circular)
    if plus:
        nn.init.normal_(layer.patch_norm.weight)
        nn.init.normal_(layer.patch_norm.bias)
    x = torch.randn(2, 4, 5, 2, 4, 6)
    z = standardised(direct_filters(x.sum(dim=3), layer.h, stride, circular))
    if plus:
        z = F.elu(z * layer.patch_norm.weight + layer.patch_norm.bias)
    expected = F.elu(standardised(direct_windows(z, layer.g, step, circular)))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-11)  # scales of about 1 / .05 magnify rounding


@pytest.mark.parametrize("circular", [False, True])
def test_the_first_two_layers_are_their_definitions(circular):
    torch.manual_seed(0)
    first = ColourLayer(3, 6, 2, circular)
    x, pixels = images(2), images(2).permute(0, 2, 3, 1)
    expected = sum(
        direct_filters(pixels[..., c : c + 1, None], first.convolution.weight[:, c], 2, circular) for c in range(3)
    )
    torch.testing.assert_close(first(x), F.elu(standardised(expected[..., 0, 0, :])), rtol=0, atol=1e-11)
    second = WindowLayer(4, 5, stride=1, step=2, circular=circular)
    kernel = second.kernel.unflatten(1, (3, 3))[:, :, :, 0]  # filters x 3 x 3 x window
    x1, expected = first(x).detach(), 0
    for dy, dx in itertools.product(range(3), range(3)):
        one = torch.zeros(1, 3, 3)
        one[0, dy, dx] = 1
        shifted = direct_filters(x1.unsqueeze(3), one, 1, circular)
        expected = expected + direct_windows(shifted, kernel[:, None, dy, dx, None], 2, circular)
    torch.testing.assert_close(second(x1), F.elu(standardised(expected[:, :, :, 0])), rtol=0, atol=1e-11)


@pytest.mark.parametrize("plus", [False, True])
def test_the_network_is_its_layers(plus):
    model = settled(network(plus=plus))
    *_, last = model.arrays(images())
    torch.testing.assert_close(model(images()), last.mean(dim=(1, 2, 3, 4)), rtol=0, atol=1e-14)
    summed = settled(network(plus=plus, average=False))
    torch.testing.assert_close(summed(images()), last.sum(dim=(1, 2, 3, 4)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("j", [0, 1, 2, 3, 7, 11])
def test_a_network_resumes_at_any_layer(j):
    model = settled(network())
    arrays = [images(), *model.arrays(images())]
    torch.testing.assert_close(model.resume(arrays[j], j), model(images()), rtol=0, atol=1e-14)


def test_patches_and_margins_by_hand():
    x = torch.arange(9.0).view(1, 3, 3, 1, 1)
    assert patches(x, 1, circular=False)[:, 0, 0, 0, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 3, 4]
    assert patches(x, 1, circular=True)[:, 0, 0, 0, 0, 0].tolist() == [8, 6, 7, 2, 0, 1, 5, 3, 4]
    assert patches(x, 2, circular=False)[4, 0, :, :, 0, 0].tolist() == [[0, 2], [6, 8]]
    y = torch.randn(2, 3, 3, 4, 5, 6)
    assert marginal(y).shape == (2, 3, 3, 5, 6) and marginal(y[:, :, :, 0, 0]).shape == (2, 3, 3, 1, 6)


# ------------------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("affine", [False, True])
def test_patch_normalisation_is_batch_normalisation_of_the_filtered(affine):
    torch.manual_seed(0)
    ours, theirs = PatchNorm(4, affine), nn.BatchNorm1d(4, affine=affine)
    if affine:
        for module in (ours, theirs):
            module.weight.data, module.bias.data = torch.arange(4.0) + 1, torch.arange(4.0) - 2
    h = torch.randn(4, 9)
    for training in (True, True, False):
        ours.train(training)
        p = torch.randn(9, 200) + torch.arange(9.0)[:, None]
        mean, scale, shift = ours(p, h)
        if training:
            z = (p - mean[:, None]).T @ (scale[:, None] * h).T + shift
            torch.testing.assert_close(z, theirs(p.T @ h.T), rtol=0, atol=1e-12)
    torch.testing.assert_close(h @ ours.running_mean, theirs.running_mean, rtol=0, atol=1e-12)
    # torch's running variance starts at 1 for each output and is unbiased; ours starts at that of white patches
    variance = (h @ ours.running_covariance * h).sum(dim=1)
    expected = (theirs.running_var - 0.81) * 199 / 200 + 0.81 * h.square().sum(dim=1)
    torch.testing.assert_close(variance, expected, rtol=1e-12, atol=0)


def test_a_constant_image_is_no_trouble():
    out = network(plus=True).train()(torch.zeros(2, 3, 8, 8))
    assert out.isfinite().all()


def test_the_effective_kernel_acts_like_the_layer_and_has_rank_9_at_most():
    torch.manual_seed(0)
    layer = FactoredLayer(12, 4, (3, 5), False, stride=1, step=1, circular=True)
    x = torch.randn(2, 4, 4, 2, 4, 6)
    for _ in range(3):
        layer(x)
    layer.eval()
    kernel = layer.effective_kernel()
    assert kernel.shape == (4, 3, 3, 3, 5)
    assert int(torch.linalg.matrix_rank(kernel.transpose(0, 1).flatten(1).reshape(3, -1))) <= 3
    assert int(torch.linalg.matrix_rank(kernel.permute(1, 2, 0, 3, 4).reshape(9, -1))) <= 9
    mean = layer.patch_norm.running_mean.view(3, 3)
    z = direct_filters(x.sum(dim=3), torch.eye(9).view(9, 3, 3), 1, True) - mean.flatten()
    y = direct_windows(z, kernel.flatten(1, 2), 1, True)
    torch.testing.assert_close(
        layer(x), F.elu(layer.norm(y.movedim(-1, 1).flatten(2, 4)).view(2, 4, 4, 4, 4, 6).movedim(1, -1))
    )
    with pytest.raises(ValueError, match="no one kernel"):
        FactoredLayer(3, 4, (3, 5), True, stride=1, step=1, circular=True).effective_kernel()


# ------------------------------------------------------------------------------------------------ symmetry


@pytest.mark.parametrize("plus", [False, True])
def test_logits_do_not_change_when_any_layer_is_translated(plus):
    """Proposition 5.3.1, exact up to rounding; all layers, axes and some translations."""
    model, x0 = settled(network((3, 4, 5), plus=plus, **EVERYWHERE)), images(2, (3, 4, 5))
    with torch.no_grad():
        logits = model(x0)
        for j, x in enumerate(model.arrays(x0), start=1):
            for axis, by in itertools.product(range(1, x.ndim - (j == 11)), (1, 3)):  # classes stay where they are
                moved = model.resume(x.roll(by, axis), j)
                assert float((moved - logits).norm() / logits.norm()) < 1e-13, (j, axis, by)


def test_an_array_moves_along_with_the_one_before():
    """v_j of one layer is v_(j-1) of the next."""
    torch.manual_seed(0)
    layer = FactoredLayer(5, 4, (3, 5), False, stride=1, step=1, circular=True).eval()
    x = torch.randn(2, 4, 4, 3, 6, 8)
    torch.testing.assert_close(layer(x.roll(3, 5)), layer(x).roll(3, 4), rtol=0, atol=1e-14)
    torch.testing.assert_close(layer(x.roll(2, 4)), layer(x).roll(2, 3), rtol=0, atol=1e-14)
    torch.testing.assert_close(layer(x.roll(1, 1)), layer(x).roll(1, 1), rtol=0, atol=1e-14)
    torch.testing.assert_close(layer(x.roll(1, 3)), layer(x), rtol=0, atol=1e-14)  # summed over


@pytest.mark.parametrize("broken", [{"padding": "zeros"}, {"attribute_stride": 2}, {"halved": (5,)}])
def test_zeros_and_subsampling_break_the_invariance(broken):
    model = settled(network(**{**EVERYWHERE, **broken}))
    with torch.no_grad():
        x = list(model.arrays(images()))[3]
        logits, axis = model(images()), 1 if "halved" in broken else 5
        change, between = model.resume(x.roll(1, axis), 4) - logits, logits[1:] - logits[:-1]
    assert change.norm() > 0.01 * between.norm()


# ------------------------------------------------------------------------------------------------ gradients, the rest


@pytest.mark.parametrize("plus", [False, True])
def test_gradients_of_a_layer(plus):
    torch.manual_seed(0)
    layer = FactoredLayer(2, 2, (3, 3), plus, stride=2, step=2, circular=plus)
    x = torch.randn(2, 2, 2, 2, 4, 4, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(function, (x, *(v.detach().requires_grad_() for v in values)))


def test_every_parameter_of_the_network_learns():
    model = network(plus=True)
    F.cross_entropy(model(images(4)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_single_precision_is_close_to_double():
    model = settled(network())
    single = network().float()
    single.load_state_dict(model.state_dict())
    close = single.eval()(images().float()).double()
    torch.testing.assert_close(close, model(images()), rtol=0, atol=1e-5)


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    outputs = [network(seed=seed).eval()(images()) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(("options", "said"), [
    ({"shape": (3, 8)}, "image_shape three of them"),
    ({"classes": 0}, "counts must be at least 1"),
    ({"factors": 0}, "counts must be at least 1"),
    ({"first_stride": 0}, "counts must be at least 1"),
    ({"window": (4, 5)}, "two odd numbers"),
    ({"window": (3,)}, "two odd numbers"),
    ({"padding": "reflect"}, "'zeros' or 'circular'"),
    ({"halved": (1,)}, "layers from 2 to 11"),
    ({"halved": (12,)}, "layers from 2 to 11"),
    ({"attribute_stride": 3}, "1 or 2"),
    ({"values": 6}, "a multiple of 4"),
    ({"padding": "circular", "window": (11, 5)}, "no further than 4 and 8"),
])  # fmt: skip
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        network(**options)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"images must be N x 3 x 8 x 8, got \(2, 3, 8, 9\)"):
        network()(torch.zeros(2, 3, 8, 9))
    with pytest.raises(ValueError, match="j must be one of 0 to 11"):
        network().resume(torch.zeros(2, 8, 8, 8), 12)

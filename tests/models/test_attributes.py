"""Attribute networks: the source's counts, layers written out another way, and the proposition on translations."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from spatialkit.models import AttributeCNN
from spatialkit.models.attribute_layers import ColourLayer, FactoredLayer, WindowLayer

SMALL = {"values": 4, "factors": 3, "window": (3, 5)}


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shuffled(layer):
    """A layer in float64 whose normalisations, too, hold numbers that are neither 0 nor 1."""
    layer.double()
    for seed, (name, p) in enumerate(layer.named_parameters()):
        p.data = draw(*p.shape, seed=seed) * 0.5 + ("norm.weight" in name)
    return layer


def along_space(x, h, stride, circular):
    """Each filter of ``h``, Q x 3 x 3, on each map of x, N x H x W x A x B; Q x N x H' x W' x A x B."""
    N, H, W, A, B = x.shape
    maps = x.permute(0, 3, 4, 1, 2).reshape(-1, 1, H, W)
    maps = F.pad(maps, [1] * 4, mode="circular") if circular else F.pad(maps, [1] * 4)
    out = F.conv2d(maps, h[:, None], stride=stride)  # N A B, Q, H', W'
    return out.unflatten(0, (N, A, B)).permute(3, 0, 4, 5, 1, 2)


def along_attributes(z, g, step, circular):
    """Kernels ``g``, F x Q x a x b, on z, Q x N x H x W x A x B; N x H x W x A' x B' x F, pixel by pixel."""
    a, b = g.shape[2:]
    out = []
    for pixel in z.flatten(1, 3).unbind(1):  # Q x A x B
        margins = [b // 2, b // 2, a // 2, a // 2]
        wide = F.pad(pixel[None], margins, mode="circular") if circular else F.pad(pixel[None], margins)
        steps = [step if side > 1 else 1 for side in (a, b)]
        out.append(F.conv2d(wide, g)[0, :, :: steps[0], :: steps[1]])
    return torch.stack(out).permute(0, 2, 3, 1).unflatten(0, z.shape[1:4])


def normalised(x, dim, norm=None, statistics=None):
    """Over all axes but one, with the scale and shift of ``norm``; by the batch, or by (mean, variance)."""
    axes = [axis for axis in range(x.ndim) if axis != dim % x.ndim]
    shape = [-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]
    mean, variance = statistics or (x.mean(axes), x.var(axes, unbiased=False))
    x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return x if norm is None else x * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize(
    ("classes", "window", "plus", "count"),
    [(10, (7, 11), False, 97_650), (10, (7, 11), True, 344_640), (100, (11, 11), False, 250_308),
     (100, (11, 11), True, 887_424)],
)  # fmt: skip
def test_counts_of_free_parameters_are_the_sources(classes, window, plus, count):
    with torch.device("meta"):
        model = AttributeCNN((3, 32, 32), classes, plus=plus, window=window)
    assert model.free_parameters == count
    if plus:  # no sum of products can be rewritten, so they are the learned numbers
        assert sum(p.numel() for name, p in model.named_parameters() if "norm" not in name) == count


def test_the_released_network_has_its_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in AttributeCNN.released((3, 32, 32), 10).parameters()) == 360_522


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize(("circular", "stride", "step"), [(False, 1, 2), (False, 2, 1), (True, 1, 1), (True, 2, 2)])
@pytest.mark.parametrize("shape", [(2, 4, 5, 4, 6), (2, 5, 4, 3, 4, 6)], ids=["third layer", "later layer"])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_its_equation(plus, circular, stride, step, shape, training):
    layer = shuffled(FactoredLayer(3, 2, (3, 5), plus, stride=stride, step=step, circular=circular)).train(training)
    root = draw(9, 9, seed=7)
    layer.patch_norm.running_mean.copy_(draw(9, seed=8))
    layer.patch_norm.running_covariance.copy_(root @ root.T)
    layer.norm.running_mean.copy_(draw(2, seed=9))
    layer.norm.running_var.copy_(draw(2, seed=10).square())
    within = outer = None
    if not training:
        h, mean, covariance = layer.h.flatten(1), layer.patch_norm.running_mean, layer.patch_norm.running_covariance
        within, outer = (h @ mean, (h @ covariance @ h.T).diagonal()), (layer.norm.running_mean, layer.norm.running_var)
        within, outer = ([each.clone() for each in pair] for pair in (within, outer))
    x = draw(*shape)
    z = along_space(x.sum(dim=3) if len(shape) == 6 else x, layer.h, stride, circular)
    z = normalised(z, 0, layer.patch_norm if plus else None, within)
    z = F.elu(z) if plus else z
    expected = F.elu(normalised(along_attributes(z, layer.g, step, circular), -1, layer.norm, outer))
    torch.testing.assert_close(layer(x), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("circular", [False, True])
def test_a_layer_is_a_direct_loop_over_five_dimensions(circular):
    """Offset by offset of the window, place by place; an index beyond the border gives 0, or goes round."""
    layer = shuffled(FactoredLayer(3, 2, (3, 5), False, stride=1, step=2, circular=circular))
    x, sides = draw(2, 3, 4, 3, 4, 6), (3, 4, 4, 6)

    def at(z, *place):
        if circular:
            return z[:, *(i % n for i, n in zip(place, sides, strict=False))]
        inside = all(0 <= i < n for i, n in zip(place, sides, strict=False))
        return z[:, *place] if inside else torch.zeros_like(z[:, *(0 for _ in place)])

    z = torch.empty(2, *sides, 3, dtype=torch.float64)
    for y, u in itertools.product(range(3), range(4)):
        windows = itertools.product(range(3), range(3))
        z[:, y, u] = sum(at(x.sum(dim=3), y + i - 1, u + k - 1)[..., None] * layer.h[:, i, k] for i, k in windows)
    z, out = normalised(z.detach(), -1), torch.empty(2, 3, 4, 2, 3, 2, dtype=torch.float64)
    for y, u, a, b in itertools.product(range(3), range(4), range(2), range(3)):
        windows = itertools.product(range(3), range(5))
        out[:, y, u, a, b] = sum(at(z, y, u, 2 * a + i - 1, 2 * b + k - 2) @ layer.g[:, :, i, k].T for i, k in windows)
    torch.testing.assert_close(layer(x), F.elu(normalised(out, -1, layer.norm)), atol=1e-10, rtol=1e-10)


def test_the_rank_of_a_layer_is_nine_at_most_however_many_factors_it_has():
    layer = FactoredLayer(32, 4, (3, 5), False, stride=1, step=1, circular=False).double()
    kernel = layer.effective_kernel().permute(1, 2, 0, 3, 4).reshape(9, -1)  # space by all else
    assert int(torch.linalg.matrix_rank(kernel)) == 9
    products = torch.stack([torch.outer(layer.h[q].flatten(), layer.g[:, q].flatten()) for q in range(32)]).detach()
    assert products.sum(dim=0).shape == kernel.shape and int(torch.linalg.matrix_rank(products.sum(dim=0))) == 9


@pytest.mark.parametrize(("circular", "stride", "step"), [(False, 2, 2), (True, 1, 1)])
def test_the_second_layer_is_a_convolution_of_three_axes(circular, stride, step):
    layer = shuffled(WindowLayer(2, 5, stride=stride, step=step, circular=circular))
    x = draw(2, 5, 4, 6)  # N, H, W, v_1
    maps = x[:, None]
    for axis, margin in ((4, 2), (3, 1), (2, 1)):
        sides = [0] * 6
        sides[2 * (4 - axis)] = sides[2 * (4 - axis) + 1] = margin
        maps = F.pad(maps, sides, mode="circular") if circular else F.pad(maps, sides)
    kernel = layer.kernel.view(2, 1, 3, 3, 5)
    out = F.conv3d(maps, kernel, stride=(stride, stride, step)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(layer(x), F.elu(normalised(out, -1, layer.norm)), atol=1e-11, rtol=1e-10)


def test_the_first_layer_is_a_normalised_convolution():
    layer = shuffled(ColourLayer(3, 4, 2, circular=True))
    images = draw(2, 3, 6, 8)
    out = F.conv2d(F.pad(images, [1] * 4, mode="circular"), layer.convolution.weight, stride=2).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(images), F.elu(normalised(out, -1, layer.norm)), atol=1e-12, rtol=1e-10)


def test_without_plus_a_layer_answers_to_an_impulse_with_its_effective_kernel():
    layer = FactoredLayer(3, 2, (3, 5), False, stride=1, step=1, circular=False).double().eval()
    root = draw(9, 9, seed=7)
    layer.patch_norm.running_covariance.copy_(root @ root.T)
    impulse = torch.zeros(1, 3, 3, 3, 5, dtype=torch.float64)
    impulse[0, 1, 1, 1, 2] = 1.0
    kernel = layer.effective_kernel()  # F x 3 x 3 x 3 x 5; layers correlate: flipped along all four axes
    expected = F.elu(kernel.flip(1, 2, 3, 4) / math.sqrt(1 + layer.norm.eps)).permute(1, 2, 3, 4, 0)[None]
    torch.testing.assert_close(layer(impulse), expected, atol=1e-12, rtol=1e-10)
    with pytest.raises(ValueError, match="no one kernel for both"):
        FactoredLayer(3, 2, (3, 5), True, stride=1, step=1, circular=False).effective_kernel()


def test_running_statistics_are_those_of_the_patches():
    layer = FactoredLayer(3, 2, (3, 3), False, stride=1, step=1, circular=True).double()
    layer.patch_norm.momentum = 1.0
    x = draw(3, 6, 5, 4, 4)
    layer(x)
    z = along_space(x, layer.h.detach(), 1, True).flatten(1)
    h = layer.h.detach().flatten(1)
    torch.testing.assert_close(h @ layer.patch_norm.running_mean, z.mean(1), atol=1e-13, rtol=1e-10)
    variance = (h @ layer.patch_norm.running_covariance @ h.T).diagonal()
    torch.testing.assert_close(variance, z.var(1, unbiased=False), atol=1e-13, rtol=1e-10)


@pytest.mark.parametrize("dense", [False, True])
def test_arrays_carry_the_two_last_attributes_and_subsample_what_gets_older(dense):
    model = AttributeCNN((3, 8, 12), 5, values=8, factors=2, window=(3, 3), dense=dense)
    arrays = list(model.arrays(draw(2, 3, 8, 12).float()))
    assert [tuple(x.shape) for x in arrays[:3]] == [(2, 8, 12, 8), (2, 8, 12, 4, 8), (2, 8, 12, 2, 4, 8)]
    assert [tuple(x.shape[1:3]) for x in arrays[3:]] == [(8, 12)] + [(4, 6)] * 4 + [(2, 3)] * 3  # halved at 5 and 9
    assert {tuple(x.shape[3:]) for x in arrays[2:-1]} == {(2, 4, 8)}
    assert tuple(arrays[-1].shape[3:]) == (2, 4, 8 if dense else 5)
    model.eval()
    images = draw(2, 3, 8, 12, seed=1).float()
    logits = model(images)
    assert logits.shape == (2, 5)
    assert all(model.resume(x, j).equal(logits) for j, x in enumerate(model.arrays(images), start=1))


def test_logits_are_averages_or_sums_of_the_last_array():
    models = [AttributeCNN((1, 4, 4), 3, average=average, **SMALL).double().eval() for average in (True, False)]
    images = draw(2, 1, 4, 4)
    *_, last = models[0].arrays(images)
    places = last[0, ..., 0].numel()
    torch.testing.assert_close(models[0](images), last.mean(dim=(1, 2, 3, 4)))
    torch.testing.assert_close(models[1](images), places * models[0](images))


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize(("j", "axis"), [(0, 3), (1, 1), (1, 3), (4, 2), (4, 3), (4, 4), (4, 5), (9, 5)])
def test_translations_along_space_and_attributes_leave_the_logits(plus, j, axis):
    """Proposition 5.3.1."""
    options = {"padding": "circular", "halved": (), "attribute_stride": 1, "plus": plus, **SMALL}
    model = AttributeCNN((2, 5, 6), 3, **options).double()
    model(draw(4, 2, 5, 6, seed=5))  # running statistics of some batch
    model.eval()
    images = draw(2, 2, 5, 6)
    x = images if j == 0 else list(model.arrays(images))[j - 1]
    moved = x.roll(1, axis)
    assert not torch.allclose(moved, x, atol=1e-6)
    torch.testing.assert_close(model.resume(moved, j), model.resume(x, j), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"padding": "circular"}, {"halved": (), "attribute_stride": 1}])
def test_zeros_and_subsampling_break_the_invariance(options):
    model = AttributeCNN((2, 8, 8), 3, **{**SMALL, **options}).double().eval()
    x = list(model.arrays(draw(2, 2, 8, 8)))[3]
    off = [float((model.resume(x.roll(1, axis), 4) - model.resume(x, 4)).abs().max().detach()) for axis in (4, 5)]
    assert min(off) > 1e-9


def test_seeds_decide_the_weights_and_leave_torchs_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (AttributeCNN((1, 4, 4), 3, seed=seed, **SMALL) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(before)
    images = draw(2, 1, 4, 4).float()
    assert one(images).equal(same(images)) and not one(images).equal(other(images))
    kernels = torch.cat([layer.g.detach().flatten() for layer in list(AttributeCNN((1, 4, 4), 3).layers)[2:]])
    assert float(kernels.std()) == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize("plus", [False, True])
def test_gradients(plus):
    layer = FactoredLayer(2, 2, (3, 3), plus, stride=2, step=1, circular=False).double()
    layer.h.data, layer.g.data = draw(2, 3, 3, seed=1), draw(2, 2, 3, 3, seed=2)
    names, values = zip(*layer.named_parameters(), strict=True)
    call = lambda x, *p: torch.func.functional_call(layer, dict(zip(names, p, strict=True)), x)  # noqa: E731
    assert torch.autograd.gradcheck(call, (draw(2, 3, 2, 2, 2).requires_grad_(), *values))


@pytest.mark.parametrize("arguments, match", [
    ({"image_shape": (3, 8)}, "image_shape three of them"),
    ({"classes": 0}, "counts must be at least 1"),
    ({"factors": 0}, "counts must be at least 1"),
    ({"window": (3, 4)}, "window must be two odd numbers"),
    ({"padding": "reflect"}, "padding must be 'zeros' or 'circular', got 'reflect'"),
    ({"halved": (1, 5)}, "halved must be layers from 2 to 11"),
    ({"attribute_stride": 3}, "attribute_stride must be 1 or 2"),
    ({"values": 6}, "values must be a multiple of 4, or attribute_stride 1"),
    ({"padding": "circular", "values": 4, "window": (7, 11)}, "reach no further than 2 and 4 values"),
])  # fmt: skip
def test_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        AttributeCNN(**{"image_shape": (3, 8, 8), "classes": 10, **arguments})


def test_refuses_images_and_arrays_that_do_not_fit():
    model = AttributeCNN((1, 4, 4), 3, **SMALL)
    with pytest.raises(ValueError, match=r"images must be N x 1 x 4 x 4, got \(2, 3, 4, 4\)"):
        model(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="j must be one of 0 to 11, got 12"):
        model.resume(torch.zeros(2, 1, 4, 4), 12)

"""Networks on a ring: against plain loops, and what the theory assumes of them."""

import math

import pytest
import torch

from spatialkit.models import CircularCNN

SHAPES = [
    pytest.param(3, 1, 8, id="stride-1"),
    pytest.param(4, 1, 7, id="even-filter"),
    pytest.param(2, 2, 8, id="stride-F"),
    pytest.param(3, 3, 18, id="stride-3"),
]


def network(kernel, stride, activation="relu", width=3, seed=0):
    return CircularCNN(2, width, kernel, stride, activation, seed).double()


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kernel", "stride", "size"), SHAPES)
def test_layers_are_the_formula(kernel, stride, size):
    model, images = network(kernel, stride), draw(2, 1, size)
    below, offset = images, (kernel - 1) // 2 if stride == 1 else 0
    for w, b, above in zip(model.kernels, model.biases, model.feature_maps(images), strict=True):
        N, C, L = below.shape
        for n in range(N):
            for c in range(len(w)):
                for i in range(L // stride):
                    total = sum(
                        w[c, d, f] * below[n, d, (stride * i + f - offset) % L] for d in range(C) for f in range(kernel)
                    )
                    expected = math.sqrt(kernel) * max(0.0, b[c] + total / math.sqrt(kernel * C))
                    assert above[n, c, i].item() == pytest.approx(expected.item() if expected else 0.0, abs=1e-12)
        below = above
    expected = model.bias + (below.mean(dim=2) * model.beta).mean(dim=1)
    torch.testing.assert_close(model(images), expected)


def test_turning_the_ring_turns_the_maps_and_keeps_the_output():
    model, images = network(3, 1), draw(2, 1, 9)
    for before, after in zip(model.feature_maps(images), model.feature_maps(images.roll(2, -1)), strict=True):
        torch.testing.assert_close(before.roll(2, -1), after)
    torch.testing.assert_close(model(images), model(images.roll(5, -1)))


def test_mean_kernels_are_all_alike_and_keep_the_mean_of_what_a_layer_adds_up():
    model, images = network(3, 1, "linear"), draw(2, 1, 8)
    before = [p.detach().clone() for p in model.parameters()]
    mean = model.with_mean_kernels()
    for new, old in zip(mean.kernels, model.kernels, strict=True):
        torch.testing.assert_close(new, old.mean(dim=(0, 1)).expand_as(new))
    first, own = mean.feature_maps(images)[0], model.feature_maps(images)[0]  # one input channel, linear: means agree
    torch.testing.assert_close(first.mean(dim=1), own.mean(dim=1))
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(b.equal(old) for b, old in zip(mean.biases, model.biases, strict=True))


def test_homogeneous_filters_keep_the_sum_or_count():
    image = torch.zeros(1, 1, 16)
    image[0, 0, [3, 12]] = 1
    smooth = CircularCNN.homogeneous(4, 3).feature_maps(image)
    torch.testing.assert_close(smooth[3].sum(), torch.tensor(2.0))
    torch.testing.assert_close(smooth[0][0, 0, 2:5], torch.full((3,), 1 / 3))
    counts = CircularCNN.homogeneous(3, 2, stride=2).feature_maps(image)
    torch.testing.assert_close(counts[1][0, 0], torch.tensor([1.0, 0, 0, 1]))
    torch.testing.assert_close(counts[2][0, 0], torch.tensor([1.0, 1]))


def test_seed_and_scale_of_the_initial_weights():
    first, again, other = (CircularCNN(3, 80, 3, seed=s).weights[1] for s in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
    assert first.std().item() == pytest.approx(1, rel=0.02)  # 19,200 draws: sd 0.5 %
    assert CircularCNN(3, 80, 3).kernels[1].shape == (80, 80, 3)


@pytest.mark.parametrize(("arguments", "match"), [
    ((0, 4, 3), "at least 1"),
    ((2, 4, 3, 2), "stride must be 1 or kernel_size, 3"),
    ((2, 4, 3, 1, "step"), "activation must be one of relu"),
])  # fmt: skip
def test_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        CircularCNN(*arguments)
    with pytest.raises(ValueError, match="no multiple of the stride"):
        CircularCNN(2, 4, 2, 2)(torch.zeros(1, 1, 7))

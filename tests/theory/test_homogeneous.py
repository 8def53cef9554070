"""Exact sequences of homogeneous filters, against counting, simulation and a network of such filters."""

import itertools
import math

import numpy as np
import pytest
import torch

from spatialkit.models import CircularCNN
from spatialkit.theory import homogeneous_sensitivities, pixel_response, step_moments


@pytest.mark.parametrize("kernel", range(1, 10))
def test_moments_are_those_of_the_steps_and_add_up(kernel):
    steps = np.arange(kernel) - kernel // 2
    mean, variance = step_moments(kernel)
    assert (mean, variance) == pytest.approx((steps.mean(), steps.var()))
    place = np.arange(101) - 50
    h = pixel_response(kernel, 5, 101)[5]
    assert h.sum() == pytest.approx(1) and h @ place == pytest.approx(5 * mean)
    assert h @ (place - 5 * mean) ** 2 == pytest.approx(5 * variance)


@pytest.mark.parametrize(("kernel", "depth"), [(2, 5), (3, 4), (4, 3)])
def test_response_counts_the_paths(kernel, depth):
    steps = [s - kernel // 2 for s in range(kernel)]
    counts = np.zeros(41)
    for path in itertools.product(steps, repeat=depth):
        counts[20 + sum(path)] += 1
    np.testing.assert_allclose(pixel_response(kernel, depth, 41)[depth], counts / kernel**depth)


def test_on_a_small_ring_the_tails_wrap():
    wide, narrow = pixel_response(3, 6, 35)[6], pixel_response(3, 6, 5)[6]
    np.testing.assert_allclose(narrow, np.roll(wide, 2 - 17).reshape(7, 5).sum(axis=0), atol=1e-15)


@pytest.mark.parametrize(
    ("kernel", "stride", "depth", "size"), [(3, 1, 4, 32), (5, 1, 3, 40), (2, 2, 5, 32), (3, 3, 3, 54)]
)
def test_sensitivities_are_those_of_the_network(kernel, stride, depth, size):
    table = homogeneous_sensitivities(kernel, depth, size, stride)
    model = CircularCNN.homogeneous(depth, kernel, stride).double()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.eye(size, dtype=torch.float64)[:, None]
    noise = torch.randn(20_000, 1, size, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        clean, moved = (model.feature_maps(x) for x in (pixels, pixels.roll(1, 0)))
        noised = {"G rectified": model.feature_maps(noise.relu()), "G plain": model.feature_maps(noise)}
        model.activation = "linear"
        noised["G linear"] = model.feature_maps(noise)
    for k, row in enumerate(table.itertuples(index=False)):
        norm = clean[k].square().sum() / size
        difference = (moved[k] - clean[k]).square().sum() / size
        assert row.D == pytest.approx(float(difference / norm), abs=1e-12)
        for name, maps in noised.items():
            squares = maps[k].square().sum(dim=(1, 2)) / norm / size
            error = float(squares.std()) / math.sqrt(len(squares))
            assert table[name][k] == pytest.approx(float(squares.mean()), abs=5 * error)


def test_the_law_of_large_depth():
    # a_k(0) -> 1 / (2 sqrt(pi v k)), hence D_k -> 1 / (2 v k) and G_k -> m^2 2 sqrt(pi v k), with v = 2/3
    table = homogeneous_sensitivities(3, 400, 301)
    last = table.iloc[-1]
    assert 400 * last["D"] == pytest.approx(3 / 4, rel=2e-3)
    assert last["G rectified"] / math.sqrt(400) == pytest.approx(
        2 * math.sqrt(math.pi * 2 / 3) / (2 * math.pi), rel=0.05
    )
    assert (table["G linear"] == 1).all()


@pytest.mark.parametrize(("call", "match"), [
    (lambda: step_moments(0), "at least 1"),
    (lambda: pixel_response(3, -1, 8), "depth at least 0"),
    (lambda: homogeneous_sensitivities(3, 2, 9, 2), "stride must be 1 or kernel_size, 3"),
    (lambda: homogeneous_sensitivities(2, 4, 24, 2), "do not fit 24 pixels"),
])  # fmt: skip
def test_refuses_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()

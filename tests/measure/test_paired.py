"""Sensitivities for listed perturbations, against loops over all pairs."""

import math

import pytest
import torch

from spatialkit.measure import paired_sensitivity


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layers(images):
    return [images + 100, torch.relu(images @ draw(7, 5, seed=9))[:, None]]


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_is_the_formula(batch):
    x, versions = draw(9, 1, 7), [draw(9, 1, 7, seed=s) for s in (1, 2)]
    table = paired_sensitivity(layers, x, {"both": versions, "one": versions[0]}, batch=batch)
    for k, f in enumerate(layers(x)):
        spread = [float((f[i] - f[j]).square().sum()) for i in range(9) for j in range(9) if i != j]
        responses = [[float((layers(v)[k][i] - f[i]).square().sum()) for i in range(9)] for v in versions]
        mean = sum(spread) / len(spread)
        assert table["one"][k] == pytest.approx(sum(responses[0]) / 9 / mean)
        assert table["both"][k] == pytest.approx(sum(map(sum, responses)) / 18 / mean)
        assert table["norm"][k] == pytest.approx(float(f.flatten(1).square().sum(1).mean()))
    assert table["layer"].tolist() == [1, 2]


def test_no_perturbation_is_0_and_a_cyclic_swap_is_1():
    x = draw(2, 1, 7)
    table = paired_sensitivity(layers, x, {"none": x, "swapped": x.flip(0)})
    assert table["none"].tolist() == [0, 0]
    assert table["swapped"].tolist() == pytest.approx([1, 1])


def test_scale_does_not_matter():
    x, y = draw(5, 1, 7), draw(5, 1, 7, seed=1)
    small = paired_sensitivity(lambda z: [1e-3 * f for f in layers(z)], x, {"D": y})
    assert small["D"].tolist() == pytest.approx(paired_sensitivity(layers, x, {"D": y})["D"].tolist())


def test_equal_representations_have_no_sensitivity():
    x = draw(4, 1, 7)
    table = paired_sensitivity(lambda z: [torch.ones_like(z)], x, {"D": draw(4, 1, 7, seed=1)})
    assert math.isnan(table["D"][0])


@pytest.mark.parametrize(("images", "perturbed", "match"), [
    (torch.zeros(1, 1, 7), {}, "at least two images"),
    (torch.zeros(3, 1, 7), {"D": torch.zeros(3, 1, 8)}, "'D' must hold images of shape"),
    (torch.zeros(3, 1, 7), {"D": []}, "at least once"),
])  # fmt: skip
def test_refuses_bad_input(images, perturbed, match):
    with pytest.raises(ValueError, match=match):
        paired_sensitivity(lambda z: [z], images, perturbed)

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from spatialkit.deform import Diffeomorphism
from spatialkit.measure import calibrate, layer_orderness, sensitivity

FIELDS = Diffeomorphism.of_rms(1, cutoff=3, size=12)


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)]
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def images():
    return 3 + 2 * torch.randn(12, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def test_statistics_are_those_of_the_images(network, images):
    before = copy.deepcopy(network)
    calibrate(network, images)
    with torch.no_grad():
        first = network[0](images)
        second = network[4](nn.functional.relu(nn.functional.batch_norm(first, None, None, training=True)))
    for layer, maps in ((network[1], first), (network[5], second)):
        torch.testing.assert_close(layer.running_mean, maps.mean((0, 2, 3)))
        torch.testing.assert_close(layer.running_var, maps.var((0, 2, 3)))
        assert layer.momentum == 0.1
    assert network.training and all(m.training for m in network)
    for a, b in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)


def test_batches_count_alike(network, images):
    calibrate(network, images, batch=5)
    means = torch.stack([network[0](part).mean((0, 2, 3)) for part in images.tensor_split(3)])
    torch.testing.assert_close(network[1].running_mean, means.mean(0))


def test_a_network_without_statistics_is_measured_with_a_warning_and_a_reason(network, images):
    for measure in (layer_orderness, lambda m, x: sensitivity(m, x, FIELDS)):
        with pytest.warns(UserWarning, match="has no statistics yet: calibrate") as caught:
            table = measure(network, images)
        assert len(caught) == 1
        known = table[table["value"].notna()].groupby("layer", sort=False)["why"].first()
        assert (known[["1", "3", "5"]].str.contains("no statistics")).all() and known["0"] == ""
    calibrate(network, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = layer_orderness(network, images)
    assert (table["why"][table["value"].notna()] == "").all()
    assert np.isfinite(table["value"]).any()


def test_refuses_what_cannot_be_calibrated(network, images):
    with pytest.raises(ValueError, match="no batch normalisation"):
        calibrate(nn.Sequential(nn.Conv2d(2, 4, 3)), images)
    with pytest.raises(ValueError, match="at least 2 images"):
        calibrate(network, images[:1])
    with pytest.raises(ValueError, match="batches of at least 2"):
        calibrate(network, images, batch=1)

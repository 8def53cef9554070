import copy

import numpy as np
import pytest
import torch
from torch import nn

from spatialkit.measure import layer_orderness, orderness_of_each
from spatialkit.measure.grids import Grid
from spatialkit.measure.layers import LayerOrderness, PathSums, StepSums
from spatialkit.measure.survey import Layer
from spatialkit.models import PlainCNN


@pytest.fixture(scope="module")
def network():
    return PlainCNN((1, 28, 28), 10, 3, width=8, seed=0)


@pytest.fixture(scope="module")
def images():
    return torch.randn(37, 1, 28, 28, generator=torch.Generator().manual_seed(1))


BLOCKS = ["blocks.0", "blocks.1", "blocks.2"]


@pytest.mark.parametrize("neighbours, scale", [("4", 1), ("straight", 1), ("8", 1), ("4", 2)])
def test_equals_the_orderness_of_stored_feature_maps(network, images, neighbours, scale):
    layers = BLOCKS[: 3 if scale == 1 else 2]
    table = layer_orderness(network, images, layers, scale, neighbours)
    with torch.no_grad():
        maps = network.double().feature_maps(images.double())[: len(layers)]
    network.float()
    stored = torch.cat([orderness_of_each(m, "map", scale, neighbours) for m in maps])
    assert list(table["layer"].unique()) == layers
    np.testing.assert_allclose(table["value"], stored, rtol=1e-4, atol=1e-5)  # float32 feature maps


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_does_not_depend_on_the_batch(network, images, batch):
    whole = layer_orderness(network, images, BLOCKS, batch=37)
    np.testing.assert_allclose(
        layer_orderness(network, images, BLOCKS, batch=batch)["value"], whole["value"], rtol=1e-5
    )


def test_takes_every_layer_with_maps_of_three_pixels_by_default(network, images):
    table = layer_orderness(network, images)
    assert {"blocks.0.0", "blocks.0.1", "blocks.0.2", "blocks.2.2"} <= set(table["layer"][table["why"] == ""])
    head = table[table["layer"].str.startswith("head")]
    assert len(head) > 0 and head["value"].isna().all() and head["why"].str.contains("no maps").all()


def test_leaves_network_and_mode_alone(network, images):
    before = copy.deepcopy(network.state_dict())
    network.train()
    layer_orderness(network, images, BLOCKS)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_dead_map_has_no_orderness(network, images):
    dead = copy.deepcopy(network)
    with torch.no_grad():
        dead.blocks[0][0].bias[3] = -1e3
    table = layer_orderness(dead, images, ["blocks.0"])
    assert table["value"].isna().tolist() == [i == 3 for i in range(8)]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 2, 3, 3), (9, 4, 3, 8), (300, 3, 14, 14), (2, 1, 40, 33)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_quick_sums_equal_the_plain_ones(shape, channels_last):
    maps = noise(*shape).cumsum(-1) + 30
    maps = maps.contiguous(memory_format=torch.channels_last) if channels_last else maps
    quick, plain = StepSums(), PathSums()
    for part in maps.split(100):
        quick.update(part)
        plain.update(part.double())
    np.testing.assert_allclose(quick.per_map(), plain.per_map(), rtol=1e-5, atol=1e-6)


def test_quick_sums_are_exact_over_many_batches():
    # 2000 updates of one image: sums in float32 alone would have lost five digits.
    quick, image = StepSums(), noise(1, 2, 200, 200).cumsum(-2)
    for _ in range(2000):
        quick.update(image)
    np.testing.assert_allclose(quick.per_map(), orderness_of_each(image.double(), "map"), rtol=1e-5)


def test_memory_does_not_grow_with_the_images():
    def held(meter):
        return sum(t.numel() for value in vars(meter).values() if isinstance(value, list) for t in value)

    meter = StepSums()
    meter.update(noise(4, 2, 9, 9))
    before = held(meter)
    meter.update(noise(5000, 2, 9, 9))
    assert held(meter) == before > 0


def test_refuses_bad_input(network, images):
    with pytest.raises(ValueError, match="layer 'head' puts out"):
        layer_orderness(network, images, ["head"])
    with pytest.raises(ValueError, match="at least 30 x 30 pixels"):
        layer_orderness(network, images, scale=10)
    with pytest.raises(ValueError, match="neighbours must be one of"):
        layer_orderness(network, images, neighbours="6")
    with pytest.raises(ValueError, match="no layer puts out maps"):
        layer_orderness(nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), images)
    with pytest.raises(ValueError, match="nan or inf"):
        layer_orderness(network, images * float("inf"), BLOCKS)


@pytest.mark.parametrize("sums", [StepSums, PathSums])
def test_a_change_of_shape_is_refused(sums):
    meter = sums()
    meter.update(noise(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"must be \(N, 3, 8, 8\), got \(2, 3, 4, 4\)"):
        meter.update(noise(2, 3, 4, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_is_the_same_on_a_gpu(network, images):
    here = layer_orderness(network, images, BLOCKS)["value"]
    there = layer_orderness(copy.deepcopy(network).cuda(), images, BLOCKS)["value"]
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


def test_a_meter_that_saw_no_images_says_so():
    meter = LayerOrderness()(Layer("conv", "conv", grid=Grid((2, 3), (5, 5))))
    with pytest.raises(ValueError, match="puts out nothing for these images"):
        list(meter.rows())

"""Every measure in one table, against the measures one by one, and against closed forms."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spatialkit as sk
from spatialkit.measure.probes import Probe, check_labels
from spatialkit.measure.tables import COLUMNS


@pytest.fixture(scope="module")
def images():
    rough = torch.randn(20, 2, 20, 20, generator=torch.Generator().manual_seed(1))
    return nn.functional.avg_pool2d(rough, 5, stride=1)  # 16 x 16


def network(inplace=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(1024, 3)
    )


@pytest.fixture(scope="module")
def table(images):
    return sk.measure_all(network(), images, [i % 2 for i in range(20)])


def test_one_table_in_the_order_of_layers_with_a_reason_for_every_gap(table):
    assert list(table.columns) == list(COLUMNS)
    assert list(table["layer"].unique()) == ["input", "0", "1", "2", "3", "4"]
    assert (table["value"].isna() == (table["why"] != "")).all()
    per_layer = table.drop_duplicates(["layer", "perturbation", "normaliser", "measure"]).groupby("layer").size()
    assert per_layer.nunique() == 1  # every measure of every layer


def test_equals_the_measures_one_by_one(table, images):
    fields = sk.Diffeomorphism.of_rms(0.5, cutoff=3, size=16)
    alone = sk.sensitivity(network(), images, fields).set_index(["layer", "normaliser", "measure"])["value"]
    for measure, name in [("D", "deformation"), ("G", "noise"), ("R", "deformation / noise")]:
        rows = table[(table["measure"] == measure) & (table["perturbation"] == name)]
        found = rows.set_index("layer")["value"]
        expected = alone.xs(("mean square", measure), level=("normaliser", "measure"))
        pd.testing.assert_series_equal(found, expected, check_names=False, rtol=1e-4)
    maps = table.query("measure == 'orderness' and layer == '1'")["value"].to_numpy()
    expected = sk.layer_orderness(network(), images).query("layer == '1'")["value"].to_numpy()
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)
    kernel = network()[0].weight
    of_first = table.query("layer == '0'").set_index("measure")["value"]
    assert of_first["total variation"] == sk.total_variation(kernel)
    assert of_first["constant mode"] == sk.measure.laplacian_spectrum(kernel)["share"][0]


@pytest.mark.parametrize("change", ["fine", "fails"])
def test_leaves_the_model_as_it_was(images, change):
    model = network().train()
    model[2].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    if change == "fine":
        sk.measure_all(model, images)
    else:
        with pytest.raises(ValueError, match="square"):
            sk.measure_all(model, images[..., :8])
    assert [m.training for m in model] == [True, True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or "forward" in vars(m) for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labels": [0, 1]}, "one class for each of the 20 images"),
        ({"labels": [0] * 20}, "two classes"),
        ({"labels": [1] + [0] * 19}, "two images each"),
        ({"seed": -1}, "seed"),
        ({"layers": ["7"]}, "no layer '7'"),
        ({"batch": 0}, "batch"),
    ],
)
def test_refuses_before_any_work(images, options, message):
    with pytest.raises(ValueError, match=message):
        sk.measure_all(network(), images, **options)


def test_a_uniform_square_has_its_receptive_field():
    for side in (1, 3, 5):
        layer = nn.Conv2d(1, 1, side, padding=side // 2)
        nn.init.ones_(layer.weight)
        found = sk.measure.receptive_fields(nn.Sequential(layer), torch.rand(2, 1, 15, 15)).set_index("layer")["value"]
        assert found["0"] == pytest.approx(math.sqrt((side**2 - 1) / 12), abs=1e-6)
        assert found["input"] == 0


def test_receptive_fields_are_those_of_the_whole_jacobian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 40, 3, padding=1), nn.Tanh(), nn.Conv2d(40, 400, 3, padding=1)).double()
    x = torch.rand(1, 2, 9, 9, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0, :, 4, 4], x)
    weights = jacobian.square().sum((0, 1, 2))
    weights /= weights.sum()
    place = torch.arange(9.0, dtype=torch.float64)
    variances = [(w * place**2).sum() - (w * place).sum() ** 2 for w in (weights.sum(0), weights.sum(1))]
    expected = math.sqrt(sum(variances) / 2)
    many = [sk.measure.receptive_fields(model, x, ["2"], seed=s)["value"][0] ** 2 for s in range(200)]
    assert np.sqrt(np.mean(many)) == pytest.approx(expected, rel=0.03)


def test_layers_in_place_see_as_much_as_others():
    x = torch.rand(2, 2, 16, 16)
    found = [sk.measure.receptive_fields(network(inplace), x)["value"] for inplace in (True, False)]
    pd.testing.assert_series_equal(*found)


class Cut(nn.Module):
    def forward(self, x):
        return x.detach()


def test_says_where_no_gradient_passes():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), Cut(), nn.Conv2d(2, 2, 3))
    found = sk.measure.receptive_fields(model, torch.rand(2, 1, 9, 9)).set_index("layer")
    assert found["why"].to_dict() == {
        "input": "",
        "0": "",
        "1": "no gradient reaches the image",
        "2": found["why"]["1"],
    }


@pytest.mark.parametrize("images", [torch.rand(2, 5), torch.zeros(2, 1, 9, 9, dtype=torch.uint8)])
def test_receptive_fields_refuse_other_images(images):
    with pytest.raises(ValueError, match="floating point, N x C x H x W"):
        sk.measure.receptive_fields(nn.Flatten(), images)


def probed(features, labels, seed=0):
    meter = Probe(check_labels(labels, len(labels)), seed)(None)
    meter.add(features[None], 0)
    (row,) = meter.rows()
    return row


@pytest.mark.parametrize("n_numbers", [20, 5000])
def test_a_probe_reads_what_is_linear_and_nothing_else(n_numbers):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.randn(200, n_numbers, generator=draw)
    chance = probed(features, labels)
    assert chance["low"] < 0.5 < chance["high"]
    features += 3 * (labels[:, None] * 2.0 - 1) * torch.randn(n_numbers, generator=draw).sign()
    assert probed(features, labels)["value"] == 1


def test_names_of_classes_do_not_matter():
    features, labels = torch.randn(30, 4), torch.arange(30) % 3
    assert probed(features, labels) == probed(features, labels * 7 - 2)

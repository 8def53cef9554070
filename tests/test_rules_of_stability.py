"""Rules of notebooks 05 to 07: differences that shrink have not vanished, and no outlier or average decides for all."""

import numpy as np
import pandas as pd
import pytest

import spatialkit as sk
from tests.test_rules_of_notebooks import functions_of

KINDS = list(sk.models.DOWNSAMPLINGS)
FAR = "normalised cosine distance"


@pytest.fixture(scope="module")
def stability():
    return functions_of("06", FAR=FAR, NAMES={kind: kind for kind in KINDS})


@pytest.fixture(scope="module")
def smoothness():
    return functions_of("07", FAR=FAR, first=0, last=30)


def cube(of_architectures, seeds=5, layers=12, noise=0.01):
    """Seeds x architectures x layers: a value per architecture, the same in each layer, and the noise of each run."""
    rng = np.random.default_rng(0)
    return np.asarray(of_architectures)[None, :, None] + noise * rng.normal(size=(seeds, len(KINDS), layers))


FAR_APART = cube([0.5, 0.3, 0.1, 0.5, 0.6])


@pytest.mark.parametrize(
    ("after", "vanished"),
    [([0.35, 0.3, 0.25, 0.35, 0.37], "not replicated"), ([0.3] * 5, "replicated")],
    ids=["a tenth of the variance is left, far more than chance", "chance alone is left"],
)
def test_differences_that_shrink_have_vanished_only_if_chance_outweighs_them(stability, after, vanished):
    rows = stability["rows_of_architectures"](FAR_APART, cube(after))
    found = {row["what"][:3]: row["verdict"] for row in rows}
    assert (found["(a)"], found["(b)"], found["(c)"]) == ("replicated", "replicated", vanished)


def test_networks_without_pooling_learn_stability_each_by_itself(stability):
    rows = stability["rows_of_change"](FAR_APART, cube([0.4, 0.3, 0.1, 0.6, 0.6]))
    verdicts = {row["what"].split(": after")[0]: row["verdict"] for row in rows}
    assert verdicts["(e) subsample"] == "replicated"
    assert verdicts["(e) strided"] == verdicts["(e) strided_relu"] == "not replicated"


def table_of(values, labels, epoch=30, column="total variation"):
    """Seeds x architectures x layers as rows, layers 1, 2, 4, 5, ...: those of 3 x 3 kernels."""
    layers = [layer for layer in range(1, 13) if layer % 3]
    rows = [
        {"labels": labels, "epoch": epoch, "seed": s, "downsampling": kind, "layer": layer, column: values[s, i, k]}
        for s in range(len(values))
        for i, kind in enumerate(KINDS)
        for k, layer in enumerate(layers)
    ]
    return pd.DataFrame(rows)


def test_slopes_of_opposite_sign_are_told_apart(smoothness):
    slopes = np.array([0.02, -0.02, -0.07, 0.02, 0.02])
    values = 1.8 + slopes[:, None] * np.arange(8) + cube([0] * 5, layers=8, noise=1e-4)
    verdicts = [row["verdict"] for row in smoothness["rows_of_slopes"](table_of(values, "true"))]
    assert verdicts == ["replicated", "not replicated", "not replicated", "replicated", "replicated"]


def test_one_layer_of_one_architecture_does_not_decide_on_random_labels(smoothness):
    true, random = cube([0.0, 0.01, 0.02, 0.03, 0.04], layers=8, noise=1e-4), cube([0.0, 0.1, 0.2, 0.3, 0.4], layers=8)
    true[:, 2, 7] -= 5  # with true labels alone, in the last layer
    assert (random.var(axis=1).mean() < true.var(axis=1).mean()) and smoothness["spread_ratio"](
        np.stack([random, true], axis=1)
    ) > 10


def test_the_setting_of_the_figures_is_read_at_the_next_temperature_above():
    part = functions_of("05")["part_of_setting"]
    asked = sk.Diffeomorphism.of_displacement(1, 3, 32).temperature
    runs = pd.DataFrame({"temperature": [0.9 * asked, 1.1 * asked, 2 * asked], "not folded": [1.0, 0.5, 0.0]})
    (row,) = part(runs.assign(cutoff=3, size=32, n_fields=1000))
    assert row["ours"].value == 0.5 and row["verdict"] == "not replicated"
    assert part(runs.assign(cutoff=5, size=32, n_fields=1000)) == []

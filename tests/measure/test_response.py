import copy
from importlib import import_module
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spatialkit.deform import Diffeomorphism
from spatialkit.measure.perturbations import Deformation, Noise, Rotation, Translation, perturbed
from spatialkit.measure.response import sensitivity
from spatialkit.measure.tables import COLUMNS
from spatialkit.models import PlainCNN

FIELDS = Diffeomorphism(3, 5e-3)
ALL = {"D": Deformation(FIELDS), "G": Noise(like="D"), "turn": Rotation(20), "as turn": Noise(like="turn")}


@pytest.fixture(scope="module")
def network():
    return PlainCNN((2, 12, 12), 3, 2, width=5, seed=0).double()


@pytest.fixture(scope="module")
def images():
    rough = torch.randn(40, 2, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return F.avg_pool2d(rough, 5, stride=1) + 0.5


def stored(network, images, name):
    """What a layer puts out, by a hook that keeps a copy; ``(N, values)``."""
    kept = []
    handle = network.get_submodule(name).register_forward_hook(lambda m, i, output: kept.append(output.clone()))
    with torch.no_grad():
        network(images)
    handle.remove()
    return kept[0].flatten(1).double()


def slow_mean_square(clean, changed):
    """The definition, over all ordered pairs of distinct images."""
    between = np.mean([float((clean[i] - clean[j]).square().sum()) for i, j in permutations(range(len(clean)), 2)])
    return float((changed - clean).square().sum(1).mean()) / between


def slow_cosine(clean, changed, pairs=None):
    def dcos(a, b):
        return 1 - F.cosine_similarity(a, b, dim=0).item()

    median = np.median([dcos(clean[i], clean[j]) for i, j in combinations(range(len(clean[:pairs])), 2)])
    return np.mean([dcos(a, b) for a, b in zip(clean, changed, strict=True)]) / median


def label(row):
    """One name for each kind of row: ``D``, ``cosine D``, ``R`` for D / G, ``turn / as turn``."""
    ratio = "R" if row["perturbation"] == "D / G" else row["perturbation"]
    return f"cosine {row['perturbation']}" if row["measure"] == "cosine" else ratio


def value_of(table, layer, measure, column="value"):
    (found,) = table[(table["layer"] == layer) & (table.apply(label, axis=1) == measure)][column]
    return found


# --- oracles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [128, 40, 39, 17, 2])
@pytest.mark.parametrize("batch", [16, 7, 40])
def test_equals_the_definitions_on_stored_representations(network, images, pairs, batch):
    table = sensitivity(network, images, ALL, pairs=pairs, batch=batch, seed=3)
    made = perturbed(images, ALL, seed=3)
    for layer in ["blocks.0.0", "blocks.0.2", "blocks.1.1", "head.1"]:
        clean = stored(network, images, layer)
        slow = {name: slow_mean_square(clean, stored(network, changed, layer)) for name, changed in made.items()}
        for name, changed in made.items():
            assert value_of(table, layer, name) == pytest.approx(slow[name], rel=1e-9)
            cosine = slow_cosine(clean, stored(network, changed, layer), pairs)
            assert value_of(table, layer, f"cosine {name}") == pytest.approx(cosine, rel=1e-9)
        assert value_of(table, layer, "R") == pytest.approx(slow["D"] / slow["G"], rel=1e-9)
        assert value_of(table, layer, "turn / as turn") == pytest.approx(slow["turn"] / slow["as turn"], rel=1e-9)


def test_the_input_is_the_first_layer(network, images):
    table = sensitivity(network, images, FIELDS)
    made = perturbed(images, {"D": Deformation(FIELDS)})["D"]
    assert table["layer"][0] == "input"
    assert value_of(table, "input", "D") == pytest.approx(slow_mean_square(images.flatten(1), made.flatten(1)))
    assert value_of(table, "input", "R") == pytest.approx(1)  # the noise is as large as each deformation


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sees_values_before_the_next_layer_works_in_place(images, layout):
    torch.manual_seed(0)
    quiet = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    quiet.double().to(memory_format=layout)
    in_place = copy.deepcopy(quiet)
    for module in in_place:
        module.inplace = True
    images = images.contiguous(memory_format=layout)
    pd.testing.assert_frame_equal(sensitivity(in_place, images, FIELDS), sensitivity(quiet, images, FIELDS))
    clean, changed = (stored(quiet, x, "0") for x in (images, perturbed(images, {"D": Deformation(FIELDS)})["D"]))
    table = sensitivity(in_place, images, FIELDS)
    assert value_of(table, "0", "D") == pytest.approx(slow_mean_square(clean, changed), rel=1e-9)


def test_white_representations_have_closed_values():
    # ||f(x_i) - f(x_j)||^2 = 2 and dcos = 1 for unit vectors; moved half-way to another one, ||x' - x||^2 = 1/2.
    images = torch.eye(6, dtype=torch.float64)
    half_way = {"half": lambda x, numbers, seed: (x + x.roll(1, 1)) / 2}
    table = sensitivity(nn.Identity(), images, half_way, ["input"])
    assert value_of(table, "input", "half") == pytest.approx(1 / 4)
    assert value_of(table, "input", "cosine half") == pytest.approx(1 - np.sqrt(1 / 2))


def test_loses_no_digits_to_a_large_common_part(network, images):
    # Their squared lengths are 1e8 times those of the differences, and float32 keeps 7 digits of them.
    def at(offset):
        layers = nn.Sequential(nn.Linear(288, 20, dtype=torch.float32))
        nn.init.normal_(layers[0].weight, generator=torch.Generator().manual_seed(0))
        nn.init.constant_(layers[0].bias, offset)
        flat = images.flatten(1).float()
        table = sensitivity(layers, flat, {"up": lambda x, *_: x * 1.01}, ["0"], normalise=["mean square"])
        return value_of(table, "0", "up")

    assert at(2.0**16) == pytest.approx(at(0.0), rel=0.02)  # the outputs themselves are rounded to 2^-7


def test_small_angles_keep_their_digits():
    a = torch.randn(300, generator=torch.Generator().manual_seed(0))
    images = torch.stack([a, a.roll(1)])
    angle = 1e-4
    across = torch.stack([a.roll(1), a]).double()
    unit = images.double() / images.double().norm(dim=1, keepdim=True)
    across -= (across * unit).sum(1, keepdim=True) * unit
    across *= images.double().norm(dim=1, keepdim=True) / across.norm(dim=1, keepdim=True)
    turned = (images + np.tan(angle) * across).float()
    table = sensitivity(nn.Identity(), images, {"turned": lambda *_: turned}, ["input"], normalise=["cosine"])
    pair = 1 - F.cosine_similarity(a.double(), a.roll(1).double(), dim=0).item()
    # 1 - cos = 5e-9, a twelfth of what float32 resolves next to 1.
    assert value_of(table, "input", "cosine turned") * pair == pytest.approx(angle**2 / 2, rel=0.01)


# --- intervals -----------------------------------------------------------------------------------


def test_intervals_are_those_of_an_exact_bootstrap(network, images):
    table = sensitivity(network, images, FIELDS)
    made = perturbed(images, {"D": Deformation(FIELDS), "G": Noise(like="D")})
    clean, deformed, noisy = (stored(network, x, "blocks.1") for x in (images, made["D"], made["G"]))
    between, draw = torch.cdist(clean, clean) ** 2, np.random.default_rng(0)
    dcos = 1 - F.normalize(clean) @ F.normalize(clean).T
    own = 1 - F.cosine_similarity(deformed, clean)
    drawn = {"D": [], "R": [], "cosine D": []}
    for _ in range(2000):
        w = torch.from_numpy(np.bincount(draw.integers(0, 40, 40), minlength=40)).double()
        both = (w[:, None] * w).fill_diagonal_(0)
        d, g = ((w * (x - clean).square().sum(1)).sum() / w.sum() for x in (deformed, noisy))
        drawn["D"].append(float(d / ((both * between).sum() / both.sum())))
        drawn["R"].append(float(d / g))
        order = dcos.flatten().argsort()
        middle = both.flatten()[order].cumsum(0) >= both.sum() / 2
        median = dcos.flatten()[order][int(middle.int().argmax())]
        drawn["cosine D"].append(float((w * own).sum() / w.sum() / median))
    outputs = table[table["layer"] == "blocks.1.2"]  # the block's last layer
    outputs = outputs.set_index(outputs.apply(label, axis=1))
    for measure, values in drawn.items():
        low, high = np.quantile(values, [0.025, 0.975])
        ours = outputs.loc[measure]
        assert ours["high"] - ours["low"] == pytest.approx(high - low, rel=0.15)  # 1000 resamples of 40 images
        assert ours["low"] == pytest.approx(low, abs=0.2 * (high - low))
        assert ours["high"] == pytest.approx(high, abs=0.2 * (high - low))


def test_intervals_hold_the_value_and_narrow_with_images(network, images):
    few, many = (sensitivity(network, x, FIELDS) for x in (images[:10], images))
    for table in (few, many):
        assert (
            (table["low"] <= table["value"]) & (table["value"] <= table["high"]) | (table["layer"] == "input")
        ).all()
    wide, narrow = ((table["high"] - table["low"]).mean() for table in (few, many))
    assert narrow < 0.75 * wide


def test_seeds_change_draws_and_nothing_else_does(network, images):
    first, again, other = (sensitivity(network, images, FIELDS, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert (first["value"] != other["value"]).mean() > 0.9


# --- one pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [128, 11])
def test_does_not_depend_on_the_batch(network, images, pairs):
    whole = sensitivity(network, images, ALL, pairs=pairs, batch=40)
    for batch in (1, 3, 16):
        table = sensitivity(network, images, ALL, pairs=pairs, batch=batch)
        pd.testing.assert_frame_equal(table, whole, rtol=1e-9)


def test_does_not_depend_on_how_arrays_are_cut(network, images, monkeypatch):
    whole = sensitivity(network, images, FIELDS, batch=20)
    module = import_module("spatialkit.measure.spread")
    monkeypatch.setattr(module, "_COLUMNS_AT_A_TIME", 7)
    monkeypatch.setattr(module, "_VALUES_AT_A_TIME", 21)
    monkeypatch.setattr(module, "_ROWS_AT_A_TIME", 9)
    pd.testing.assert_frame_equal(sensitivity(network, images, FIELDS, batch=20), whole, rtol=1e-9)


def test_each_image_passes_once_with_each_of_its_versions(network, images):
    passed = []
    handle = network.register_forward_hook(lambda m, i, output: passed.append(len(output)))
    sensitivity(network, images, ALL, batch=16)
    handle.remove()
    assert passed == [3, 2, 5 * 16, 5 * 16, 5 * 8]  # three and two images of the survey come first


def test_keeps_as_much_for_few_images_as_for_many(network, images, monkeypatch):
    kept = []
    measures = import_module("spatialkit.measure.response")._measures

    def spy(meter, *others):
        kept[-1] += sum(len(np.ravel(t)) for t in vars(meter).values() if isinstance(t, torch.Tensor | np.ndarray))
        return measures(meter, *others)

    monkeypatch.setattr(import_module("spatialkit.measure.response"), "_measures", spy)
    for n in (30, 1000):
        kept.append(0)
        sensitivity(network, images[:1].expand(n, -1, -1, -1), FIELDS, ["head.1"], pairs=10, batch=100)
    assert kept[0] == kept[1] > 0


def test_rows_are_layers_in_order_then_measures(network, images):
    table = sensitivity(network, images, FIELDS)
    assert tuple(table.columns) == COLUMNS
    assert list(table["measure"][:5]) == ["D", "G", "R", "cosine", "cosine"]
    assert list(table["perturbation"][:5]) == ["D", "G", "D / G", "D", "G"]
    assert list(table["normaliser"][:5]) == ["mean square"] * 3 + ["cosine"] * 2
    assert list(table["depth"]) == [depth for depth in range(9) for _ in range(5)]
    assert table["map"].isna().all() and (table["why"] == "").all()
    layers = ["input", "blocks.0.0", "blocks.0.1", "blocks.0.2", "blocks.1.0", "blocks.1.1", "blocks.1.2"]
    assert list(table["layer"].unique()) == [*layers, "head.0", "head.1"]
    assert len(table) == 9 * 5


@pytest.mark.parametrize("layers", [["head"], ["input"], ["blocks.1", "input"]])
@pytest.mark.parametrize("normalise", [["cosine"], ["mean square"]])
def test_measures_what_is_asked_for(network, images, layers, normalise):
    table = sensitivity(network, images, {"right": Translation(1)}, layers, normalise=normalise)
    assert set(table["layer"]) == set(layers)
    assert set(table["perturbation"]) == {"right"} and set(table["normaliser"]) == set(normalise)
    assert set(table["measure"]) == {"D" if normalise == ["mean square"] else "cosine"}


def test_a_module_called_input_is_no_image(images):
    net = nn.Sequential()
    net.add_module("input", nn.Conv2d(2, 3, 5, dtype=torch.float64))
    table = sensitivity(net, images, FIELDS)
    clean, changed = (stored(net, x, "input") for x in (images, perturbed(images, {"D": Deformation(FIELDS)})["D"]))
    assert value_of(table, "input", "D") == pytest.approx(slow_mean_square(clean, changed))


def test_leaves_network_and_mode_alone(network, images):
    before = copy.deepcopy(network.state_dict())
    network.train()
    sensitivity(network, images, FIELDS)
    assert network.training
    network.eval()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# --- invariances and limits ----------------------------------------------------------------------


def test_ignores_gain_and_offset_of_a_representation(network, images):
    class Scaled(nn.Module):
        def __init__(self, gain, offset):
            super().__init__()
            self.network, self.gain, self.offset = network, gain, offset

        def forward(self, x):
            return self.gain * self.network(x) + self.offset

    plain, scaled = (
        sensitivity(nn.Sequential(Scaled(*by)), images, FIELDS, ["0"], normalise=["mean square"])
        for by in ((1, 0), (-3, 7))
    )
    pd.testing.assert_frame_equal(plain, scaled, rtol=1e-9)


@pytest.mark.parametrize("still", [Diffeomorphism(3, 0.0), Rotation(0), lambda x, *_: x.clone()])
def test_no_displacement_is_exactly_0_and_has_no_ratio(network, images, still):
    table = sensitivity(network, images, still)
    assert (table.query("measure != 'R'")["value"] == 0).all()
    ratios = table.query("measure == 'R'")
    assert ratios[["value", "low", "high"]].isna().all(axis=None)
    assert (ratios["why"] == "the noise is of length 0").all()


def test_another_image_is_as_far_as_a_pair(network, images):
    # x' = x_(i+1): for many images, ||f(x') - f(x)||^2 is that of a pair. 40 images: 1 within 5 of 0.03.
    table = sensitivity(network, images, {"next": lambda x, *_: x.roll(1, 0)}, batch=40)
    assert (abs(table.query("measure == 'D'")["value"] - 1) < 0.15).all()


@pytest.mark.parametrize("constant", [0.0, 0.1])
def test_equal_representations_have_no_sensitivity(images, constant):
    dead = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten()).double()
    nn.init.zeros_(dead[0].weight)
    nn.init.constant_(dead[0].bias, constant)
    table = sensitivity(dead, images, FIELDS, ["0", "1", "2"])
    assert len(table) == 15 and table[["value", "low", "high"]].isna().all(axis=None)


def test_representations_without_direction_stay_out_of_cosines(images):
    images = images.flatten(1).clone()
    images[[0, 5, 39]] = 0
    double = {"twice": lambda x, *_: x.flip(1)}
    kept = torch.ones(40, dtype=torch.bool)
    kept[[0, 5, 39]] = False
    table = sensitivity(nn.Identity(), images, double, ["input"])
    expected = slow_cosine(images[kept], images[kept].flip(1))
    assert value_of(table, "input", "cosine twice") == pytest.approx(expected)


# --- kinds of network ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, rel", [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_narrow_types_are_measured_closely(network, images, dtype, rel):
    exact = sensitivity(network, images, FIELDS, ["blocks.0.2", "blocks.1.2"])
    narrow = sensitivity(copy.deepcopy(network).to(dtype), images.to(dtype), FIELDS, ["blocks.0.2", "blocks.1.2"])
    np.testing.assert_allclose(narrow["value"], exact["value"], rtol=rel)


def test_takes_outputs_of_any_shape(images):
    class Odd(nn.Module):
        def __init__(self, put_out):
            super().__init__()
            self.put_out = put_out

        def forward(self, x):
            return self.put_out(x)

    shapes = {"scalar": lambda x: x.mean((1, 2, 3)), "5-d": lambda x: x[:, None], "tuple": lambda x: (x, 1)}
    shapes |= {"whole": lambda x: (9 * x).long(), "turned": lambda x: x.permute(0, 3, 1, 2), "wide": lambda x: x.mT}
    expected = {name: put_out(images) for name, put_out in shapes.items()}
    expected["tuple"] = expected["tuple"][0]
    made = perturbed(images, {"D": Deformation(FIELDS)})["D"]
    for name, put_out in shapes.items():
        table = sensitivity(nn.Sequential(Odd(put_out)), images, FIELDS, ["0"], batch=7)
        changed = put_out(made)
        changed = changed[0] if name == "tuple" else changed
        clean, changed = (x.reshape(40, -1).double() for x in (expected[name], changed))
        assert value_of(table, "0", "D") == pytest.approx(slow_mean_square(clean, changed))


def test_counts_the_uses_of_a_module(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.relu(x) - 0.5)

    table = sensitivity(Twice(), images, FIELDS, ["relu:2"])
    assert set(table["layer"]) == {"relu:2"}
    assert list(sensitivity(Twice(), images, FIELDS)["layer"].unique()) == ["input", "relu", "relu:2"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_is_the_same_on_a_gpu(network, images):
    here, there = (sensitivity(copy.deepcopy(network).to(device), images, FIELDS) for device in ("cpu", "cuda"))
    pd.testing.assert_frame_equal(here, there, rtol=1e-6)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed, message", [
    ({"images": torch.zeros(1, 2, 12, 12)}, r"at least two images, got \(1, 2, 12, 12\)"),
    ({"images": [1, 2]}, "at least two images, got list"),
    ({"perturbations": {}}, "name at least one perturbation"),
    ({"perturbations": {"G": Noise(like="D")}}, "beside it, not like 'D'"),
    ({"normalise": ["euclidean"]}, r"one or both of mean square, cosine; got \['euclidean'\]"),
    ({"normalise": "cosine"}, "must list one or both"),
    ({"normalise": []}, "must list one or both"),
    ({"pairs": 1}, "pairs must be at least 2 images, got 1"),
    ({"batch": 0}, "batch must be at least 1"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"layers": ["conv9"]}, "no layer 'conv9'"),
    ({"layers": ["blocks", "input"]}, "layer 'blocks' puts out nothing: leave it out"),
])  # fmt: skip
def test_refuses_bad_input(network, images, changed, message):
    with pytest.raises(ValueError, match=message):
        sensitivity(**({"model": network, "images": images, "perturbations": FIELDS} | changed))


class Puts(nn.Module):
    """A layer that puts out what a function makes of the batch and the number of its calls."""

    def __init__(self, put_out):
        super().__init__()
        self.put_out, self.calls = put_out, 0

    def forward(self, x):
        self.calls += 1
        return self.put_out(x, self.calls)


@pytest.mark.parametrize("put_out, message", [
    (lambda x, calls: x.sum(0), r"puts out float64 of \(2, 12, 12\) for 3 images, .* for 2: no axis is images"),
    (lambda x, calls: x.sum(), r"puts out float64 of \(\) for 3 images"),
    (lambda x, calls: x + 1j, "puts out complex128"),
    (lambda x, calls: x[..., max(1, calls - 2) :], r"puts out \(2, 12, 10\) for some images, \(2, 12, 11\) for others"),
    (lambda x, calls: x / 0, "puts out nan or inf"),
    (lambda x, calls: (1e30 * x).float(), "puts out nan or inf, or values too large to square in float32"),
    (lambda x, calls: x if calls < 4 else None, "puts out something for some batches only"),
    (lambda x, calls: None, "puts out no tensor"),
    (lambda x, calls: x - x.mean(0), "mixes the images of a batch"),
    (lambda x, calls: x + calls, "puts out other numbers when the same images pass again"),
    (lambda x, calls: F.dropout(x, 0.5), "puts out other numbers when the same images pass again"),
    (lambda x, calls: x[:8], r"puts out \(8, 2, 12, 12\) for a batch of 48 images, unlike for a few"),
])  # fmt: skip
def test_says_why_it_cannot_measure_and_refuses_if_asked_by_name(images, put_out, message):
    with pytest.raises(ValueError, match=f"layer '0' {message}"):
        sensitivity(nn.Sequential(Puts(put_out)), images, FIELDS, ["0"])
    table = sensitivity(nn.Sequential(Puts(put_out), nn.Identity()), images, FIELDS)
    odd = table[table["layer"] == "0"]
    assert odd["value"].isna().all() and odd["why"].str.contains(message).all()
    assert list(odd["measure"]) == ["D", "G", "R", "cosine", "cosine"]
    assert table[table["layer"] == "input"]["value"].notna().all()


def test_refuses_images_that_are_not_finite(network, images):
    with pytest.raises(ValueError, match="images hold nan or inf"):
        sensitivity(network, torch.full_like(images, torch.inf), {"turn": Rotation(90)})


@pytest.mark.parametrize("perturbation, message", [
    (3, "perturbation 'D' must be fields such as"),
    (Rotation, "perturbation 'D' must be fields such as"),
    ({"turn": "Rotation(10)"}, "perturbation 'turn' must be fields such as"),
    (Deformation(3.0), "Deformation takes fields that can be drawn by .sample"),
])  # fmt: skip
def test_refuses_what_is_no_perturbation(network, images, perturbation, message):
    with pytest.raises(ValueError, match=message):
        sensitivity(network, images, perturbation)


def test_takes_one_perturbation_by_itself_and_fields_by_name(network, images):
    whole = sensitivity(network, images, {"D": Deformation(FIELDS), "G": Noise(like="D")})
    for same in (FIELDS, Deformation(FIELDS), {"D": FIELDS, "G": Noise(like="D")}, Deformation(FIELDS).__call__):
        pd.testing.assert_frame_equal(sensitivity(network, images, same), whole)


def test_refuses_batch_statistics(images):
    mixing = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="batch normalisation '1' keeps no running statistics"):
        sensitivity(mixing.double(), images, FIELDS)

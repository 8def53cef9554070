"""Every kind of network that hid, doubled, mixed or turned its layers, against values computed by hand."""

import copy
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from spatialkit._torchvision import torchvision
from spatialkit.deform import Diffeomorphism
from spatialkit.measure import Noise, Translation, layer_orderness, orderness_of_each, perturbed, sensitivity
from spatialkit.measure.perturbations import named

FIELDS = Diffeomorphism.of_rms(1, cutoff=3, size=16)


@pytest.fixture(scope="module")
def images():
    rough = torch.randn(13, 2, 20, 20, generator=torch.Generator().manual_seed(1))
    return F.avg_pool2d(rough, 5, stride=1)  # 16 x 16


def convolutions(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)).eval()


def of_layer(table, name):
    return table.loc[table["layer"] == name, "value"].to_numpy()


def by_hand(maps):
    return orderness_of_each(maps.detach(), "map").numpy()


def D_by_hand(f, images, batch=16):
    made = perturbed(images, named(FIELDS))["D"]
    clean, changed = (f(x).detach().flatten(1).double() for x in (images, made))
    between = torch.cdist(clean, clean).square().sum() / (len(images) * (len(images) - 1))
    return float((changed - clean).square().sum(1).mean() / between)


def assert_measured(model, images, layer, f):
    """Both measures of a layer are those of the maps ``f(images)``, (N, C, h, w)."""
    np.testing.assert_allclose(
        of_layer(layer_orderness(model, images, batch=5), layer), by_hand(f(images)), rtol=1e-4, atol=1e-5
    )
    table = sensitivity(model, images, FIELDS, batch=5).query("measure == 'D'")
    np.testing.assert_allclose(of_layer(table, layer), [D_by_hand(f, images)], rtol=1e-4)


# --- wrappers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [
    pytest.param(lambda m: torch.compile(m, backend="eager"), id="compiled"),
    pytest.param(lambda m: nn.DataParallel(m), id="parallel"),
    pytest.param(lambda m: nn.DataParallel(torch.compile(m, backend="eager")), id="both"),
    pytest.param(lambda m: torch.fx.symbolic_trace(m), id="fx"),
])  # fmt: skip
@pytest.mark.parametrize("used_before", [False, True])
def test_wrapped_networks_are_measured_as_what_they_wrap(images, wrap, used_before):
    plain = convolutions()
    wrapped = wrap(copy.deepcopy(plain))
    if used_before:
        wrapped(images[:8])
    pd.testing.assert_frame_equal(layer_orderness(wrapped, images), layer_orderness(plain, images))
    pd.testing.assert_frame_equal(sensitivity(wrapped, images, FIELDS), sensitivity(plain, images, FIELDS))
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in plain.modules())


def test_compiled_parts_keep_their_names(images):
    plain, parts = convolutions(), convolutions()
    parts[2] = torch.compile(parts[2], backend="eager")
    parts[0].compile(backend="eager")
    parts(images[:8])
    pd.testing.assert_frame_equal(layer_orderness(parts, images), layer_orderness(plain, images))


def test_networks_that_hide_their_layers_are_refused(images):
    traced = torch.jit.trace(convolutions(), images[:2])
    number = torch.export.Dim("number", min=2, max=64)
    exported = torch.export.export(convolutions(), (images,), dynamic_shapes=({0: number},)).module()
    exported.eval = lambda: exported
    for hidden in (traced, exported):
        for measure in (layer_orderness, lambda m, x: sensitivity(m, x, FIELDS)):
            with pytest.raises(ValueError, match="pass the network that it was made of"):
                measure(hidden, images)


def test_one_layer_of_a_traced_network_can_be_named(images):
    plain = convolutions()
    traced = torch.fx.symbolic_trace(plain)
    for name in ("0", "1"):
        pd.testing.assert_frame_equal(layer_orderness(traced, images, [name]), layer_orderness(plain, images, [name]))
    with pytest.raises(ValueError, match="layer '0:2' puts out nothing"):
        layer_orderness(traced, images, ["0:2"])


def test_a_scripted_part_is_one_layer(images):
    first, last = convolutions(), nn.Conv2d(4, 3, 3).eval()
    model = nn.Sequential(torch.jit.trace(first, images[:2]), last)
    assert_measured(model, images, "0", first)
    assert_measured(model, images, "1", lambda x: last(first(x)))


@pytest.mark.parametrize("parametrize", [weight_norm, spectral_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_parametrised_layer_puts_out_maps_not_its_weights(images, parametrize):
    model = convolutions()
    parametrize(model[0])
    assert_measured(model.eval(), images, "0", model[0])
    assert list(layer_orderness(model, images)["layer"].unique()) == ["0", "1", "2"]


def test_quantised_layers_are_read_as_numbers(images):
    class Quantised(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor(x, 0.01, 0, torch.qint8)

    class Back(nn.Module):
        def forward(self, x):
            return x.dequantize()

    model = nn.Sequential(nn.Conv2d(2, 3, 3), Quantised(), Back()).eval()
    assert_measured(model, images, "1", model)


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantised_layers_are_layers_but_round_by_the_batch(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(512, 5)).eval()
    try:
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    except RuntimeError:
        pytest.skip("no engine for quantised networks here")
    table = sensitivity(quantised, images, FIELDS).query("measure == 'D'")
    assert list(table["layer"]) == ["input", "0", "1"]
    assert "mixes the images" in table["why"].iloc[2]  # one step for all numbers of a batch


# --- ways to call ---------------------------------------------------------------------------------


class Calls(nn.Module):
    """Convolutions ``a`` and ``b``, called in some way."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.how = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3, padding=1), how

    def forward(self, x):
        return self.how(self, x)


def test_modules_called_through_forward_are_seen_once(images):
    model = Calls(lambda m, x: m.b.forward(m.a.forward(x))).eval()
    assert_measured(model, images, "a", model.a)
    assert_measured(model, images, "b", model)
    assert list(layer_orderness(model, images)["layer"].unique()) == ["a", "b"]


def test_hooks_of_the_caller_count(images):
    model = convolutions()
    model[0].register_forward_hook(lambda module, inputs, output: output.cumsum(-1))
    assert_measured(model, images, "0", model[0])
    model.forward(images)  # the hooks of the caller are still there, ours are not
    assert len(model[0]._forward_hooks) == 1


@pytest.mark.parametrize("how", [
    pytest.param(lambda m, x: torch.cat([m.a(one[None]) for one in x]), id="per-image"),
    pytest.param(lambda m, x: torch.cat([m.a(part) for part in x.chunk(2)]), id="halves"),
    pytest.param(lambda m, x: torch.stack([m.a(one[None])[0] for one in x]), id="stacked"),
])  # fmt: skip
def test_a_module_that_sees_a_batch_in_parts_is_one_layer(images, how):
    model = Calls(how).eval()
    for measured in (model, nn.Sequential(model)):
        prefix = "" if measured is model else "0."
        assert_measured(measured, images, f"{prefix}a", model.a)
        assert f"{prefix}a:2" not in set(layer_orderness(measured, images)["layer"])


def test_a_reused_module_is_one_layer_per_use(images):
    model = Calls(lambda m, x: m.b(m.b(m.a(x)))).eval()
    assert_measured(model, images, "b", lambda x: model.b(model.a(x)))
    assert_measured(model, images, "b:2", model)


def test_a_shared_module_has_all_its_names(images):
    model = convolutions()
    model.add_module("again", model[0])
    model.forward = lambda x: model[2](model[1](model[0](x)))
    np.testing.assert_array_equal(
        of_layer(layer_orderness(model, images, ["again"]), "again"), of_layer(layer_orderness(model, images), "0")
    )


def test_a_layer_that_sees_some_images_only_is_an_error_with_its_name(images):
    model = Calls(lambda m, x: torch.cat([m.a(x[:1]), m.a(x[:1])])).eval()
    with pytest.raises(ValueError, match=r"layer 'a' is used 2 times .* no output holds all of them"):
        layer_orderness(model, images, ["a"])
    late = Calls(lambda m, x: m.a(x) if len(x) < 9 else torch.cat([m.a(x[:9]), m.a(x[9:])])).eval()
    with pytest.raises(ValueError, match=r"layer 'a' puts out \(9, 3, 14, 14\) for a batch of 13 images"):
        layer_orderness(late, images, ["a"])


def test_a_layer_that_does_not_run_is_a_row_or_an_error(images):
    model = Calls(lambda m, x: m.a(x)).eval()
    table = layer_orderness(model, images)
    assert table[table["layer"] == "b"]["why"].tolist() == ["does not run in evaluation mode"]
    for layers in (["b"], ["a", "b"]):
        with pytest.raises(ValueError, match="layer 'b' puts out nothing"):
            layer_orderness(model, images, layers)


# --- what comes out -------------------------------------------------------------------------------


@dataclass
class Result:
    number: int
    hidden: dict


class Plain:
    def __init__(self, tensor):
        self.tensor = tensor


class Slots:
    __slots__ = ("maps",)

    def __init__(self, maps):
        self.maps = maps


@pytest.mark.parametrize("pack", [
    pytest.param(lambda x: {"size": 3, "maps": x}, id="dict"),
    pytest.param(lambda x: [None, (x, x.sum())], id="nested"),
    pytest.param(lambda x: Result(3, {"maps": [x]}), id="dataclass"),
    pytest.param(Plain, id="object"),
    pytest.param(Slots, id="slots"),
])  # fmt: skip
def test_tensors_are_found_in_what_layers_return(images, pack):
    class Packs(nn.Module):
        def forward(self, x):
            return pack(2 * x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.packs = Packs()

        def forward(self, x):
            self.packs(x)
            return x

    assert_measured(Model(), images, "packs", lambda x: 2 * x)


def test_one_odd_layer_does_not_end_the_others(images):
    class Table(nn.Module):
        def forward(self, x):
            return torch.arange(9.0).view(1, 3, 3)

    class Transform(nn.Module):
        def forward(self, x):
            return torch.fft.rfft2(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.transform, self.last = Table(), Transform(), nn.Conv2d(2, 3, 3)

        def forward(self, x):
            self.table(x)
            self.transform(x)
            return self.last(x)

    model = Model().eval()
    assert_measured(model, images, "last", model.last)
    for table in (layer_orderness(model, images), sensitivity(model, images, FIELDS)):
        odd = table[table["layer"].isin(["table", "transform"])]
        assert odd["value"].isna().all() and (odd["why"] != "").all() and odd["layer"].nunique() == 2


# --- axes -----------------------------------------------------------------------------------------


class Turned(nn.Module):
    """A convolution whose maps then leave their place: in the order of ``axes``, the batch included."""

    def __init__(self, side, turn):
        super().__init__()
        torch.manual_seed(0)
        self.maps, self.turn = nn.Conv2d(2, side, 3, padding=1), Turn(turn)

    def forward(self, x):
        return self.turn(self.maps(x))


class Turn(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.turn = turn

    def forward(self, x):
        return self.turn(1.0 * x)


@pytest.mark.parametrize("side", [16, 5])  # as many channels as rows and columns: shapes tell nothing
@pytest.mark.parametrize("turn", [
    pytest.param(lambda x: x, id="channels-first"),
    pytest.param(lambda x: x.permute(0, 2, 3, 1).contiguous(), id="channels-last"),
    pytest.param(lambda x: x.flatten(2).mT.contiguous(), id="tokens"),
    pytest.param(lambda x: x.flatten(2), id="tokens-last"),
    pytest.param(lambda x: torch.cat([x.sum((2, 3))[:, None], x.flatten(2).mT], 1), id="class-token"),
    pytest.param(lambda x: torch.cat([x.flatten(2).mT, x.sum((2, 3))[:, None]], 1), id="class-token-last"),
    pytest.param(lambda x: x.flatten(2).permute(2, 0, 1), id="tokens-before-batch"),
    pytest.param(lambda x: x.movedim(0, 1), id="batch-second"),
    pytest.param(lambda x: x.flatten(2).mT.unflatten(2, (1, -1)).transpose(1, 2), id="heads"),
])  # fmt: skip
@pytest.mark.parametrize("stop", [16, 12])
def test_maps_are_folded_back(images, turn, side, stop):
    images = images[..., :stop]
    model = Turned(side, turn).eval()
    expected = by_hand(model.maps(images))
    for batch in (16, 8, 5):  # a batch may be as large as a side
        np.testing.assert_allclose(of_layer(layer_orderness(model, images, batch=batch), "turn"), expected, rtol=1e-4)


def test_attention_is_folded_by_what_it_looks_from(images):
    # Scores (N, heads, L, L) of tokens in rows: for each head and token looked at, a map over tokens that look.
    class Scores(nn.Module):
        def forward(self, x):
            tokens = x.flatten(2).mT  # (N, 256, 2)
            return (tokens @ tokens.mT)[:, None]

    model = nn.Sequential(nn.AvgPool2d(4), Scores())
    scores = model(images)[:, 0]  # (N, 16, 16)
    table = layer_orderness(model, images, ["1"])
    np.testing.assert_allclose(of_layer(table, "1"), by_hand(scores.mT.unflatten(2, (4, 4))), rtol=1e-4)


def test_what_has_no_places_is_refused(images):
    class Mixes(nn.Module):
        """A random matrix over all pixels: of the shape of maps, but its axes are no places."""

        def forward(self, x):
            weights = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
            return (x.flatten(1) @ weights).view(-1, 16, 4, 8)

    with pytest.raises(ValueError, match=r"layer '0' puts out \(16, 4, 8\) for an image, of which no axes follow"):
        layer_orderness(nn.Sequential(Mixes()), images, ["0"])


def test_tokens_before_the_batch_are_no_images(images):
    # 16 tokens of 13 images: their number changes nothing, the batch axis is the second.
    model = nn.Sequential(nn.AvgPool2d(4), Turn(lambda x: x.flatten(2).permute(2, 0, 1))).eval()
    table = sensitivity(model, images, FIELDS).query("measure == 'D'")
    assert of_layer(table, "1") == pytest.approx(D_by_hand(model[0], images), rel=1e-6)
    assert of_layer(table, "1") == pytest.approx(of_layer(table, "0"), rel=1e-6)


@pytest.mark.parametrize("order", ["windows of an image together", "images of a window together"])
def test_windows_belong_to_their_images(images, order):
    def windows(x):
        parts = torch.stack(x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3).unbind(2), 1)  # (N, 4, C, 8, 8)
        parts = parts if order.startswith("windows") else parts.transpose(0, 1)
        return parts.reshape(-1, 2, 8, 8)

    model = nn.Sequential(Turn(windows)).eval()
    table = sensitivity(model, images, FIELDS).query("measure == 'D'")
    assert of_layer(table, "0") == pytest.approx(of_layer(table, "input"), rel=1e-6)


# --- whole networks -------------------------------------------------------------------------------


def small(name):
    models = torchvision.models
    torch.manual_seed(0)
    made = {
        "resnet": lambda: (models.resnet18(), 96),
        "inception": lambda: (models.inception_v3(init_weights=False), 139),
        "convnext": lambda: (models.convnext_tiny(), 96),
        "swin": lambda: (models.swin_t(), 96),
        "vit": lambda: (models.VisionTransformer(96, 16, 2, 4, 32, 64), 96),
    }[name]()
    return made[0].eval(), torch.rand(3, 3, made[1], made[1], generator=torch.Generator().manual_seed(2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:batch normalisation has no statistics")
@pytest.mark.parametrize("layers", ["leaves", "blocks"])
@pytest.mark.parametrize("name", ["resnet", "inception", "convnext", "swin", "vit"])
def test_nearly_all_layers_with_maps_have_values(name, layers):
    model, images = small(name)
    table = layer_orderness(model, images, layers)
    known = table.groupby("layer", sort=False)["value"].agg(lambda values: values.notna().any())
    why = table.groupby("layer", sort=False)["why"].first()
    constant = table.groupby("layer")["why"].agg(lambda each: (each == "the map is constant on each image").all())
    maps = ~why.str.contains("no maps|does not run|needs at least") & ~constant.reindex(why.index)
    assert known[maps].mean() >= 0.95 and maps.sum() > 4
    assert "input" not in known.index


@pytest.mark.slow
def test_swin_and_convnext_are_read_along_the_right_axes():
    model, images = small("swin")
    table = layer_orderness(model, images)
    np.testing.assert_allclose(of_layer(table, "features.0.1"), of_layer(table, "features.0.0"), rtol=1e-5)
    model, images = small("convnext")
    seen = {}
    block = model.features[1][0].block
    handle = block[3].register_forward_hook(lambda m, i, output: seen.update(maps=output.permute(0, 3, 1, 2).clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    values = of_layer(layer_orderness(model, images), "features.1.0.block.3")
    assert len(values) == 384
    np.testing.assert_allclose(values, by_hand(seen["maps"]), rtol=1e-3, atol=1e-4)


def test_attention_is_a_layer_although_its_parts_do_not_run(images):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.patches = nn.Conv2d(2, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).mT
            return self.attention(tokens, tokens, tokens)[0]

    model = Model().eval()
    table = sensitivity(model, images, FIELDS).query("measure == 'D'")
    assert list(table["layer"]) == ["input", "patches", "attention"]
    assert of_layer(table, "attention") == pytest.approx(D_by_hand(model, images), rel=1e-4)
    np.testing.assert_allclose(
        of_layer(layer_orderness(model, images), "attention"),
        by_hand(model(images).mT.unflatten(2, (4, 4))),
        rtol=1e-3,
    )


def test_blocks_are_modules_in_which_others_run(images):
    model = nn.Sequential(convolutions(), nn.Sequential(nn.Sequential(nn.Conv2d(4, 3, 3)), nn.ReLU())).eval()
    assert list(layer_orderness(model, images, "blocks")["layer"].unique()) == ["0", "1.0", "1"]
    assert list(sensitivity(model, images, FIELDS, "blocks")["layer"].unique()) == ["input", "0", "1.0", "1"]
    assert list(layer_orderness(model, images, "leaves")["layer"].unique()) == ["0.0", "0.1", "0.2", "1.0.0", "1.1"]


# --- networks that are no function of single images -----------------------------------------------


@pytest.mark.parametrize("f, message", [
    (lambda x: F.dropout(x, 0.1), "other numbers when the same images pass again"),
    (lambda x: F.batch_norm(x, None, None, training=True), "mixes the images of a batch"),
    (lambda x: x - x.mean(0, keepdim=True), "mixes the images of a batch"),
])  # fmt: skip
def test_every_measure_finds_networks_that_are_no_function_of_single_images(images, f, message):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), Turn(f), nn.Conv2d(3, 2, 3)).eval()
    state = torch.get_rng_state()
    for measure in (layer_orderness, lambda m, x, layers=None: sensitivity(m, x, FIELDS, layers)):
        table = measure(model, images)
        assert table[table["layer"].isin(["0", "input"])]["value"].notna().all()
        assert table[table["layer"].isin(["1", "2"])]["value"].isna().all()
        assert table[table["layer"].isin(["1", "2"])]["why"].str.contains(message).all()
        with pytest.raises(ValueError, match=message):
            measure(model, images, ["2"])
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_of_the_callers_changes(images):
    class Spoils(nn.Module):
        def forward(self, x):
            return x.mul_(0).add_(1)

    before = images.clone()
    for measure in (layer_orderness, lambda m, x: sensitivity(m, x, {"right": Translation(1), "G": Noise(norm=1.0)})):
        measure(nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), Spoils()), images)
        assert torch.equal(images, before)


def test_nothing_depends_on_the_default_dtype(images):
    model = convolutions()
    before = layer_orderness(model, images), sensitivity(model, images, FIELDS)
    torch.set_default_dtype(torch.float64)
    try:
        after = layer_orderness(model, images), sensitivity(model, images, FIELDS)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True)


@pytest.mark.parametrize("layers, message", [
    ("12", 'layers must be "leaves", "blocks" or a list of names'),
    ("layer1", 'layers must be "leaves", "blocks" or a list of names'),
    ([], "no layers named"),
    ([1], 'layers must be "leaves", "blocks" or a list of names'),
    (["conv9"], "no layer 'conv9'"),
])  # fmt: skip
def test_refuses_layers_before_anything_runs(images, layers, message):
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("ran")

    for measure in (layer_orderness, lambda m, x, layers: sensitivity(m, x, FIELDS, layers)):
        with pytest.raises(ValueError, match=message):
            measure(nn.Sequential(Never()), images, layers)

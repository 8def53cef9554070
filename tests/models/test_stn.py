"""Networks with transformers: where they stand, what they share, how large they are."""

import pytest
import torch

from spatialkit.models import STN, resample, same_size

SIZES = {"widths": (3, 4, 4), "kernels": (5, 3, 3)}
VARIANTS = ("none", "C0", "C1", "C2", "C3", "SL2", "DL2", "C0x2", "SL2x2")


def images(n=4, side=12):
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def network(variant, *, turned=False, **more):
    model = STN(12, variant, hidden=6, **SIZES, **more)
    if turned and model.transformer is not None:  # away from the identity
        torch.nn.init.normal_(model.transformer.last.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [12, 13])
def test_every_variant_starts_as_the_classifier_alone(variant, side):
    plain, model = (STN(side, v, hidden=6, **SIZES) for v in ("none", variant))
    torch.testing.assert_close(model(images(side=side)), plain(images(side=side)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_every_parameter_gets_a_gradient(variant):
    model = network(variant, turned=True)
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_at_depth_maps_are_transformed_and_with_shared_layers_the_image():
    at_depth, shared = network("C2", turned=True), network("SL2", turned=True)
    x = images()
    torch.testing.assert_close(at_depth.matrix(x), shared.matrix(x))  # the same weights see the same maps
    maps = resample(at_depth.blocks[:2](x), at_depth.matrix(x))
    torch.testing.assert_close(at_depth(x), at_depth.classify(at_depth.blocks[2](maps)))
    turned = resample(x, shared.matrix(x))
    torch.testing.assert_close(shared(x), shared.classify(shared.blocks(turned)))
    assert not torch.allclose(at_depth(x), shared(x))


def test_a_copy_of_early_layers_is_neither_shared_nor_alike():
    model = network("DL2", turned=True)
    before = model.matrix(images())
    with torch.no_grad():
        for p in model.blocks.parameters():
            p.zero_()
    assert torch.equal(model.matrix(images()), before)
    assert not torch.equal(network("DL2").own[0][0].weight, network("DL2").blocks[0][0].weight)


def test_two_steps_see_the_image_as_the_first_step_left_it():
    once, twice = network("C0", turned=True), network("C0x2", turned=True)
    x = images()
    first = once.matrix(x)
    second = once.matrix(resample(x, first))
    A = first[:, :, :2] @ second[:, :, :2]
    torch.testing.assert_close(twice.matrix(x)[:, :, :2], A)
    torch.testing.assert_close(twice(x), twice.classify(twice.blocks(resample(x, twice.matrix(x)))))


@pytest.mark.parametrize("side", [28, 40])
def test_all_variants_have_the_same_number_of_parameters(side):
    sizes = {"widths": [8, 16, 16], "kernels": [5, 5, 3]}
    budget = sum(p.numel() for p in STN(side, "C0", hidden=32, **sizes).parameters())
    for variant in VARIANTS:
        chosen = same_size(side, variant, budget, **sizes)
        count = sum(p.numel() for p in STN(side, variant, **chosen).parameters())
        assert count == pytest.approx(budget, rel=0.02), variant


def test_the_sources_localisation_network_is_counted_right():
    # 3 x 32 units on 28 x 28 pixels and six outputs: 27,430, as in the released code.
    transformer = STN(28, "C0").transformer
    assert sum(p.numel() for p in transformer.parameters()) == 27_430


def test_shared_layers_count_once():
    count = {v: sum(p.numel() for p in network(v).parameters()) for v in ("C2", "SL2", "DL2")}
    early = sum(p.numel() for p in network("C2").blocks[:2].parameters())
    assert count["SL2"] == count["C2"] == count["DL2"] - early


def test_parameter_groups_hold_every_parameter_once():
    for variant, n_groups in {"none": 1, "SL2": 2, "DL2": 2}.items():
        model = network(variant)
        groups = model.parameter_groups(1e-3, 0.5)
        assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
        assert [g["lr"] for g in groups] == [1e-3, 5e-4][:n_groups]
    own = {id(p) for p in model.own.parameters()}
    assert own <= {id(p) for p in groups[1]["params"]}


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one, same, other = (network("C1", seed=s).blocks[0][0].weight for s in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_refuses_bad_input():
    for variant in ("C4", "SL0", "C1x0", "mid"):
        with pytest.raises(ValueError, match="variant must be none, C0 to C3"):
            STN(12, variant)
    with pytest.raises(ValueError, match="steps compose at the input only"):
        STN(12, "C1x2")
    with pytest.raises(ValueError, match="need 4 px, 3 widths"):
        STN(12, "C1", widths=(3, 4))
    with pytest.raises(ValueError, match="kernels must be odd"):
        STN(12, "C1", kernels=(3, 4, 3))
    with pytest.raises(ValueError, match="no matrix"):
        network("none").matrix(images())
    with pytest.raises(ValueError, match="no size near 10 parameters"):
        same_size(12, "C0", 10, **SIZES)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("channels", [2, 3])
def test_takes_any_number_of_channels(variant, channels):
    model = network(variant, turned=True, channels=channels)
    x = torch.rand(4, channels, 12, 12, generator=torch.Generator().manual_seed(0))
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    with pytest.raises(ValueError, match=f"takes images N x {channels} x 12 x 12"):
        model(images())

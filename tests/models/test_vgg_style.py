import pytest
import torch
from scipy import stats
from torch import nn

from spatialkit.measure import watching
from spatialkit.models import DOWNSAMPLINGS, VGGStyle

every_downsampling = pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)


@every_downsampling
def test_has_the_thirteen_layers_of_the_source_with_the_input(downsampling):
    model = VGGStyle((3, 32, 32), 10, downsampling)
    sides = {}
    with (
        watching(model, lambda name, output: sides.update({name: tuple(output.shape[1:])}), model.layers),
        torch.no_grad(),
    ):
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert 1 + len(sides) == 13
    assert list(sides) == model.layers
    side = [32, 32, 16, 16, 16, 8, 8, 8, 4, 4, 4, 2]
    assert list(sides.values()) == [(c, n, n) for c, n in zip(sorted([32, 64, 128, 256] * 3), side, strict=True)]


def downsampled(kind, x):
    module = VGGStyle(x.shape[1:], 2, kind, channels=[x.shape[1]]).blocks[0][-1]
    return module.eval()(x)


def test_downsamplings_do_what_they_say():
    x = torch.tensor([[[[1.0, 5, 2, 0], [3, 7, 4, 6], [0, 0, -1, -2], [0, 4, -3, -4]]]])
    assert downsampled("subsample", x).flatten().tolist() == [1, 2, 0, -1]
    assert downsampled("max", x).flatten().tolist() == [7, 6, 4, -1]
    assert downsampled("average", x).flatten().tolist() == [4, 3, 1, -2.5]
    assert (downsampled("strided_relu", x) >= 0).all()
    wide = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert downsampled("strided", wide).shape == (1, 8, 2, 2)
    assert downsampled("strided", wide).min() < 0


@every_downsampling
def test_initial_weights_are_truncated_normal(downsampling):
    for name, kernel in VGGStyle((3, 32, 32), 10, downsampling).kernels.items():
        unit = kernel.detach() * kernel[0].numel() ** 0.5
        assert unit.abs().max() <= 2 + 1e-5, name
        if unit.numel() > 5000:
            assert unit.std().item() == pytest.approx(0.8796, abs=0.02)  # of a normal cut off at 2 deviations


def test_initial_weights_are_those_of_the_cut_off_normal_and_of_no_version_of_pytorch():
    weights = [
        m.weight.detach() for m in VGGStyle((3, 32, 32), 10, "max", seed=5).modules() if hasattr(m, "in_channels")
    ]
    pooled = torch.cat([(w * w[0].numel() ** 0.5).flatten() for w in weights]).double()
    assert stats.kstest(pooled[::50], stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    generator = torch.Generator().manual_seed(5)
    expected = torch.randn(weights[0].shape, generator=generator)
    while (expected.abs() > 2).any():
        expected = torch.where(expected.abs() > 2, torch.randn(expected.shape, generator=generator), expected)
    torch.testing.assert_close(weights[0] * weights[0][0].numel() ** 0.5, expected)


@every_downsampling
def test_names_its_kernels(downsampling):
    kernels = VGGStyle((1, 32, 32), 10, downsampling, channels=(4, 8)).kernels
    sides = [kernel.shape[-1] for kernel in kernels.values()]
    assert sides == ([3, 3, 2] * 2 if downsampling.startswith("strided") else [3, 3] * 2)
    assert set(kernels) <= set(VGGStyle((1, 32, 32), 10, downsampling, channels=(4, 8)).layers)


def test_the_seed_decides_the_weights_and_architectures_share_them():
    def first(kind, seed):
        return VGGStyle((3, 32, 32), 10, kind, seed=seed).blocks[0][0][0].weight

    assert torch.equal(first("max", 3), first("average", 3))
    assert not torch.equal(first("max", 3), first("max", 4))


def test_convolutions_have_batch_normalisation_and_relu():
    kinds = [type(m) for m in VGGStyle((3, 32, 32), 10, "strided_relu").blocks[1].modules()]
    assert kinds.count(nn.BatchNorm2d) == kinds.count(nn.ReLU) == 3


@pytest.mark.parametrize("arguments, message", [
    (((3, 32, 32), 10, "median"), "downsampling must be one of subsample"),
    (((3, 8, 32), 10, "max"), "4 blocks need 16 pixels per side"),
    (((3, 32, 32), 0, "max"), "counts must be at least 1"),
])  # fmt: skip
def test_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        VGGStyle(*arguments)

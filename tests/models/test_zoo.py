"""The zoo: against torchvision's networks with the same weights, and against counts done by hand."""

import itertools

import pytest
import torch
from torch import nn

from spatialkit._torchvision import torchvision
from spatialkit.models import ARCHITECTURES, build


def reference(name):
    """torchvision's network with first and last layers for small images, without numbers in it yet."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(num_classes=10)
        if name.startswith("resnet"):
            model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        elif name.startswith("vgg"):
            model = nn.Sequential(model.features, nn.Flatten(), nn.Linear(512, 10))
        else:
            model.features[0][0].stride = (1, 1)
    return model


def count(model):
    return sum(p.numel() for p in model.parameters())


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "efficientnet_b0", "vgg11", "vgg16_bn", "vgg19"])
def test_with_the_same_weights_torchvision_puts_out_the_same(name):
    ours, theirs = build(name, (3, 32, 32), 10), reference(name)
    assert count(ours) == count(theirs)
    generator = torch.Generator().manual_seed(1)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):  # else each of them would be the identity
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    weights = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)  # layers in the same order
    theirs.load_state_dict(dict(weights), assign=True)
    images = draw(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_counts_of_the_networks_that_torchvision_lacks():
    # Source, Table C1: 62k and 23 M. LeNet as published: 5 x 5 kernels, 6 and 16 channels, 120, 84 units, 10 classes.
    lenet = (25 * 3 + 1) * 6 + (25 * 6 + 1) * 16 + (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    assert count(build("lenet", (3, 32, 32), 10)) == lenet == 62_006
    channels = [3, 64, 192, 384, 256, 256]
    alexnet = sum((9 * i + 1) * o for i, o in itertools.pairwise(channels))
    alexnet += (256 * 2 * 2 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 10
    with torch.device("meta"):
        assert count(ARCHITECTURES["alexnet"]((3, 32, 32), 10, 1.0)) == alexnet == 23_272_266


@pytest.mark.parametrize("depth", [2, 4, 6])
@pytest.mark.parametrize("width", [1, 0.25])
def test_counts_of_fully_connected_networks(depth, width):
    model, units = build(f"fc{depth}", (3, 32, 32), 10, width=width), int(64 * width)
    assert count(model) == (3072 + 1) * units + (depth - 2) * (units + 1) * units + (units + 1) * 10
    assert sum(isinstance(module, nn.Linear) for module in model) == depth


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_builds_from_its_seed_alone(name):
    before = torch.get_rng_state()
    first, again, other = (build(name, (3, 32, 32), 7, width=1 / 8, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(bits(first), bits(again)) and not torch.equal(bits(first), bits(other))
    assert first.training
    for model, channels in ((first, 3), (build(name, (1, 32, 32), 7, width=1 / 8), 1)):
        outputs = model(draw(2, channels, 32, 32))
        assert outputs.shape == (2, 7) and outputs.isfinite().all()


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith(("resnet", "efficientnet"))])
def test_every_layer_but_the_last_has_a_relu_of_its_own(name):
    modules = list(build(name, (3, 32, 32), 7, width=1 / 8).modules())
    relus = {id(m) for m in modules if isinstance(m, nn.ReLU)}
    assert len(relus) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in modules) - 1


@pytest.mark.parametrize("name", ["vgg16", "vgg11_bn", "resnet18", "resnet50"])
def test_convolutions_start_with_the_deviation_of_he(name):
    # sqrt(2 / fan-out); of n weights the deviation varies by 1 / sqrt(2 n), and 5 times that over some 50 layers.
    for module in build(name, (3, 32, 32), 10, width=0.5).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            ratio = float(module.weight.detach().std()) / (2 / fan_out) ** 0.5
            assert ratio == pytest.approx(1, abs=5 / (2 * module.weight.numel()) ** 0.5)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("channels", [1, 2])
def test_fully_connected_layers_keep_the_size_whatever_the_fan_in(width, channels):
    """A layer of n inputs h and many units: E z^2 = mean of h^2, in the last layer 1 / n of it.

    Given h, units are independent and normal: the mean of z^2 over m units varies by sqrt(2 / m) of itself; 5 times
    that are allowed.
    """
    h = draw(1, channels, 16, 16)
    *hidden, last = [m for m in build("fc4", h.shape[1:], 1000, width=width, seed=5) if isinstance(m, nn.Linear)]
    h = h.flatten(1)
    with torch.no_grad():
        for layer in hidden:
            z = layer(h)
            assert float(z.square().mean() / h.square().mean()) == pytest.approx(1, abs=5 * (2 / z.shape[1]) ** 0.5)
            h = z.relu()
        n, y = h.shape[1], last(h)
    assert n == 64 * width
    assert float(n * y.square().mean() / h.square().mean()) == pytest.approx(1, abs=5 * (2 / 1000) ** 0.5)


def test_fully_connected_layers_are_the_formula():
    model, image = build("fc2", (1, 4, 4), 3, width=1 / 8, seed=1).double(), draw(1, 1, 4, 4).double()
    v, a, w, b = (p.detach() for p in model.parameters())
    hidden = [max(0.0, float(v[i] @ image.flatten() / 4 + a[i])) for i in range(8)]  # root of 16 pixels
    expected = [float(w[k] @ torch.tensor(hidden, dtype=torch.float64) / 8 + b[k]) for k in range(3)]
    assert model(image)[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_width_scales_the_channels():
    assert [m.out_channels for m in build("vgg11", (3, 32, 32), 10, width=0.25) if isinstance(m, nn.Conv2d)] == [
        *(16, 32, 64, 64),
        *(128, 128, 128, 128),
    ]
    assert build("lenet", (3, 32, 32), 10, width=1e-9)[0].out_channels == 1


@pytest.mark.parametrize(("name", "shape"), [
    ("lenet", (1, 28, 28)), ("alexnet", (3, 33, 31)), ("vgg11", (3, 40, 70)), ("resnet18", (1, 9, 8))
])  # fmt: skip
def test_other_sizes_of_images_fit_if_they_are_large_enough(name, shape):
    assert build(name, shape, 4, width=1 / 8)(draw(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize(("arguments", "match"), [
    (("vgg12", (3, 32, 32), 10), "name must be one of fc2, .*; got 'vgg12'"),
    (("lenet", (32, 32), 10), r"image_shape must be \(channels, rows, columns\), .* got \(32, 32\), 10"),
    (("lenet", (1, 0, 32), 10), "counts at least 1"),
    (("lenet", (1, 32, 32), 0), "counts at least 1"),
    (("lenet", (1, 8, 8), 10), "lenet does not fit images of 8 x 8 pixels; take 32 x 32"),
    (("alexnet", (1, 8, 40), 10), "alexnet does not fit"),
    (("vgg11", (3, 31, 32), 10), "vgg11 does not fit images of 31 x 32"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        build(*arguments, width=1 / 8)


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf")])
def test_refuses_widths_that_are_not_positive(width):
    with pytest.raises(ValueError, match="width must be a positive number"):
        build("lenet", (1, 32, 32), 10, width=width)

"""The architectures that the relative-sensitivity study compares, for images of about 32 pixels."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ARCHITECTURES", "build"]


def build(name: str, image_shape: Sequence[int], outputs: int, *, width: float = 1.0, seed: int = 0) -> nn.Module:
    """A network of the zoo, untrained.

    Blocks and the initial weights of convolutions are torchvision's where it has the architecture (VGG, ResNet,
    EfficientNet), with the first and last layers changed for small images: ResNet starts with a 3 x 3 convolution
    of stride 1 and no pooling, EfficientNet with a stride of 1, VGG ends in one linear layer. AlexNet is the usual
    variant for 32 pixels (3 x 3 kernels, a first stride of 2), LeNet the one of 5 x 5 kernels. Weights of the fully
    connected networks start from N(0, 1) and are divided by the root of their fan-in, in the last layer by the fan-
    in.

    ReLUs are modules, one per layer except in ResNets, so that `spatialkit.measure.calls` can name each
    activation. Images are as they come; `spatialkit.train.standardise` them first.

    Args:
        name: One of ``ARCHITECTURES``.
        image_shape: Channels, rows and columns of one image; VGG needs 32 x 32 pixels or more.
        outputs: Number of outputs, such as classes.
        width: Factor on the number of channels (of units in fully connected layers); 1 is the source's. EfficientNet
            rounds to multiples of 8.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If the name is unknown, a count is below 1, the width is not positive, or the image is too small.

    References:
        Tomasini et al. (2023), Table C1; the parametrisation of the fully connected networks from the authors' code.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"name must be one of {', '.join(ARCHITECTURES)}; got {name!r}")
    if len(image_shape) != 3 or min(*image_shape, outputs) < 1:
        raise ValueError(
            f"image_shape must be (channels, rows, columns), counts at least 1; got {image_shape}, {outputs}"
        )
    if not (width > 0 and math.isfinite(width)):
        raise ValueError(f"width must be a positive number, got {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[name](tuple(image_shape), outputs, width)
    with torch.no_grad():
        shape = _shape_of_output(model, image_shape)
    if shape != (1, outputs):
        raise ValueError(f"{name} does not fit images of {image_shape[1]} x {image_shape[2]} pixels; take 32 x 32")
    return model


def _shape_of_output(model: nn.Module, image_shape: Sequence[int]) -> tuple[int, ...]:
    training = model.training
    try:
        return tuple(model.eval()(torch.zeros(1, *image_shape)).shape)
    except RuntimeError:  # a pooling or a linear layer that finds too few pixels
        return ()
    finally:
        model.train(training)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


class _ScaledLinear(nn.Linear):
    """A linear layer that divides its weights by a power of its fan-in; they start from N(0, 1)."""

    def __init__(self, n_in: int, n_out: int, power: float):
        super().__init__(n_in, n_out)
        self.scale = n_in**-power
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


def _fully_connected(image_shape, outputs, width, *, depth: int) -> nn.Module:
    units = [math.prod(image_shape)] + [_scaled(64, width)] * (depth - 1)
    model = nn.Sequential(nn.Flatten())
    for n_in, n_out in itertools.pairwise(units):
        model.extend([_ScaledLinear(n_in, n_out, 0.5), nn.ReLU()])
    return model.append(_ScaledLinear(units[-1], outputs, 1.0))


def _lenet(image_shape, outputs, width) -> nn.Module:
    n = [_scaled(c, width) for c in (6, 16, 120, 84)]
    rows, columns = [((side - 4) // 2 - 4) // 2 for side in image_shape[1:]]
    return nn.Sequential(
        *(nn.Conv2d(image_shape[0], n[0], 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(n[0], n[1], 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(n[1] * max(rows, 0) * max(columns, 0), n[2]), nn.ReLU()),
        *(nn.Linear(n[2], n[3]), nn.ReLU(), nn.Linear(n[3], outputs)),
    )


def _alexnet(image_shape, outputs, width) -> nn.Module:
    n = [_scaled(c, width) for c in (64, 192, 384, 256, 256)]
    hidden = _scaled(4096, width)
    rows, columns = [(side + 1) // 2 // 8 for side in image_shape[1:]]
    return nn.Sequential(
        *(nn.Conv2d(image_shape[0], n[0], 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(n[0], n[1], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(n[1], n[2], 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(n[2], n[3], 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(n[3], n[4], 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(n[4] * rows * columns, hidden), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)),
    )


def _vgg(image_shape, outputs, width, *, layout: str, batch_norm: bool) -> nn.Module:
    from spatialkit._torchvision import torchvision

    vgg = torchvision.models.vgg
    channels = [c if c == "M" else _scaled(c, width) for c in vgg.cfgs[layout]]
    features = vgg.make_layers(channels, batch_norm=batch_norm)
    features[0] = nn.Conv2d(image_shape[0], channels[0], 3, padding=1)
    for module in features:
        if isinstance(module, nn.Conv2d) and module.bias is not None:  # as in torchvision's VGG
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    rows, columns = [side // 32 for side in image_shape[1:]]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(channels[-2] * rows * columns, outputs))


def _resnet(image_shape, outputs, width, *, block: str, layers: Sequence[int]) -> nn.Module:
    from spatialkit._torchvision import torchvision

    kind = getattr(torchvision.models.resnet, block)
    n = _scaled(64, width)
    model = nn.Sequential(nn.Conv2d(image_shape[0], n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU())
    for stage, count in enumerate(layers):
        planes = _scaled(64 * 2**stage, width)
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            n_out = planes * kind.expansion
            shortcut = None
            if stride != 1 or n != n_out:
                shortcut = nn.Sequential(nn.Conv2d(n, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
            model.append(kind(n, planes, stride, shortcut))
            n = n_out
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # as in torchvision's ResNet
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, outputs)])


def _efficientnet_b0(image_shape, outputs, width) -> nn.Module:
    from spatialkit._torchvision import torchvision

    efficientnet = torchvision.models.efficientnet
    stage = partial(efficientnet.MBConvConfig, width_mult=width)
    stages = [  # expansion, kernel, stride, channels in and out, blocks: the published B0
        *(stage(1, 3, 1, 32, 16, 1), stage(6, 3, 2, 16, 24, 2), stage(6, 5, 2, 24, 40, 2)),
        *(stage(6, 3, 2, 40, 80, 3), stage(6, 5, 1, 80, 112, 3)),
        *(stage(6, 5, 2, 112, 192, 4), stage(6, 3, 1, 192, 320, 1)),
    ]
    model = efficientnet.EfficientNet(stages, dropout=0.2, num_classes=outputs)
    stem = model.features[0][0]
    model.features[0][0] = nn.Conv2d(image_shape[0], stem.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.features[0][0].weight, mode="fan_out")
    return model


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    **{f"fc{depth}": partial(_fully_connected, depth=depth) for depth in (2, 4, 6)},
    "lenet": _lenet,
    "alexnet": _alexnet,
    **{
        f"vgg{depth}{'_bn' if norm else ''}": partial(_vgg, layout=layout, batch_norm=norm)
        for depth, layout in ((11, "A"), (16, "D"), (19, "E"))
        for norm in (False, True)
    },
    "resnet18": partial(_resnet, block="BasicBlock", layers=(2, 2, 2, 2)),
    "resnet34": partial(_resnet, block="BasicBlock", layers=(3, 4, 6, 3)),
    "resnet50": partial(_resnet, block="Bottleneck", layers=(3, 4, 6, 3)),
    "efficientnet_b0": _efficientnet_b0,
}

"""Known networks for small images to hold others against: All-CNN, network in network, and ResNet-20.

All have batch normalisation after each convolution, and neither dropout nor biases but the classifier's, so that one
recipe trains them all; the first two were published without normalisation and with dropout. Weights start from He's
normal distribution.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["all_cnn", "lin_nin", "resnet20"]


def all_cnn(image_shape: Sequence[int], classes: int, *, channels: int = 96, seed: int = 0) -> nn.Module:
    """Nine convolutions, two of them with a stride of 2, and the mean over places.

    Args:
        image_shape: Channels, rows and columns of one image.
        classes: Number of outputs.
        channels: Of the first three layers; the others have twice as many. 96 as published: 1,368,480 weights of
            kernels with 10 classes.
        seed: Of the initial weights.

    Raises:
        ValueError: If a count is below 1.

    References:
        J. T. Springenberg et al., "Striving for Simplicity" (2015), model All-CNN-C. There the seventh layer is not
        padded.
    """
    c, d = channels, 2 * channels
    layers = [(c, 3, 1), (c, 3, 1), (c, 3, 2), (d, 3, 1), (d, 3, 1), (d, 3, 2), (d, 3, 1), (d, 1, 1), (classes, 1, 1)]
    return _plain(image_shape, classes, layers, channels, seed)


def lin_nin(image_shape: Sequence[int], classes: int, *, channels: int = 192, seed: int = 0) -> nn.Module:
    """Three blocks of a spatial convolution and two of 1 x 1 pixel, pooling in between, and the mean over places.

    Args:
        image_shape, classes, seed: As in `all_cnn`.
        channels: Of most layers; 192 as published: 965,568 weights of kernels with 10 classes.

    Raises:
        ValueError: If a count is below 1.

    References:
        M. Lin, Q. Chen and S. Yan, "Network in Network" (2014), in the form for CIFAR-10 that its authors released:
        maxima and means over 3 x 3 px as pooling. (`NiN` is the one of the structured receptive fields.)
    """
    c = channels
    blocks = [[(c, 5, 1), (c * 5 // 6, 1, 1), (c // 2, 1, 1)], [(c, 5, 1), (c, 1, 1), (c, 1, 1)]]
    blocks += [[(c, 3, 1), (c, 1, 1), (classes, 1, 1)]]
    pools: list[nn.Module] = [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1)]
    layers = [*blocks[0], pools[0], *blocks[1], pools[1], *blocks[2]]
    return _plain(image_shape, classes, layers, channels, seed)


def resnet20(image_shape: Sequence[int], classes: int, *, channels: int = 16, seed: int = 0) -> nn.Module:
    """A first convolution, nine residual blocks of two, and a linear layer; each third doubles the channels.

    Args:
        image_shape, classes, seed: As in `all_cnn`.
        channels: Of the first third; 16 as published: 269,722 parameters with 10 classes.

    Raises:
        ValueError: If a count is below 1.

    References:
        K. He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2, n = 3. Shortcuts have no
        parameters: where the size changes they take every second place, and new channels get zeros.
    """
    _check(image_shape, classes, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(*_convolution(image_shape[0], channels, 3, 1), nn.ReLU())
        n = channels
        for i in range(9):
            n_out = channels * 2 ** (i // 3)
            model.append(_Residual(n, n_out))
            n = n_out
        return model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, classes)])


class _Residual(nn.Module):
    """Two convolutions and what they got; a stride of 2 where the channels double."""

    def __init__(self, n: int, n_out: int):
        super().__init__()
        self.stride, self.added = (1 if n == n_out else 2), n_out - n
        first, second = _convolution(n, n_out, 3, self.stride), _convolution(n_out, n_out, 3, 1)
        self.branch = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(self.branch(x) + shortcut)


def _plain(image_shape, classes: int, layers: list, channels: int, seed: int) -> nn.Sequential:
    """Convolutions (channels, side, stride) with ReLUs between, poolings, and the mean over places."""
    _check(image_shape, classes, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, n = nn.Sequential(), image_shape[0]
        for layer in layers:
            if isinstance(layer, nn.Module):
                model.append(layer)
                continue
            model.extend([*_convolution(n, *layer), nn.ReLU()])
            n = layer[0]
        return nn.Sequential(*list(model.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _convolution(n: int, n_out: int, side: int, stride: int) -> Iterator[nn.Module]:
    convolution = nn.Conv2d(n, n_out, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    yield from (convolution, nn.BatchNorm2d(n_out))


def _check(image_shape, classes: int, channels: int) -> None:
    if len(image_shape) != 3 or min(*image_shape, classes, channels) < 1:
        raise ValueError(
            f"need (channels, rows, columns) and counts at least 1; got {image_shape=}, {classes=}, {channels=}"
        )

"""ResNets and DenseNets for small images whose 3 x 3 convolutions are written in chosen sets of atoms."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spatialkit.models.basis import BasisConv2d

__all__ = ["framed_densenet", "framed_resnet"]

Frame = Callable[[int, int], Tensor]  # number of the convolution, number of its block, from 0 -> atoms (K, 3, 3)
_CHANNELS = 16  # of the first convolution


def framed_resnet(frame: Frame, depth: int, outputs: int = 10) -> nn.Module:
    """A pre-activation ResNet without bottlenecks: 16, 32 and 64 channels, (depth - 2) / 6 blocks of each.

    Shortcuts are the identity, or a 1 x 1 convolution of the normalised and rectified input where channels change.
    Images are as they come, ``(N, 3, H, W)``; `spatialkit.train.standardise` them first.

    Args:
        frame: Number of the 3 x 3 convolution and number of its block, both from 0 -> its atoms, ``(K, 3, 3)``. The
            first convolution is 0 in block 0, those of block i are 2 i + 1 and 2 i + 2.
        depth: Layers as its authors count them: 20, 56, 110, ...
        outputs: Number of outputs, such as classes.

    Raises:
        ValueError: If the depth is not 6 n + 2, or the atoms suit no `BasisConv2d`.

    References:
        K. He et al., "Identity mappings in deep residual networks" (2016); Jacobsen's thesis, section 4.4.1.
    """
    per_stage, rest = divmod(depth - 2, 6)
    if per_stage < 1 or rest:
        raise ValueError(f"depth must be 6 n + 2 with n at least 1, such as 20, 56 or 110; got {depth}")
    n = _CHANNELS
    layers: list[nn.Module] = [_conv(frame(0, 0), 3, n)]
    for block in range(3 * per_stage):
        stage, place = divmod(block, per_stage)
        n_out, stride = _CHANNELS * 2**stage, 2 if stage and not place else 1
        layers.append(_Residual(frame(2 * block + 1, block), frame(2 * block + 2, block), n, n_out, stride))
        n = n_out
    return nn.Sequential(*layers, *_head(n, outputs))


def framed_densenet(frame: Frame, depth: int, outputs: int = 10, growth: int = 12) -> nn.Module:
    """A DenseNet without bottlenecks: three stages of (depth - 4) / 3 layers, each of which adds ``growth`` maps.

    Between stages, a 1 x 1 convolution and an average over 2 x 2 px.

    Args:
        frame: As for `framed_resnet`; a convolution is a block of its own.
        depth: Layers as its authors count them: 40, 100, ...
        outputs: Number of outputs.
        growth: Maps that a layer adds.

    Raises:
        ValueError: If the depth is not 3 n + 4, or the atoms suit no `BasisConv2d`.

    References:
        G. Huang et al., "Densely connected convolutional networks" (2017); Jacobsen's thesis, section 4.4.1.
    """
    per_stage, rest = divmod(depth - 4, 3)
    if per_stage < 1 or rest:
        raise ValueError(f"depth must be 3 n + 4 with n at least 1, such as 22, 40 or 100; got {depth}")
    n = _CHANNELS
    layers: list[nn.Module] = [_conv(frame(0, 0), 3, n)]
    for i in range(3 * per_stage):
        if i and i % per_stage == 0:
            layers += [nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, n, 1, bias=False), nn.AvgPool2d(2)]
        layers.append(_Dense(frame(i + 1, i + 1), n, growth))
        n += growth
    return nn.Sequential(*layers, *_head(n, outputs))


def _conv(atoms: Tensor, n_in: int, n_out: int, stride: int = 1) -> BasisConv2d:
    return BasisConv2d(n_in, n_out, atoms, stride=stride, padding=1, bias=False)


def _head(n: int, outputs: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(n), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, outputs)]


class _Residual(nn.Module):
    """Two convolutions, each after normalisation and ReLU, added to what came in."""

    def __init__(self, first: Tensor, second: Tensor, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU())
        between = (nn.BatchNorm2d(n_out), nn.ReLU())
        self.branch = nn.Sequential(_conv(first, n_in, n_out, stride), *between, _conv(second, n_out, n_out))
        same = n_in == n_out and stride == 1
        self.shortcut = None if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.before(x)
        return self.branch(active) + (x if self.shortcut is None else self.shortcut(active))


class _Dense(nn.Module):
    """New maps beside those that came in."""

    def __init__(self, atoms: Tensor, n_in: int, growth: int):
        super().__init__()
        self.branch = nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU(), _conv(atoms, n_in, growth))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)

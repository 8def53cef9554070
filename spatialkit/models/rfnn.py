"""Structured receptive field networks and their controls, which differ in what their spatial kernels learn.

A block's kernels are given as a number, the side of free ones in px, or as atoms ``(K, side, side)`` to be weighed.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spatialkit.models.basis import BasisConv2d
from spatialkit.theory.gaussian import gaussian_derivatives, gaussian_scales

__all__ = ["RFNN", "NiN", "equal_widths", "rfnin", "rfnin_bases"]

_WIDTHS = (96, 256, 384, 1024)
_SIGMAS = ((1, 2, 4, 8), (1, 2, 4), (1, 2), (1,))  # px, per layer
_SIZES = (11, 9, 7, 5)  # px, of the released models


class NiN(nn.Module):
    """Network in network: per block a spatial convolution, a ReLU and 1 x 1 convolutions; then the mean over places.

    A ReLU follows every convolution but the last, which puts out the classes, and max-pooling of 3 x 3 px with stride 2
    every block but the last. Free pixels in ``spatial`` make it a NiN, Gaussian derivatives RFNiN (see `rfnin`).

    Args:
        image_shape: Channels, rows and columns of one image.
        classes: Number of outputs.
        spatial: Kernels per block.
        widths: Channels per block.
        mixing: 1 x 1 convolutions per block: 1 as RFNiN, 2 as Caffe's NiN.
        free: Blocks, counted from 0, whose atoms are learned too, starting at those given.
        stride: Of the first convolution. Caffe's NiN has 4 at 224 px.
        dropout: Share of the last block's inputs that is dropped in training.
        seed: Of the initial weights: N(0, 2 / fan-in), and for atoms the same square norm of the kernels; biases 0.

    Attributes:
        blocks: The blocks; ``blocks[i][0]`` is the spatial convolution.

    Raises:
        ValueError: If counts are too small or do not fit, a side is even, ``free`` names a block without atoms, or the
            image is too small for the pooling.

    References:
        Jacobsen's thesis, sections 3.3.4 and 3.4.1. One 1 x 1 convolution per block is read off the numbers of
        parameters in its Table 1. The text has a ReLU after the classes too, where they can die; it names no initial
        weights.
    """

    def __init__(
        self, image_shape: Sequence[int], classes: int, spatial: Sequence[int | Tensor], widths: Sequence[int], *,
        mixing: int = 1, free: Sequence[int] = (), stride: int = 1, dropout: float = 0.5, seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        if len(image_shape) != 3 or min(*image_shape, classes, mixing, stride, *widths) < 1:
            raise ValueError(
                f"counts must be at least 1; got {image_shape=}, {classes=}, {widths=}, {mixing=}, {stride=}"
            )
        if not spatial or len(spatial) != len(widths):
            raise ValueError(f"need one width per block, got {len(widths)} widths for {len(spatial)} blocks")
        if not all(0 <= i < len(spatial) and isinstance(spatial[i], Tensor) for i in free):
            raise ValueError(f"free must name blocks with atoms, got {list(free)}")
        if -(-min(image_shape[1:]) // stride) < 2 ** (len(spatial) - 1):
            raise ValueError(
                f"images of {image_shape[1]} x {image_shape[2]} px are too small for {len(spatial)} blocks"
            )
        self.blocks, self.dropout = nn.ModuleList(), nn.Dropout(dropout)
        channels, last = image_shape[0], len(spatial) - 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for i, (kernels, width) in enumerate(zip(spatial, widths, strict=True)):
                block = nn.Sequential(_spatial(channels, width, kernels, stride if i == 0 else 1, i not in free))
                for m in range(mixing):
                    block.extend([nn.ReLU(), _he(width, classes if (i, m) == (last, mixing - 1) else width, 1)])
                if i < last:
                    block.extend([nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)])
                self.blocks.append(block)
                channels = width

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes."""
        for block in self.blocks[:-1]:
            images = block(images)
        return self.blocks[-1](self.dropout(images)).mean((2, 3))


def rfnin_bases(order: int, multi_scale: bool = False, layers: int = 4) -> list[Tensor]:
    """Gaussian derivatives for every layer of RFNiN, float64.

    Windows are those of the released models, 11, 9, 7 and 5 px, or what 3 sigma of the widest atom need if that is
    less. They cut off the widest atoms of the first two layers: 51 % of the mass of sigma 8 is inside, so that even
    orders have a mean of their own.

    Args:
        order: Highest order of the derivatives, 1 to 4 in the source.
        multi_scale: Whether layers have the scales 1, 2, 4, 8; 1, 2, 4; 1, 2; 1 px, instead of 1 px alone.
        layers: How many, at most 4, from the first.

    Raises:
        ValueError: If the order is negative or ``layers`` not from 1 to 4.

    References:
        Jacobsen's thesis, section 3.4.1: 12, 24, 40, 60 atoms in all, with scales 24, 54, 94, 144. The text discards
        "the lowest scale" from layer to layer, its list of scales the widest one.
    """
    if not 1 <= layers <= len(_SIGMAS):
        raise ValueError(f"layers must be from 1 to {len(_SIGMAS)}, got {layers}")
    bases = []
    for sigmas, size in list(zip(_SIGMAS, _SIZES, strict=True))[:layers]:
        chosen = sigmas if multi_scale else (1,)
        bases.append(gaussian_scales(order, chosen, min(size, 6 * max(chosen) + 1)))
    return bases


def rfnin(
    image_shape: Sequence[int], classes: int, order: int, multi_scale: bool = False,
    widths: Sequence[int] = _WIDTHS, **options,
) -> NiN:  # fmt: skip
    """RFNiN: a `NiN` whose spatial kernels are weights of `rfnin_bases`, one layer per width; ``options`` go to `NiN`.

    With 100 classes and three channels it has the numbers of parameters of Table 1, 1.88 to 10.15 million. The source's
    network for CIFAR-10 (Table 3) has ``widths=(192, 192, 192)``.

    Raises:
        ValueError: As `NiN` and `rfnin_bases`.
    """
    return NiN(image_shape, classes, rfnin_bases(order, multi_scale, len(widths)), widths, **options)


def equal_widths(
    parameters: int, image_channels: int, classes: int, sides: Sequence[int],
    widths: Sequence[int] = _WIDTHS, mixing: int = 1,
) -> list[int]:  # fmt: skip
    """Widths of a `NiN` of free kernels with as many parameters as another network: ``widths`` times one factor.

    Args:
        parameters: The number to come as near to as whole channels allow.
        image_channels, classes, sides, mixing: Of the `NiN`; ``sides`` are its ``spatial``.
        widths: Their proportions.

    Raises:
        ValueError: If one channel per block has more parameters already, or counts are below 1.
    """
    if min(parameters, image_channels, classes, mixing, *sides, *widths) < 1 or len(sides) != len(widths):
        raise ValueError(f"counts must be at least 1, one width per side; got {parameters}, {sides}, {widths}")
    at = lambda factor: [max(1, round(factor * w)) for w in widths]  # noqa: E731
    off = lambda factor: _parameters(image_channels, classes, sides, at(factor), mixing) - parameters  # noqa: E731
    if off(0.0) > 0:
        raise ValueError(f"one channel per block has {off(0.0)} parameters more than {parameters}")
    low, high = 0.0, 1.0
    while off(high) < 0:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) < 0 else (low, middle)
    return at(min((low, high), key=lambda factor: abs(off(factor))))


def _parameters(channels: int, classes: int, sides: Sequence[int], widths: Sequence[int], mixing: int) -> int:
    total = 0
    for i, (side, width) in enumerate(zip(sides, widths, strict=True)):
        ends = classes if i == len(sides) - 1 else width
        total += (channels * side**2 + 1) * width + (mixing - 1) * (width + 1) * width + (width + 1) * ends
        channels = width
    return total


class RFNN(nn.Module):
    """The source's network for MNIST: three layers of 64 channels, and one linear layer; no biases.

    Each layer is a convolution, a ReLU, max-pooling of 3 x 3 px with stride 2 and a normalisation across 9 channels,
    x / (2 + 1e-4 sum x^2)^(3/4). The first convolution keeps 28 px, the others take every place where image and kernel
    overlap ("full"): 28, 13, 19, 9, 15, 7 px. With the released atoms, the first one goes along one axis after the
    other.

    Args:
        spatial: Kernels per layer; by default orders 3, 2, 2 at sigma 1.5, 1, 1 px on 11, 7, 7 px, as released.
            ``(11, 7, 7)`` is the plain network of the same architecture.
        image_shape: Channels, rows and columns of one image.
        classes: Number of outputs.
        width: Channels per layer.
        dropout: Share of inputs dropped in training before the second, the third and the linear layer.
        initial: "source" draws the weights of atoms from U(-1, 1) and those of the linear layer from N(0, 0.01^2); "he"
            all from N(0, 2 / fan-in), and for atoms the same square norm of the kernels. Free kernels have it in both.
        seed: Of the initial weights.

    Raises:
        ValueError: If counts are too small or do not fit, a side is even or ``initial`` is neither.

    References:
        Jacobsen's thesis, section 3.4.2, and the released code, which has second order in layers 2 and 3 where the text
        says third.
    """

    def __init__(
        self, spatial: Sequence[int | Tensor] | None = None, image_shape: Sequence[int] = (1, 28, 28),
        classes: int = 10, *, width: int = 64, dropout: Sequence[float] = (0.2, 0.2, 0.7), initial: str = "source",
        seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        separable = spatial is None
        spatial = _released() if spatial is None else spatial
        if len(image_shape) != 3 or min(*image_shape, classes, width) < 1:
            raise ValueError(f"counts must be at least 1, got {image_shape=}, {classes=}, {width=}")
        if len(spatial) != 3 or len(dropout) != 3 or initial not in ("source", "he"):
            raise ValueError(
                f'need three kernels, three dropouts and "source" or "he"; got {len(spatial)}, {initial!r}'
            )
        channels, sides = image_shape[0], list(image_shape[1:])
        self.layers = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for i, (kernels, share) in enumerate(zip(spatial, (0.0, *dropout[:2]), strict=True)):
                side = _side(kernels)
                padding = side // 2 if i == 0 else side - 1
                convolution = _spatial(
                    channels, width, kernels, padding=padding, bias=False, separable=separable and i == 0
                )
                if initial == "source" and isinstance(convolution, BasisConv2d):
                    nn.init.uniform_(convolution.coefficients, -1, 1)
                pool, norm = nn.MaxPool2d(3, 2), _AcrossChannels(width)
                self.layers.append(nn.Sequential(nn.Dropout(share), convolution, nn.ReLU(), pool, norm))
                sides = [(n + 2 * padding - side + 1 - 3) // 2 + 1 for n in sides]
                if min(sides) < 1:
                    raise ValueError(f"images of {image_shape[1]} x {image_shape[2]} px are too small")
                channels = width
            linear = nn.Linear(width * math.prod(sides), classes, bias=False)
            nn.init.normal_(linear.weight, std=0.01 if initial == "source" else math.sqrt(2 / linear.in_features))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout[2]), linear)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes."""
        for layer in self.layers:
            images = layer(images)
        return self.head(images)


class _AcrossChannels(nn.Module):
    """x / (2 + 1e-4 sum x^2)^(3/4), the sum over 9 channels around each, by a banded 1 x 1 convolution.

    That is ``nn.LocalResponseNorm(9, alpha=9e-4, k=2)``, whose pooling in three dimensions takes 3 to 6 times as long.
    """

    band: Tensor

    def __init__(self, channels: int, near: int = 4, share: float = 1e-4):
        super().__init__()
        place = torch.arange(channels)
        band = share * ((place - place[:, None]).abs() <= near).to(torch.get_default_dtype())
        self.register_buffer("band", band[:, :, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        total = F.conv2d(images.square(), self.band) + 2
        return images * (total.rsqrt() * total.sqrt().rsqrt())


def _released() -> list[Tensor]:
    first, *later = (gaussian_derivatives(m, sigma, side) for m, sigma, side in ((3, 1.5, 11), (2, 1.0, 7)))
    return [first, *later, *later]


def _side(kernels: int | Tensor) -> int:
    return kernels if isinstance(kernels, int) else kernels.shape[-1]


def _spatial(
    channels: int, width: int, kernels: int | Tensor, stride: int = 1, fixed: bool = True,
    padding: int | None = None, bias: bool = True, separable: bool = False,
) -> nn.Module:  # fmt: skip
    """A convolution of free pixels or of weighed atoms; without padding named it keeps the size, up to its stride."""
    side = _side(kernels)
    if side < 1 or side % 2 == 0:
        raise ValueError(f"sides of kernels must be odd to keep the size, got {side}")
    padding = side // 2 if padding is None else padding
    if isinstance(kernels, int):
        return _he(channels, width, side, stride, padding, bias)
    return BasisConv2d(
        channels, width, kernels, stride=stride, padding=padding, bias=bias, fixed=fixed, separable=separable
    )


def _he(n_in: int, n_out: int, side: int, stride: int = 1, padding: int = 0, bias: bool = True) -> nn.Conv2d:
    convolution = nn.Conv2d(n_in, n_out, side, stride, padding, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution

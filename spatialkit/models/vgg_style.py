"""VGG-style networks that differ only in how they halve the resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["DOWNSAMPLINGS", "VGGStyle"]

DOWNSAMPLINGS = ("subsample", "max", "average", "strided", "strided_relu")


class VGGStyle(nn.Module):
    """Blocks of [3 x 3 convolution, batch normalisation, ReLU], a downsampling by 2 after each; global average, linear.

    ``downsampling`` is one of: ``"subsample"``, the top left pixel of each 2 x 2; ``"max"`` and ``"average"`` of each
    2 x 2; ``"strided"``, a convolution of 2 x 2 with stride 2; ``"strided_relu"``, the same with batch normalisation
    and ReLU. An odd side loses its last row and column.

    Weights start from a normal distribution cut off at two of its standard deviations of 1 / sqrt(n_in), n_in inputs
    per unit, biases at zero.

    Args:
        image_shape: Channels, rows and columns of one image.
        classes: Number of outputs.
        downsampling: One of ``DOWNSAMPLINGS``.
        channels: Channels of each block.
        convolutions: Convolutions per block.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If the downsampling is unknown, a count is below 1, or the image is too small for the blocks.

    References:
        "Learned Deformation Stability in Convolutional Neural Networks" (2018), section 2.2; the initial weights in
        its footnote 2. CIFAR-10: the default channels.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        downsampling: str,
        *,
        channels: Sequence[int] = (32, 64, 128, 256),
        convolutions: int = 2,
        seed: int = 0,
    ):
        super().__init__()
        n_in, *size = image_shape
        if downsampling not in DOWNSAMPLINGS:
            raise ValueError(f"downsampling must be one of {', '.join(DOWNSAMPLINGS)}; got {downsampling!r}")
        if min(n_in, classes, convolutions, *channels) < 1:
            raise ValueError(f"counts must be at least 1, got {image_shape=}, {classes=}, {channels=}, {convolutions=}")
        if min(size) < 2 ** len(channels):
            raise ValueError(f"{len(channels)} blocks need {2 ** len(channels)} pixels per side, got {size}")
        blocks = []
        for n_out in channels:
            block = nn.Sequential()
            for _ in range(convolutions):
                block.append(_convolution(n_in, n_out, 3, padding=1))
                n_in = n_out
            block.append(_downsampling(downsampling, n_out))
            blocks.append(block)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, classes))
        _truncated_normal(self, seed)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that the source measures: convolutions (after their ReLU) and downsamplings, in order."""
        return [f"blocks.{b}.{name}" for b, block in enumerate(self.blocks) for name, _ in block.named_children()]

    @property
    def kernels(self) -> dict[str, Tensor]:
        """The kernels of these layers by their names, C_out x C_in x kH x kW; no entry for layers that have none."""
        convolutions = {
            name: [m for m in self.get_submodule(name).modules() if isinstance(m, nn.Conv2d)] for name in self.layers
        }
        return {name: found[0].weight for name, found in convolutions.items() if found}

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes."""
        for block in self.blocks:
            images = block(images)
        return self.head(images)


def _convolution(n_in: int, n_out: int, side: int, **options) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, side, **options), nn.BatchNorm2d(n_out), nn.ReLU())


def _downsampling(kind: str, n: int) -> nn.Module:
    if kind == "strided":
        return nn.Conv2d(n, n, 2, stride=2)
    if kind == "strided_relu":
        return _convolution(n, n, 2, stride=2)
    if kind == "average":
        return nn.AvgPool2d(2)
    return nn.MaxPool2d(1, stride=2) if kind == "subsample" else nn.MaxPool2d(2)


def _truncated_normal(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _draw_within_two_deviations(module.weight, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def _draw_within_two_deviations(weight: Tensor, generator: torch.Generator) -> None:
    """What falls beyond is drawn anew. (The numbers of nn.init.trunc_normal_ depend on the version of PyTorch.)"""
    deviation = weight[0].numel() ** -0.5
    weight.normal_(0, deviation, generator=generator)
    while (beyond := weight.abs() > 2 * deviation).any():
        again = torch.empty_like(weight).normal_(0, deviation, generator=generator)
        weight.copy_(torch.where(beyond, again, weight))

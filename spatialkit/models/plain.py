"""Plain stacks of convolutions, as the orderness study trains them."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["PlainCNN"]


class PlainCNN(nn.Module):
    """``depth`` times [convolution, ReLU], max-pooling in between, then fully connected layers.

    A 2 x 2 max-pooling follows every ``pool_every``-th convolution while more than one pixel is
    left; an odd side keeps its last row and column (15 -> 8), so that no content is dropped.
    Pooling comes before the ReLU: the two commute, and this way costs a quarter. Convolutions
    keep the size (zero padding), except with ``first_kernel_size``, which is not padded.

    Weights start from He's normal distribution, biases at zero. The source names neither the
    initialisation nor the treatment of odd sides.

    Args:
        image_shape: Channels, rows and columns of one image.
        classes: Number of outputs.
        depth: Number of convolutions; 0 leaves the fully connected layers alone.
        width: Channels of every convolution and units of every hidden layer.
        kernel_size: Side of the kernels, odd.
        pool_every: Convolutions per pooling.
        hidden_layers: Fully connected layers before the output.
        first_kernel_size: Side of the first layer's kernels without padding, if they differ.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If a count is too small, a kernel is even, or the first kernel exceeds the image.

    References:
        "Investigating CNNs using Spatial Orderness" (BMVC 2019), section 4: width 64, kernels 3 x 3;
        MNIST and Fashion-MNIST ``pool_every=1, hidden_layers=0``; CIFAR-10 ``pool_every=2, hidden_layers=1``.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        classes: int,
        depth: int,
        *,
        width: int = 64,
        kernel_size: int = 3,
        pool_every: int = 1,
        hidden_layers: int = 0,
        first_kernel_size: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        channels, *size = image_shape
        if min(channels, *size, classes, width, pool_every) < 1 or min(depth, hidden_layers) < 0:
            raise ValueError(f"counts must be at least 1, depths at least 0; got {image_shape=}, {depth=}, {width=}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd to keep the size, got {kernel_size}")
        if first_kernel_size is not None and first_kernel_size > min(size):
            raise ValueError(f"first_kernel_size must fit into the image of {size} pixels, got {first_kernel_size}")
        self.blocks = nn.ModuleList()
        for layer in range(depth):
            first = first_kernel_size if layer == 0 else None
            side, padding = (first, 0) if first else (kernel_size, kernel_size // 2)
            block = nn.Sequential(nn.Conv2d(channels, width, side, padding=padding))
            size = [n + 2 * padding - side + 1 for n in size]
            if (layer + 1) % pool_every == 0 and max(size) > 1:
                block.append(nn.MaxPool2d(2, ceil_mode=True))
                size = [-(-n // 2) for n in size]
            block.append(nn.ReLU())
            self.blocks.append(block)
            channels = width
        units = [channels * size[0] * size[1]] + [width] * hidden_layers
        self.head = nn.Sequential(nn.Flatten())
        for n_in, n_out in itertools.pairwise(units):
            self.head.extend([nn.Linear(n_in, n_out), nn.ReLU()])
        self.head.append(nn.Linear(units[-1], classes))
        _he_normal(self, seed)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What every convolution puts out, after its pooling and ReLU; each N x C x H x W."""
        maps = []
        for block in self.blocks:
            images = block(images)
            maps.append(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes."""
        for block in self.blocks:
            images = block(images)
        return self.head(images)


def _he_normal(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

"""Convolutional networks on a ring of pixels, as the theory of the scale-detection tasks trains them."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "CircularCNN"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
    "abs": torch.abs,
    "softsign": nn.functional.softsign,
    "sin": torch.sin,
    "swish": nn.functional.silu,
    "leaky_relu": nn.functional.leaky_relu,
}


class CircularCNN(nn.Module):
    """``depth`` convolutions on a ring, each followed by sqrt(F) times an activation; then the mean over the ring.

    With y_0 the image, F the filter size, C the channels below and s the stride, layer k is::

        y_k[c, i] = sqrt(F) phi( b_k[c] + sum_(c', f) w_k[c, c', f] y_(k-1)[c', s i + f - o] / sqrt(F C) )

    with o = (F - 1) // 2 for stride 1, so that odd filters are centred, and o = 0 for stride F, where windows do not
    overlap; positions are taken modulo the length. The output is ``b + sum_c beta[c] mean_i y_K[c, i] / H``. All
    weights and biases start from N(0, 1).

    Args:
        depth: Number of convolutions K.
        width: Channels H of every convolution.
        kernel_size: Filter size F.
        stride: 1, or ``kernel_size``.
        activation: phi, a name of ``ACTIVATIONS``.
        seed: Seed of the initial weights.

    Attributes:
        weights: K tensors w_k, C_out x F x C_in (in this order a window is one row of memory).
        biases: K tensors b_k, H.

    Raises:
        ValueError: If a count is below 1, the stride is neither, or the activation is unknown.

    References:
        Tomasini et al. (2023), section 4; the text leaves out how layers are scaled and what the ends of an image
        see, which is here as in the authors' code (circular, mean-field output, sqrt(F) in front of the ReLU).
    """

    def __init__(
        self, depth: int, width: int, kernel_size: int, stride: int = 1, activation: str = "relu", seed: int = 0
    ):  # fmt: skip
        super().__init__()
        if min(depth, width, kernel_size) < 1:
            raise ValueError(f"depth, width and kernel_size must be at least 1, got {depth}, {width} and {kernel_size}")
        if stride not in (1, kernel_size):
            raise ValueError(f"stride must be 1 or kernel_size, {kernel_size}; got {stride}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        self.kernel_size, self.stride, self.activation = kernel_size, stride, activation
        self.offset = (kernel_size - 1) // 2 if stride == 1 else 0
        generator = torch.Generator().manual_seed(seed)
        channels = [1] + [width] * depth
        draw = lambda *shape: nn.Parameter(torch.randn(shape, generator=generator))  # noqa: E731
        self.weights = nn.ParameterList(draw(width, kernel_size, c) for c in channels[:-1])
        self.biases = nn.ParameterList(draw(width) for _ in range(depth))
        self.beta, self.bias = draw(width), draw()

    @property
    def kernels(self) -> list[Tensor]:
        """Learned kernels, C_out x C_in x F per layer."""
        return [w.detach().transpose(1, 2) for w in self.weights]

    def windows(self, y: Tensor) -> Tensor:
        """All windows of y, N x L x C, as rows: N x L / s x F * C."""
        N, L, C = y.shape
        if L % self.stride:
            raise ValueError(f"{L} pixels are no multiple of the stride {self.stride}")
        if self.stride == self.kernel_size:
            return y.reshape(N, L // self.stride, self.kernel_size * C)
        return torch.cat([y.roll(self.offset - f, dims=1) for f in range(self.kernel_size)], dim=2)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What every layer puts out after its activation, N x H x L_k each, for images N x 1 x L."""
        y, maps = images.transpose(1, 2), []
        phi = ACTIVATIONS[self.activation]
        for w, b in zip(self.weights, self.biases, strict=True):
            rows = self.windows(y)
            y = math.sqrt(self.kernel_size) * phi(b + rows @ w.flatten(1).T / math.sqrt(rows.shape[-1]))
            maps.append(y.transpose(1, 2))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Outputs, N; positive for the label +1."""
        y = self.feature_maps(images)[-1]
        return self.bias + y.mean(dim=2) @ self.beta / len(self.beta)

    @torch.no_grad()
    def with_mean_kernels(self) -> "CircularCNN":
        """A copy in which every kernel of a layer is the mean over channels; all else stays.

        References:
            Tomasini et al. (2023), section 4.3: all filters of a layer replaced by their average.
        """
        mean = copy.deepcopy(self)
        for w in mean.weights:
            w.copy_(w.mean(dim=(0, 2), keepdim=True).expand_as(w))
        return mean

    @classmethod
    @torch.no_grad()
    def homogeneous(cls, depth: int, kernel_size: int, stride: int = 1, activation: str = "relu") -> "CircularCNN":
        """One channel of homogeneous filters without biases, the solution that the theory assumes.

        Where the activation passes its input on, a layer of stride 1 is the mean over F neighbours (so that its sum
        is kept), and a unit of a layer of stride F is the sum of its F inputs.
        """
        model = cls(depth, 1, kernel_size, stride, activation)
        for parameter in model.parameters():
            parameter.zero_()
        for w in model.weights:
            w.fill_(1 / kernel_size if stride == 1 else 1.0)  # sqrt(F) w / sqrt(F) = w
        model.beta.fill_(1.0)
        return model

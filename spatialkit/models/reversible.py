"""Reversible blocks: two streams of channels, each added to by the other, and a way back that stores nothing."""

import contextlib
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

__all__ = ["Block", "Streams", "halves", "on_grid", "recomputed", "to_channels", "to_pixels"]

Streams = tuple[Tensor, Tensor]

_GRID = 1.5 * 2.0**20  # a float64 near it is a multiple of 2^-32


def recomputed(blocks: nn.ModuleList, streams: Streams) -> Streams:
    """What a chain of blocks puts out, with a backward pass that finds all else from that alone.

    It computes each block again, under the same autocast, without moving its running statistics a second time.
    """
    learned = [[p for p in block.parameters() if p.requires_grad] for block in blocks]
    return _Recomputed.apply(blocks, learned, *streams, *chain.from_iterable(learned))


class Block(nn.Module):
    """(x1, x2) -> (S x2, S x1 + F(x2)) with ``width`` channels in each stream."""

    def __init__(self, width: int, stride: int, kernels: Sequence[int], epsilon: float, exact: bool, *, first: bool):
        super().__init__()
        self.stride, self.exact, out = stride, exact, width * stride**2
        channels = [width, max(1, out // 4), max(1, out // 4), out]
        strided = next((i for i, kernel in enumerate(kernels) if kernel > 1), None)
        self.residual = nn.Sequential()
        for i, kernel in enumerate(kernels):
            if not (first and i == 0):
                self.residual.extend([nn.BatchNorm2d(channels[i], eps=epsilon), nn.ReLU()])
            step = stride if i == strided else 1
            self.residual.append(nn.Conv2d(channels[i], channels[i + 1], kernel, step, kernel // 2, bias=False))

    def forward(self, x1: Tensor, x2: Tensor) -> Streams:
        return to_channels(x2, self.stride), to_channels(x1, self.stride) + self.change(x2)

    def inverse(self, y1: Tensor, y2: Tensor) -> Streams:
        x2 = to_pixels(y1, self.stride)
        return to_pixels(y2 - self.change(x2), self.stride), x2

    def change(self, x2: Tensor) -> Tensor:
        """F(x2), on the grid if streams are exact."""
        if not self.exact:
            return self.residual(x2)
        return on_grid(self.residual(x2.to(next(self.residual[-1].parameters()).dtype)))

    def back(
        self, y: Streams, gradients: Streams, learned: list[nn.Parameter]
    ) -> tuple[Streams, Streams, list[Tensor]]:
        """From outputs and their gradients: inputs, their gradients, and those of learned parameters."""
        x2 = to_pixels(y[0], self.stride).detach().requires_grad_()
        with torch.enable_grad(), _kept_statistics(self.residual):
            f = self.change(x2)
        through, *own = torch.autograd.grad(f, [x2, *learned], gradients[1].to(f.dtype))
        x1 = to_pixels(y[1] - f.detach(), self.stride)
        inputs = to_pixels(gradients[1], self.stride), to_pixels(gradients[0], self.stride) + through
        return (x1, x2.detach()), inputs, [_laid_out_as(p, g) for p, g in zip(learned, own, strict=True)]


class _Recomputed(torch.autograd.Function):
    """A chain of blocks that keeps its output alone, and goes back through it block by block."""

    @staticmethod
    def forward(ctx, blocks, learned, x1, x2, *parameters):
        ctx.chain = list(zip(blocks, learned, strict=True))
        ctx.autocast = _autocast(x1.device.type)
        for block in blocks:
            x1, x2 = block(x1, x2)
        ctx.save_for_backward(x1, x2)
        return x1, x2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        streams, own = ctx.saved_tensors, []
        with torch.autocast(**ctx.autocast):
            for block, learned in reversed(ctx.chain):
                streams, gradients, some = block.back(streams, gradients, learned)
                own.append(some)
        return None, None, *gradients, *chain.from_iterable(reversed(own))


def _autocast(device: str) -> dict:
    """What ``torch.autocast`` needs to be as it is now, without its cache, whose weights could lack gradients."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return {"device_type": device, "enabled": enabled, "dtype": dtype, "cache_enabled": False}


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in its parameter's order of memory; else autograd would copy those of all blocks at once."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


@contextlib.contextmanager
def _kept_statistics(layers: nn.Sequential):
    """Normalisations use the statistics of the batch, if they did, and leave the running ones alone."""
    norms = [m for m in layers if isinstance(m, nn.BatchNorm2d) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def on_grid(x: Tensor) -> Tensor:
    """The nearest multiples of 2^-32, as float64; sums of such numbers are exact up to 2^20."""
    return (x.double() + _GRID).sub_(_GRID)


def halves(x: Tensor) -> Streams:
    """Both streams, channels innermost in memory, as all that follows has them: another order could round otherwise."""
    first, second = (half.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for half in x.chunk(2, dim=1))
    return first, second


def to_channels(x: Tensor, s: int) -> Tensor:
    """s x s pixels become s^2 times the channels: channel (s dy + dx) C + c is pixel (dy, dx) of channel c."""
    if s == 1:
        return x
    N, C, H, W = x.shape
    x = x.permute(0, 2, 3, 1).reshape(N, H // s, s, W // s, s, C)
    return x.transpose(2, 3).reshape(N, H // s, W // s, s * s * C).permute(0, 3, 1, 2)


def to_pixels(x: Tensor, s: int) -> Tensor:
    """The inverse of `to_channels`."""
    if s == 1:
        return x
    N, C, H, W = x.shape
    x = x.permute(0, 2, 3, 1).reshape(N, H, W, s, s, C // s**2)
    return x.transpose(2, 3).reshape(N, H * s, W * s, C // s**2).permute(0, 3, 1, 2)

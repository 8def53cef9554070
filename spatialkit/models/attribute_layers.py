"""Layers of attribute networks: space by nine shifted views and a matrix product, attributes by a 2-D convolution."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ColourLayer", "FactoredLayer", "PatchNorm", "WindowLayer", "marginal", "patches"]

_DEVIATION = 0.05  # of initial weights


def marginal(x: Tensor) -> Tensor:
    """What a layer convolves, N x H x W x A x B: x summed over the third oldest attribute; A is 1 if there is one."""
    return x.sum(dim=3) if x.ndim == 6 else x if x.ndim == 5 else x.unsqueeze(3)


def patches(x: Tensor, stride: int, circular: bool) -> Tensor:
    """The pixels of 3 x 3 windows of x, N x H x W x A x B, row by row: nine shifted views, 9 x N x H' x W' x A x B."""
    H, W = x.shape[1:3]
    x = _extended(_extended(x, 1, 1, circular), 2, 1, circular)
    return torch.stack([x[:, dy : dy + H : stride, dx : dx + W : stride] for dy in range(3) for dx in range(3)])


def _extended(x: Tensor, dim: int, margin: int, circular: bool) -> Tensor:
    """With ``margin`` more values at both ends of an axis: zeros, or those of the other end."""
    if margin == 0:
        return x
    ends = x.narrow(dim, x.shape[dim] - margin, margin), x.narrow(dim, 0, margin)
    first, last = ends if circular else map(torch.zeros_like, ends)
    return torch.cat([first, x, last], dim)


class _AttributeLayer(nn.Module):
    """What layers share after their patches: a convolution along both attributes, N, and an ELU."""

    def __init__(self, filters: int, step: int, circular: bool):
        super().__init__()
        self.step, self.circular = step, circular
        self.norm = nn.BatchNorm2d(filters)

    def along_attributes(self, z: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        """z, rows of channels, of an array of this shape N x H x W x A x B; N x H x W x A' x B' x filters."""
        N, H, W, A, B = shape
        margins = [side // 2 for side in kernel.shape[2:]]
        steps = [self.step if side > 1 else 1 for side in kernel.shape[2:]]
        z = z.view(N * H * W, A, B, -1)
        if self.circular:
            z, margins = _extended(_extended(z, 1, margins[0], True), 2, margins[1], True), [0, 0]
        x = F.conv2d(z.permute(0, 3, 1, 2), kernel, stride=steps, padding=margins)
        x = F.elu(self.norm(x), inplace=True).permute(0, 2, 3, 1)
        return x.reshape(N, H, W, *x.shape[1:])


class ColourLayer(nn.Module):
    """x_1, N x H x W x v_1, of images N x C x H x W: 3 x 3 filters on all colours."""

    def __init__(self, channels: int, filters: int, stride: int, circular: bool):
        super().__init__()
        mode: Literal["zeros", "circular"] = "circular" if circular else "zeros"
        self.convolution = nn.Conv2d(channels, filters, 3, stride, 1, bias=False, padding_mode=mode)
        self.norm = nn.BatchNorm2d(filters)
        nn.init.normal_(self.convolution.weight, std=_DEVIATION)

    @property
    def free_parameters(self) -> int:
        return self.convolution.weight.numel()

    def forward(self, images: Tensor) -> Tensor:
        return F.elu(self.norm(self.convolution(images)), inplace=True).permute(0, 2, 3, 1)


class WindowLayer(_AttributeLayer):
    """x_2, N x H x W x v_1 x v_2, of x_1: filters of 3 x 3 pixels times a window along v_1."""

    def __init__(self, filters: int, window: int, *, stride: int, step: int, circular: bool):
        super().__init__(filters, step, circular)
        self.stride = stride
        self.kernel = nn.Parameter(torch.randn(filters, 9, 1, window) * _DEVIATION)

    @property
    def free_parameters(self) -> int:
        return self.kernel.numel()

    def forward(self, x: Tensor) -> Tensor:
        p = patches(marginal(x), self.stride, self.circular)
        return self.along_attributes(p.flatten(1).T.contiguous(), self.kernel, p.shape[1:]).squeeze(3)


class PatchNorm(nn.Module):
    """Batch normalisation of what filters of 3 x 3 pixels put out, found without computing it.

    Of a filter h on patches p, the mean is h . E p and the variance h . Cov(p) h: a 9 x 9 matrix serves all filters.
    Running statistics, too, are those of the patches.

    Args:
        filters: Number of filters, for the scale and the shift.
        affine: Whether there are a scale and a shift.
    """

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(self, filters: int, affine: bool, epsilon: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
        self.weight = nn.Parameter(torch.ones(filters)) if affine else None
        self.bias = nn.Parameter(torch.zeros(filters)) if affine else None
        self.register_buffer("running_mean", torch.zeros(9))
        self.register_buffer("running_covariance", torch.eye(9))

    def forward(self, p: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of the patches p, 9 x M, and scale and shift of each filter h, Q x 9.

        The normalised output of filter q is then ``scale[q] * h[q] @ (p - mean) + shift[q]``.
        """
        mean, covariance = self._moments(p) if self.training else (self.running_mean, self.running_covariance)
        scale = ((h @ covariance * h).sum(dim=1).clamp_min(0) + self.epsilon).rsqrt()
        if self.weight is None or self.bias is None:
            return mean, scale, torch.zeros_like(scale)
        return mean, scale * self.weight, self.bias

    def _moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(p.device.type, enabled=False):
            p = p.to(self.running_mean.dtype)
            mean = p.mean(dim=1)
            covariance = p @ p.T / p.shape[1] - mean.outer(mean)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_covariance.lerp_(covariance, self.momentum)
        return mean, covariance


class FactoredLayer(_AttributeLayer):
    """x_j, N x H x W x v_(j-2) x v_(j-1) x v_j, of x_(j-1): Q products of filters h along space and g along attributes.

    Without ``plus`` all is linear up to the last normalisation, and only the sum of the products is applied: a
    convolution of the nine pixels of a patch, instead of Q channels.
    """

    def __init__(
        self, factors: int, filters: int, window: tuple[int, int], plus: bool, *, stride: int, step: int, circular: bool
    ):
        super().__init__(filters, step, circular)
        self.stride, self.plus = stride, plus
        self.h = nn.Parameter(torch.randn(factors, 3, 3) * _DEVIATION)
        self.g = nn.Parameter(torch.randn(filters, factors, *window) * _DEVIATION)
        self.patch_norm = PatchNorm(factors, affine=plus)

    @property
    def free_parameters(self) -> int:
        filters, _, *window = self.g.shape
        return self.h.numel() + self.g.numel() if self.plus else filters * 9 * window[0] * window[1]

    def forward(self, x: Tensor) -> Tensor:
        p = patches(marginal(x), self.stride, self.circular)
        shape, p, h = p.shape[1:], p.flatten(1), self.h.flatten(1)
        mean, scale, shift = self.patch_norm(p, h)
        if self.plus:
            h = scale[:, None] * h
            z = F.elu(torch.addmm(shift - h @ mean, p.T, h.T), inplace=True)
            return self.along_attributes(z, self.g, shape)
        return self.along_attributes((p - mean[:, None]).T.contiguous(), self._kernel(h, scale), shape)

    def _kernel(self, h: Tensor, scale: Tensor) -> Tensor:
        return torch.einsum("fqab,q,qp->fpab", self.g, scale, h)

    @torch.no_grad()
    def effective_kernel(self) -> Tensor:
        """The filters without ``plus``, filters x 3 x 3 x a x b, by the running statistics."""
        if self.plus:
            raise ValueError("with an ELU between h and g there is no one kernel for both")
        h = self.h.flatten(1)
        variance = (h @ self.patch_norm.running_covariance * h).sum(dim=1)
        return self._kernel(h, (variance + self.patch_norm.epsilon).rsqrt()).unflatten(1, (3, 3))

"""Continuous CNNs: filters are functions on the plane, which any resolution samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy import fft
from torch import Tensor, nn

from spatialkit.theory.plane import GaussianSum

__all__ = ["ContinuousCNN", "convolve_in_plane"]

_REGIONS = 4  # per side, whose means a classifier gets
_WIDTHS = 4.5  # beyond as many standard deviations, a Gaussian counts as 0 (4e-5 of its peak)


def convolve_in_plane(images: Tensor, filters: GaussianSum, pixel: float) -> Tensor:
    """Convolution of pixel images with filters of the plane, summed over the channels that come in.

    ::

        out[n, c](x) = sum_m integral images[n, m](x - y) filters[c, m](y) dy

    The integral is a sum over pixels, the filters cut off 4.5 standard deviations from their Gaussians' centres.
    Beyond its border an image goes on with the border value. By the fast Fourier transform: filters may be large.

    Args:
        images: Shape ``(N, C_in, H, W)``.
        filters: Leading axes ``(C_out, C_in)``.
        pixel: Width of a pixel in the unit of the filters.

    Returns:
        Shape ``(N, C_out, H, W)``.

    Raises:
        ValueError: If shapes do not fit.
    """
    if images.ndim != 4 or len(filters.shape) != 2 or images.shape[1] != filters.shape[1]:
        raise ValueError(f"need (N, C_in, H, W) and filters (C_out, C_in), got {tuple(images.shape)}, {filters.shape}")
    H, W = images.shape[-2:]
    R = _reach(filters, pixel)
    kernel = pixel**2 * filters.pixels(2 * R + 1, pixel)  # (C_out, C_in, 2 R + 1, 2 R + 1)
    padded = F.pad(images, (R, R, R, R), mode="replicate")
    size = [fft.next_fast_len(side + 2 * R, real=True) for side in (H, W)]
    spectra = torch.fft.rfft2(padded, s=size), torch.fft.rfft2(kernel.to(images.dtype), s=size)
    product = torch.einsum("nihw,oihw->nohw", *spectra)
    return torch.fft.irfft2(product, s=size)[..., 2 * R : 2 * R + H, 2 * R : 2 * R + W]


class ContinuousCNN(nn.Module):
    """Layers of convolution, bias and ReLU on the plane; with classes, means over 4 x 4 regions and a linear layer.

    No stride, no pooling: the network of the source's equation in section II. The filters are sums of Gaussians, so
    that the same network runs at any resolution, and with its filters transformed by a linear map.

    Args:
        filters: One `GaussianSum` of leading axes ``(C_out, C_in)`` per layer. Amplitudes are trained, means and
            covariances are not.
        biases: One tensor ``(C_out,)`` per layer; zeros by default.
        pixel: Width of a pixel of the images that it takes, in the unit of the filters; may be set anew.
        classes: Number of outputs; 0 puts out the last feature map.
        seed: Seed of the weights of the linear layer.

    Raises:
        ValueError: If the layers do not fit each other.

    References:
        Jansson et al. (2020), section II.
    """

    def __init__(
        self,
        filters: Sequence[GaussianSum],
        biases: Sequence[Tensor] | None = None,
        *,
        pixel: float,
        classes: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        shapes = [tuple(f.shape) for f in filters]
        if (
            not shapes
            or any(len(s) != 2 for s in shapes)
            or any(before[0] != after[1] for before, after in itertools.pairwise(shapes))
        ):
            raise ValueError(f"filters must be (C_out, C_in) with channels that fit from layer to layer, got {shapes}")
        biases = [torch.zeros(s[0], dtype=torch.float64) for s in shapes] if biases is None else biases
        if [tuple(b.shape) for b in biases] != [s[:1] for s in shapes]:
            raise ValueError(f"need one bias per channel, {shapes}; got {[tuple(b.shape) for b in biases]}")
        self.pixel = pixel
        self.amplitudes = nn.ParameterList([f.amplitude.clone() for f in filters])
        self.biases = nn.ParameterList([b.clone() for b in biases])
        for i, f in enumerate(filters):
            self.register_buffer(f"mean{i}", f.mean.clone())
            self.register_buffer(f"covariance{i}", f.covariance.clone())
        self.head = None
        if classes:
            self.head = nn.Linear(shapes[-1][0] * _REGIONS**2, classes)
            generator = torch.Generator().manual_seed(seed)
            nn.init.kaiming_normal_(self.head.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(self.head.bias)

    @classmethod
    def random(
        cls,
        channels: Sequence[int],
        seed: int,
        *,
        pixel: float,
        centres: Tensor,
        covariance: Tensor,
        bias: float = 0.0,
        classes: int = 0,
    ) -> ContinuousCNN:
        """A network of random filters; all filters are sums of the same Gaussians with random amplitudes.

        Amplitudes are normal with mean 0 and such a spread that K Gaussians and C_in channels keep the size of
        smooth signals through ReLUs: 2 / (C_in K) is the variance of a Gaussian's integral.

        Args:
            channels: Of the images and then of every layer.
            seed: Of all random numbers.
            pixel, classes: As for the class.
            centres: Means of the Gaussians, ``(K, 2)``.
            covariance: Of the Gaussians, ``(K, 2, 2)``, or one for all of them, ``(2, 2)``.
            bias: Standard deviation of the biases.
        """
        generator = torch.Generator().manual_seed(seed)
        covariance = covariance.double().expand(len(centres), 2, 2)
        mass = 2 * math.pi * torch.linalg.det(covariance).sqrt()
        filters, biases = [], []
        for n_in, n_out in itertools.pairwise(channels):
            integral = torch.randn(n_out, n_in, len(centres), generator=generator, dtype=torch.float64)
            integral = integral * math.sqrt(2 / (n_in * len(centres)))
            filters.append(GaussianSum(integral / mass, centres.double(), covariance))
            biases.append(bias * torch.randn(n_out, generator=generator, dtype=torch.float64))
        return cls(filters, biases, pixel=pixel, classes=classes, seed=seed)

    @property
    def filters(self) -> list[GaussianSum]:
        """The filters of every layer."""
        return [
            GaussianSum(a, getattr(self, f"mean{i}"), getattr(self, f"covariance{i}"))
            for i, a in enumerate(self.amplitudes)
        ]

    def conjugated(self, matrix: Tensor) -> ContinuousCNN:
        """T^-1 network T, which is again a network: its filters are |det T| filter(T z).

        Transforming an image by T, and the features back by T^-1, is the same as to leave the image alone and to run
        this network on it.
        """
        back, scale = torch.linalg.inv(matrix), float(torch.linalg.det(matrix).abs())
        with torch.no_grad():
            filters = [f.transformed(back).times(scale) for f in self.filters]
            return ContinuousCNN(filters, [b.detach() for b in self.biases], pixel=self.pixel).to(
                self.amplitudes[0].device
            )

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """What every layer puts out, after its ReLU; each N x C x H x W."""
        maps = []
        for filters, bias in zip(self.filters, self.biases, strict=True):
            images = F.relu(convolve_in_plane(images, filters, self.pixel) + bias[:, None, None])
            maps.append(images)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, or the last feature map."""
        last = self.feature_maps(images)[-1]
        return last if self.head is None else self.head(F.adaptive_avg_pool2d(last, _REGIONS).flatten(1))


def _reach(filters: GaussianSum, pixel: float) -> int:
    """Pixels from the centre of a filter to where its last Gaussian ends."""
    with torch.no_grad():
        away = filters.mean.norm(dim=-1) + _WIDTHS * torch.linalg.eigvalsh(filters.covariance)[..., -1].sqrt()
        return math.ceil(float(away.max()) / pixel)

"""Scattering: a network of two layers of wavelets and moduli in which nothing is learned."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Scattering", "morlet"]

_COPIES = 2  # of the window on either side that a periodic filter adds up


class Scattering(nn.Module):
    """Scattering coefficients of orders 0, 1 and 2: means over ``2^J`` px of images and of moduli of their wavelets::

        S0 = x * phi,   S1 = |x * psi_1| * phi,   S2 = ||x * psi_1| * psi_2| * phi,   psi_2 coarser than psi_1

    The wavelets are `morlet` with sigma = .8 2^j px, frequency 3 pi / 4 2^-j and slant 4 / L, for j = 0 to J - 1 and L
    angles; phi is a Gaussian of sigma .8 2^(J - 1). Images are continued by reflection. Maps of scale j are sampled
    every 2^j px, so that they alias: S1 of scale 1 differs by a tenth from that at full resolution for white noise.

    Args:
        side: Of the images, px; above ``2^J``.
        J: Coefficients are ``2^J`` px apart.
        L: Angles in half a turn, even.

    Raises:
        ValueError: If J is below 1, L is no even number from 2 on, or the images are too small.

    References:
        J. Bruna and S. Mallat, "Invariant scattering convolution networks" (2013). Filters and sampling are those of
        kymatio 0.3 (``Scattering2D``), and so are the coefficients, to the accuracy of float32.
    """

    def __init__(self, side: int, J: int = 2, L: int = 8):
        super().__init__()
        if J < 1 or L < 2 or L % 2 or side <= 2**J:
            raise ValueError(f"need J from 1, an even L from 2 and a side above 2^J px; got {J=}, {L=}, {side=}")
        self.side, self.J, self.L = side, J, L
        whole = (side // 2**J + 2) * 2**J
        self.margin = ((whole - side) // 2, whole - side - (whole - side) // 2)
        angles = [math.pi * (L // 2 - 1 - i) / L for i in range(L)]
        for j in range(J):
            sigma, frequency = 0.8 * 2**j, 0.75 * math.pi / 2**j
            waves = torch.stack([morlet(sigma, frequency, angle, whole, 4 / L, periodic=True) for angle in angles])
            self._keep(f"psi{j}", waves)
        self._keep("phi", _envelope(0.8 * 2 ** (J - 1), 0.0, whole, 1.0, periodic=True))

    def _keep(self, name: str, filters: Tensor) -> None:
        """The spectrum, which is real since conj(filter(u)) = filter(-u)."""
        self.register_buffer(name, torch.fft.fft2(filters).real.to(torch.get_default_dtype()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Coefficients, ``(N, C, 1 + J L + L^2 J (J - 1) / 2, side // 2^J, side // 2^J)``, by order, scale and angle.

        Raises:
            ValueError: If the images have another side.
        """
        if images.shape[-2:] != (self.side, self.side):
            raise ValueError(f"images must have {self.side} x {self.side} px, got {tuple(images.shape)}")
        image = torch.fft.fft2(F.pad(images, (*self.margin, *self.margin), mode="reflect"))[:, :, None]
        zeroth, first, second = [self._mean(image, 0)], [], []
        for j in range(self.J):
            layer = _modulus(image, getattr(self, f"psi{j}"), j)  # (N, C, L, ...)
            first.append(self._mean(layer, j))
            deeper = [
                self._mean(_modulus(layer.unsqueeze(3), _cropped(getattr(self, f"psi{k}"), j), k - j), k)
                for k in range(j + 1, self.J)
            ]
            if deeper:
                second.append(torch.cat(deeper, 3).flatten(2, 3))
        return torch.cat([*zeroth, *first, *second], 2)

    def _mean(self, spectrum: Tensor, j: int) -> Tensor:
        """Convolved with phi and sampled every 2^J px, without the margins; from a map sampled every 2^j px."""
        low = torch.fft.ifft2(_folded(spectrum * _cropped(self.phi, j), self.J - j)).real  # type: ignore[arg-type]
        return low[..., 1:-1, 1:-1]


def _modulus(spectrum: Tensor, waves: Tensor, halvings: int) -> Tensor:
    """Spectrum of |map * wave|, sampled 2^halvings times as coarsely."""
    return torch.fft.fft2(torch.fft.ifft2(_folded(spectrum * waves, halvings)).abs())


def _folded(spectrum: Tensor, halvings: int) -> Tensor:
    """Spectrum of every 2^halvings-th sample: the mean over aliases."""
    n = 2**halvings
    return spectrum.unflatten(-1, (n, -1)).mean(-2).unflatten(-2, (n, -1)).mean(-3)


def _cropped(spectrum: Tensor, halvings: int) -> Tensor:
    """The low frequencies alone: a filter for maps that are sampled 2^halvings times as coarsely."""
    side = spectrum.shape[-1]
    half = side // 2 ** (halvings + 1)
    kept = torch.cat([torch.arange(half), torch.arange(side - half, side)]).to(spectrum.device)
    return spectrum[..., kept, :][..., kept] if halvings else spectrum


def morlet(
    sigma: float, frequency: float, angle: float, side: int, slant: float = 0.5, *, periodic: bool = False
) -> Tensor:
    """A Morlet wavelet: a plane wave under a Gaussian, less what gives it a mean::

        psi(u) = g(u) (exp(i frequency u.e) - b),  g(u) = slant / (2 pi sigma^2) exp(-(v1^2 + slant^2 v2^2) / 2 sigma^2)

    with e = (cos angle, sin angle) along rows (down) and columns (to the right), v1 = u.e, v2 across, and b such that
    the sum is 0.

    Args:
        sigma: Width along the wave, px; across it is sigma / slant.
        frequency: Radians per px.
        angle: Radians.
        side: Of the window, px.
        slant: Width along over width across; 1 is round.
        periodic: Whether the origin is the first pixel and the window repeats itself; otherwise the origin is the
            middle pixel, and the side odd.

    Returns:
        ``(side, side)``, complex128.

    Raises:
        ValueError: If a width, the side or the slant is not above 0, or the side is even and the window not periodic.

    References:
        Bruna and Mallat (2013), section 2.1; normalised as kymatio's.
    """
    if not min(sigma, slant, side) > 0 or not (periodic or side % 2):
        raise ValueError(f"need sigma, slant and an odd side above 0, got {sigma=}, {slant=}, {side=}")
    options = {"angle": angle, "side": side, "slant": slant, "periodic": periodic}
    wave, envelope = (_envelope(sigma, f, **options) for f in (frequency, 0.0))  # type: ignore[arg-type]
    return wave - envelope * (wave.sum() / envelope.sum())


def _envelope(sigma: float, frequency: float, side: int, slant: float, periodic: bool, angle: float = 0.0) -> Tensor:
    """g(u) exp(i frequency u.e), summed over repeated windows if they are periodic."""
    shifts = side * torch.arange(-_COPIES, _COPIES + 1) if periodic else torch.tensor([-(side // 2)])
    u = (torch.arange(side) + shifts[:, None]).double()  # (copies, side)
    down, right = u[:, None, :, None], u[None, :, None, :]
    along = math.cos(angle) * down + math.sin(angle) * right
    across = math.cos(angle) * right - math.sin(angle) * down
    g = torch.exp(-(along.square() + (slant * across).square()) / (2 * sigma**2) + 1j * frequency * along)
    return g.sum((0, 1)) * slant / (2 * math.pi * sigma**2)

"""Scattering: kymatio's coefficients where it is installed, and properties where it is not."""

import math

import pytest
import torch

from spatialkit.models import Scattering, morlet


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("side", "J", "L"), [(28, 2, 8), (28, 3, 8), (32, 2, 6), (21, 1, 4)])
def test_coefficients_are_kymatios(side, J, L):
    frontend = pytest.importorskip("kymatio.scattering2d.frontend.torch_frontend")
    images = torch.rand(3, 2, side, side)
    expected = frontend.ScatteringTorch2D(J, (side, side), L=L)(images)
    torch.testing.assert_close(Scattering(side, J, L)(images), expected, atol=2e-6, rtol=1e-4)


def direct(images, J, L):
    """S0, S1 and S2 by convolving at full resolution with sampled filters; images repeat themselves."""
    half = 5 * 2**J  # px; three widths of the longest filter
    u = torch.arange(-half, half + 1).double()
    g = torch.exp(-u.square() / (2 * (0.8 * 2 ** (J - 1)) ** 2))
    phi = torch.outer(g, g) / g.sum() ** 2

    def convolve(x, filters):
        wide = torch.nn.functional.pad(x, (half,) * 4, mode="circular")
        parts = torch.stack([filters.real, filters.imag]) if filters.is_complex() else filters[None]
        return torch.nn.functional.conv2d(wide, parts.flip(-1, -2)[:, None]).norm(dim=1, keepdim=True)

    angles = [math.pi * (L // 2 - 1 - i) / L for i in range(L)]
    psi = [[morlet(0.8 * 2**j, 0.75 * math.pi / 2**j, a, 2 * half + 1, 4 / L) for a in angles] for j in range(J)]
    image = images.double()
    first = [(j, convolve(image, wave)) for j in range(J) for wave in psi[j]]
    second = [convolve(x, wave) for j, x in first for k in range(j + 1, J) for wave in psi[k]]
    return torch.cat([convolve(x, phi) for x in (image, *(x for _, x in first), *second)], 1)[..., :: 2**J, :: 2**J]


def test_coefficients_are_those_of_slow_convolutions():
    side, J, L = 64, 2, 2
    images, edge = torch.rand(1, 1, side, side), slice(6, -6)  # margins reflect, where the slow way is periodic
    ours, slow = Scattering(side, J, L)(images)[0, 0], direct(images, J, L)[0]
    left = (ours - slow)[:, edge, edge].flatten(1).norm(dim=1) / slow[:, edge, edge].flatten(1).norm(dim=1)
    assert float(left[: 1 + L].max()) < 1e-6  # sampled at every pixel until the last mean
    assert len(left) == 9 and float(left.max()) < 0.15  # sampled more coarsely: white noise aliases most


def test_counts_and_places():
    assert Scattering(28, 2, 8)(torch.rand(2, 3, 28, 28)).shape == (2, 3, 81, 7, 7)
    assert Scattering(28, 3, 8)(torch.rand(1, 1, 28, 28)).shape == (1, 1, 217, 3, 3)
    assert not list(Scattering(16).parameters())


def test_a_constant_has_nothing_but_its_mean():
    coefficients = Scattering(32, 3)(torch.full((1, 1, 32, 32), 0.7))[0, 0]
    torch.testing.assert_close(coefficients[0], torch.full((4, 4), 0.7))
    assert float(coefficients[1:].abs().max()) < 1e-6


def test_swapping_rows_and_columns_swaps_maps_and_angles():
    J, L = 2, 4
    images, model = torch.rand(2, 1, 32, 32), Scattering(32, J, L)
    still, swapped = model(images), model(images.mT).mT
    other = torch.tensor([0, 3, 2, 1])  # 45, 0, -45 and -90 degrees from the rows, counted from the columns instead
    first = lambda x: x[:, :, 1 : 1 + J * L].unflatten(2, (J, L))  # noqa: E731
    second = lambda x: x[:, :, 1 + J * L :].unflatten(2, (L, L))  # noqa: E731
    torch.testing.assert_close(swapped[:, :, 0], still[:, :, 0])
    torch.testing.assert_close(first(swapped)[:, :, :, other], first(still))
    torch.testing.assert_close(second(swapped)[:, :, other][:, :, :, other], second(still))


@pytest.mark.parametrize(("slant", "angle"), [(0.5, 0.3), (1.0, 1.2)])
def test_wavelets_have_no_mean_and_are_wide_as_asked(slant, angle):
    psi = morlet(2.0, 1.2, angle, 61, slant)
    assert abs(complex(psi.sum())) < 1e-12
    torch.testing.assert_close(psi.flip(0, 1), psi.conj())
    u = torch.arange(-30, 31).double()
    down, right = torch.meshgrid(u, u, indexing="ij")
    e = (math.cos(angle), math.sin(angle))
    weight = (psi + 1e-300).abs() / psi.abs().sum()
    across = (weight * (e[0] * right - e[1] * down).square()).sum()
    assert float(across) == pytest.approx((2 / slant) ** 2, rel=0.02)


def test_bad_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="even L"):
        Scattering(28, 2, 5)
    with pytest.raises(ValueError, match="28 x 28 px"):
        Scattering(28)(torch.rand(1, 1, 32, 32))
    with pytest.raises(ValueError, match="odd side"):
        morlet(1.0, 1.0, 0.0, 8)

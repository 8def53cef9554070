import pytest
import torch

from spatialkit.deform import rotation, scaling, shear
from spatialkit.measure import alignment_residual
from spatialkit.theory import ContinuousCNN, convolve_in_plane
from spatialkit.theory.plane import GaussianSum, plane_points, random_blobs

CENTRES = plane_points(3, 0.05)
COVARIANCE = 0.04**2 * torch.eye(2, dtype=torch.float64)


def network(size, channels=(1, 3, 2), seed=0, bias=0.1, classes=0):
    return ContinuousCNN.random(
        channels, seed, pixel=2 / size, centres=CENTRES, covariance=COVARIANCE, bias=bias, classes=classes
    ).double()


def sampled(blobs, size):
    return blobs.pixels(size, 2 / size)[:, None]


@pytest.mark.parametrize("size", [40, 63])
def test_one_convolution_agrees_with_the_closed_form(size):
    blobs = random_blobs(3, 1, reach=0.3, widths=(0.08, 0.12))
    f = network(size).filters[0]
    with torch.no_grad():
        ours = convolve_in_plane(sampled(blobs, size), f, 2 / size)
        for c in range(3):
            kernel = GaussianSum(f.amplitude[c, 0], f.mean, f.covariance)
            # the cut-off at 4.5 standard deviations leaves out 4e-5 of each Gaussian
            exact = blobs.convolved(kernel).pixels(size, 2 / size)
            assert torch.allclose(ours[:, c], exact, atol=3e-4 * float(exact.abs().max()))


def test_channels_are_summed_as_by_a_plain_convolution():
    x = torch.randn(2, 3, 20, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = network(40, (3, 4)).filters[0]
    with torch.no_grad():
        R = 6  # 4.5 widths beyond the outermost centre, in pixels of 1/20
        kernel = f.pixels(2 * R + 1, 0.05) * 0.05**2
        padded = torch.nn.functional.pad(x, (R, R, R, R), mode="replicate")
        plain = torch.nn.functional.conv2d(padded, kernel.flip(-2, -1))
        assert torch.allclose(convolve_in_plane(x, f, 0.05), plain, atol=1e-12)


def test_higher_resolution_converges():
    blobs = random_blobs(2, 4)
    with torch.no_grad():
        fine = network(96)(sampled(blobs, 96))
        errors = [
            # every third pixel of the fine grid is a centre of the coarse one
            float((network(n)(sampled(blobs, n)) - fine[..., 96 // n // 2 :: 96 // n, 96 // n // 2 :: 96 // n]).norm())
            for n in (32,)
        ]
    assert errors[0] < 0.02 * float(fine.norm())


@pytest.mark.parametrize("T", [rotation(25), scaling(1.2), shear(0.3)])
def test_conjugated_network_is_the_one_between_the_transformations(T):
    blobs = random_blobs(2, 5)
    residual = []
    for size in (48, 96):
        net = network(size)
        with torch.no_grad():
            moved = net(sampled(blobs.transformed(T), size))
            residual.append(
                float(alignment_residual(moved, net.conjugated(T)(sampled(blobs, size)), torch.linalg.inv(T)))
            )
    assert residual[1] < 0.6 * residual[0] < 0.03


def test_translation_covariant():
    net, x = network(40), torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    x[..., 18:22, 17:20] = 1
    with torch.no_grad():
        assert torch.allclose(net(x.roll((3, -2), (-2, -1))), net(x).roll((3, -2), (-2, -1)), atol=1e-12)


def test_classifier_puts_out_logits_and_learns():
    net, x = network(24, classes=3).float(), torch.rand(4, 1, 24, 24)
    logits = net(x)
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_same_seed_same_network():
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(network(16)(x), network(16)(x))
    assert not torch.equal(network(16)(x), network(16, seed=1)(x))


def test_rejects_what_does_not_fit():
    f = network(16).filters
    with pytest.raises(ValueError, match="fit from layer to layer"):
        ContinuousCNN([f[0], f[0]], pixel=0.1)
    with pytest.raises(ValueError, match="one bias per channel"):
        ContinuousCNN(f, [torch.zeros(3), torch.zeros(3)], pixel=0.1)
    with pytest.raises(ValueError, match=r"need \(N, C_in, H, W\)"):
        convolve_in_plane(torch.zeros(1, 2, 8, 8), f[0], 0.1)

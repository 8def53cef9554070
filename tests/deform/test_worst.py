import pytest
import torch

from spatialkit.deform import Diffeomorphism, ThinPlateSpline, warp, worst_field


@pytest.fixture
def images():
    x = torch.linspace(0, 3, 16, dtype=torch.float64)
    return torch.stack([x.sin()[:, None] * x.cos(), (x[:, None] + x).sin()])[:, None]


SPLINE = ThinPlateSpline(3, 1.0)


def draw(n, seed=0):
    return torch.rand(n, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def change(images):
    return lambda warped: (warped - images).square().sum(dim=(1, 2, 3))


def test_finds_more_than_chance_at_the_same_size(images):
    start = draw(2)
    first = SPLINE.field(start, 16)
    found = worst_field(change(images), images, SPLINE, start, steps=40)
    assert (change(images)(warp(images, found)) > 1.2 * change(images)(warp(images, first))).all()
    torch.testing.assert_close(found.square().mean((1, 2, 3)), first.square().mean((1, 2, 3)))


def test_beats_every_one_of_many_draws_of_the_same_size():
    # A plane along x changes by dx alone: the worst field of its size is the one along x.
    ramp = torch.arange(16.0, dtype=torch.float64).expand(1, 1, 16, 16)
    start = draw(1)
    length = SPLINE.field(start, 16).square().mean().sqrt()
    found = change(ramp)(warp(ramp, worst_field(change(ramp), ramp, SPLINE, start, steps=100)))
    others = SPLINE.field(draw(300, seed=1), 16)
    others = others * (length / others.square().mean((1, 2, 3), keepdim=True).sqrt())
    assert found > change(ramp)(warp(ramp, others)).max()


def test_without_steps_it_is_the_start(images):
    start = draw(2)
    torch.testing.assert_close(worst_field(change(images), images, SPLINE, start, steps=0), SPLINE.field(start, 16))


def test_never_returns_less_than_the_start_even_at_a_reckless_rate(images):
    start = draw(2)
    found = worst_field(change(images), images, SPLINE, start, steps=5, rate=50.0)
    assert (change(images)(warp(images, found)) >= change(images)(warp(images, SPLINE.field(start, 16))) - 1e-12).all()


def test_no_displacement_stays_none(images):
    found = worst_field(change(images), images, SPLINE, torch.zeros(2, 2, 3, 3, dtype=torch.float64), steps=3)
    assert found.abs().max() == 0


def test_takes_diffeomorphisms_and_leaves_parameters_alone(images):
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    start = torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # as inside a measurement
        found = worst_field(
            lambda warped: (weight * warped - images).square().sum(dim=(1, 2, 3)),
            images,
            Diffeomorphism(3, 1e-3),
            start,
            steps=3,
        )
    assert weight.grad is None and not found.requires_grad
    assert found.shape == (2, 2, 16, 16)


def test_refuses_bad_input(images):
    with pytest.raises(ValueError, match="one entry per image, 2; got 3"):
        worst_field(change(images), images, SPLINE, draw(3))
    with pytest.raises(ValueError, match="steps must be 0 or more"):
        worst_field(change(images), images, SPLINE, draw(2), steps=-1)
    with pytest.raises(ValueError, match=r"one number per image, \(2,\); got \(\)"):
        worst_field(lambda warped: warped.sum(), images, SPLINE, draw(2))

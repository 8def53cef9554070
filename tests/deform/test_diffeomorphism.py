import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialkit.deform import Diffeomorphism, diffeomorphism, draws, temperature_range

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# size, cut-off, T1, T2, T at delta = 1 px, delta at T2: what the code released with the sources computes.
PUBLISHED = [
    (32, 2, 4.485e-4, 4.653e-2, 1.794e-3, 5.093),
    (32, 3, 2.829e-4, 1.305e-2, 1.132e-3, 3.395),
    (32, 5, 1.931e-4, 3.206e-3, 7.726e-4, 2.037),
    (32, 10, 1.350e-4, 5.603e-4, 5.400e-4, 1.019),
    (32, 15, 1.148e-4, 2.117e-4, 4.591e-4, 0.679),
    (224, 3, 5.774e-6, 1.305e-2, 2.310e-5, 23.77),
    (224, 5, 3.942e-6, 3.206e-3, 1.577e-5, 14.26),
    (224, 15, 2.343e-6, 2.117e-4, 9.370e-6, 4.753),
]
# size, cut-off, rms in px at delta = 1 px: the closed form, and what their sampler gave over 800 or 200 draws.
RMS_AT_DELTA_1 = [
    (32, 2, 0.881, 0.894),
    (32, 3, 0.816, 0.822),
    (32, 5, 0.835, 0.836),
    (32, 10, 0.852, 0.849),
    (32, 15, 0.862, 0.860),
    (224, 3, 0.839, None),
    (224, 15, 0.885, None),
]


def normals(n, cutoff, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, cutoff, cutoff, dtype=torch.float64, generator=generator)


def plain_sum(cutoff, temperature, normals, size):
    """The equation, one pixel and one mode at a time."""
    field = np.zeros((len(normals), 2, size, size))
    for n, d, y, x in np.ndindex(field.shape):
        for i, j in np.ndindex(cutoff, cutoff):
            i, j = i + 1, j + 1
            if i * i + j * j < (cutoff + 0.5) ** 2:
                sines = math.sin(math.pi * i * x / (size - 1)) * math.sin(math.pi * j * y / (size - 1))
                field[n, d, y, x] += normals[n, d, i - 1, j - 1].item() / math.sqrt(i * i + j * j) * sines
    return torch.from_numpy(size * math.sqrt(temperature) * field)


# --- oracles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cutoff", "size"), [(1, 3), (1, 8), (3, 8), (4, 11), (5, 7)])
def test_is_the_plain_double_sum(cutoff, size):
    g = normals(2, cutoff)
    field = Diffeomorphism(cutoff, 0.02).field(g, size)
    torch.testing.assert_close(field, plain_sum(cutoff, 0.02, g, size), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 0), (torch.float32, 2e-6)])
def test_samples_are_fields_of_normals(dtype, atol):
    family = Diffeomorphism(3, 0.01)
    field = family.sample(4, 16, seed=5, dtype=dtype)
    assert field.dtype == dtype
    expected = family.field(draws.normals(4, (2, 3, 3), seed=5), 16)
    torch.testing.assert_close(field.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("size", "cutoff", "lowest", "highest", "of_1_px", "delta"), PUBLISHED)
def test_temperatures_and_delta_are_the_published_ones(size, cutoff, lowest, highest, of_1_px, delta):
    rounding = 1e-3  # four digits
    assert temperature_range(cutoff, size) == pytest.approx((lowest, highest), rel=rounding)
    family = Diffeomorphism.of_displacement(1, cutoff, size)
    assert family.temperature == pytest.approx(of_1_px, rel=rounding)
    assert family.typical_displacement(size) == pytest.approx(1, rel=1e-12)
    assert Diffeomorphism(cutoff, highest).typical_displacement(size) == pytest.approx(delta, rel=rounding)
    assert Diffeomorphism(cutoff, lowest).typical_displacement(size) == pytest.approx(0.5, rel=rounding)


@pytest.mark.parametrize(("size", "cutoff", "exact", "measured"), RMS_AT_DELTA_1)
def test_rms_is_what_the_released_sampler_gives(size, cutoff, exact, measured):
    rms = Diffeomorphism.of_displacement(1, cutoff, size).rms(size)
    assert rms == pytest.approx(exact, abs=5e-4)
    if measured:  # the strongest mode holds under half of the variance, two axes: a standard error under 2 %
        assert rms == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(("cutoff", "size"), [(1, 3), (1, 32), (2, 9), (3, 32), (5, 7), (15, 32)])
def test_rms_is_the_sum_over_modes(cutoff, size):
    # Independent unit normals: E |d|^2 is the sum of squares of the fields of each of them alone.
    each = torch.eye(2 * cutoff**2, dtype=torch.float64).view(-1, 2, cutoff, cutoff)
    family = Diffeomorphism(cutoff, 0.003)
    mean_square = family.field(each, size).square().sum((0, 1)).mean()
    assert family.rms(size) == pytest.approx(math.sqrt(mean_square), rel=1e-12)


@pytest.mark.parametrize(("cutoff", "size"), [(2, 32), (3, 32), (10, 33)])
def test_rms_is_that_of_samples(cutoff, size):
    family = Diffeomorphism.of_rms(1.5, cutoff, size)
    squares = family.sample(4000, size, seed=1).double().square().sum(1).mean((1, 2))  # of each field
    standard_error = squares.std() / math.sqrt(len(squares))
    assert squares.mean().item() == pytest.approx(1.5**2, abs=4 * standard_error.item())


@pytest.mark.parametrize("cutoff", range(2, 16))
def test_delta_overstates_the_rms_at_32_pixels(cutoff):
    family = Diffeomorphism(cutoff, 0.001)
    assert 1.13 < family.typical_displacement(32) / family.rms(32) < 1.23


# --- conventions and properties ------------------------------------------------------------------


def test_the_first_mode_index_runs_along_x_and_the_first_channel_is_dx():
    g = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    g[0, 0, 1, 0] = 1  # dx: two half-waves along x, one along y
    dx, dy = Diffeomorphism(3, 1.0).field(g, 9)[0]
    assert (dy == 0).all()
    assert dx[4, 2] > 0 and dx[4, 6] < 0  # row 4: up, then down
    torch.testing.assert_close(dx, -dx.flip(1))
    torch.testing.assert_close(dx, dx.flip(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("cutoff", "size"), [(3, 32), (7, 9)])
def test_the_border_stays_exactly(dtype, cutoff, size):
    field = Diffeomorphism(cutoff, 0.01).sample(5, size, seed=0, dtype=dtype)
    for side in (field[..., 0], field[..., -1], field[..., 0, :], field[..., -1, :]):
        assert (side == 0).all()
    assert (field[..., 1:-1, 1:-1] != 0).all()


def test_temperature_0_moves_nothing():
    assert (Diffeomorphism(3, 0).sample(2, 8, seed=0) == 0).all()
    assert Diffeomorphism(3, 0).rms(8) == 0


def test_displacement_grows_as_the_root_of_temperature():
    low, high = (Diffeomorphism(3, T).sample(3, 12, seed=2, dtype=torch.float64) for T in (0.001, 0.004))
    torch.testing.assert_close(high, 2 * low)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(8, 40), st.floats(0, 20))
def test_families_have_the_size_they_are_made_for(cutoff, size, wanted):
    assert Diffeomorphism.of_rms(wanted, cutoff, size).rms(size) == pytest.approx(wanted, rel=1e-12)
    if cutoff > 1:
        family = Diffeomorphism.of_displacement(wanted, cutoff, size)
        assert family.typical_displacement(size) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("size", [15, 32])
def test_transposing_modes_and_axes_transposes_the_field(size):
    g = normals(3, 4)
    family = Diffeomorphism(4, 0.01)
    torch.testing.assert_close(family.field(g.mT.flip(1), size), family.field(g, size).mT.flip(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_fields_do_not_depend_on_how_many_follow(dtype):
    family = Diffeomorphism(3, 0.01)
    few, many = (family.sample(n, 20, seed=3, dtype=dtype) for n in (3, 70))
    # The deviates are the same bits; a product of another size may round otherwise.
    torch.testing.assert_close(few, many[:3], rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-5)


def test_a_seed_repeats_its_fields_and_another_does_not():
    family = Diffeomorphism(3, 0.01)
    assert torch.equal(family.sample(3, 20, seed=3), family.sample(3, 20, seed=3))
    assert not torch.isclose(family.sample(3, 20, seed=3), family.sample(3, 20, seed=4)).all(-1).all(-1).any()


def test_both_displacements_are_independent():
    dx, dy = Diffeomorphism(2, 0.01).sample(4000, 9, seed=0)[:, :, 4, 4].double().T
    assert torch.corrcoef(torch.stack([dx, dy]))[0, 1].item() == pytest.approx(0, abs=4 / math.sqrt(4000))


def test_is_differentiable_in_the_normals():
    family = Diffeomorphism(3, 0.01)
    assert torch.autograd.gradcheck(lambda g: family.field(g, 7), normals(2, 3).requires_grad_())


def test_sampling_without_gradients_leaves_nothing_behind_for_those_who_want_them():
    diffeomorphism._modes.cache_clear()
    with torch.inference_mode():
        Diffeomorphism(3, 0.01).sample(1, 13, seed=0, dtype=torch.float64)
    g = normals(1, 3).requires_grad_()
    Diffeomorphism(3, 0.01).field(g, 13).square().sum().backward()
    assert (g.grad[0, 0, :2, :2] != 0).all()


def test_mixed_precision_does_not_reach_the_fields():
    family = Diffeomorphism(3, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = family.sample(2, 20, seed=0)
    assert torch.equal(mixed, family.sample(2, 20, seed=0))


@needs_gpu
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_a_gpu_gets_the_same_fields(precision, dtype, atol):
    family = Diffeomorphism(3, 0.01)
    expected = family.sample(5, 33, seed=7, dtype=dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        field = family.sample(5, 33, seed=7, device="cuda", dtype=dtype)
    finally:
        torch.set_float32_matmul_precision(before)
    assert field.is_cuda
    torch.testing.assert_close(field.cpu(), expected, rtol=0, atol=atol)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", [0, -2, 2.5, "3"])
def test_refuses_a_cutoff_that_counts_no_half_waves(cutoff):
    with pytest.raises(ValueError, match="cutoff must be a whole number, at least 1; got "):
        Diffeomorphism(cutoff, 0.01)


@pytest.mark.parametrize("temperature", [-0.1, math.inf, math.nan])
def test_refuses_a_temperature_without_fields(temperature):
    with pytest.raises(ValueError, match="temperature must be 0 or more and finite, got "):
        Diffeomorphism(3, temperature)


@pytest.mark.parametrize("make", [Diffeomorphism.of_rms, Diffeomorphism.of_displacement])
@pytest.mark.parametrize("length", [-1, math.inf, math.nan])
def test_refuses_a_displacement_that_is_no_length(make, length):
    with pytest.raises(ValueError, match="must be 0 or more and finite, in px; got "):
        make(length, 3, 32)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda d, size: d.sample(1, size, seed=0), id="sample"),
        pytest.param(lambda d, size: d.field(normals(1, 3), size), id="field"),
        pytest.param(lambda d, size: d.rms(size), id="rms"),
        pytest.param(lambda d, size: d.typical_displacement(size), id="typical_displacement"),
        pytest.param(lambda d, size: Diffeomorphism.of_rms(1, 3, size), id="of_rms"),
    ],
)
@pytest.mark.parametrize("size", [4, 32.0])
def test_refuses_images_too_small_for_the_modes(ask, size):
    with pytest.raises(ValueError, match="size for cutoff 3 must be a whole number, at least 5; got "):
        ask(Diffeomorphism(3, 0.01), size)


@pytest.mark.parametrize(
    ("normals", "message"),
    [
        (torch.zeros(2, 3, 3), r"must be \(N, 2, 3, 3\) with N at least 1, got \(2, 3, 3\)"),
        (torch.zeros(4, 2, 3, 4), r"must be \(N, 2, 3, 3\) .* got \(4, 2, 3, 4\)"),
        (torch.zeros(0, 2, 3, 3), r"N at least 1, got \(0, 2, 3, 3\)"),
        (torch.zeros(1, 2, 3, 3, dtype=torch.float16), "float32 or float64, got torch.float16"),
        (torch.zeros(1, 2, 3, 3, dtype=torch.int64), "float32 or float64, got torch.int64"),
    ],
)
def test_refuses_what_are_no_normals(normals, message):
    with pytest.raises(ValueError, match=message):
        Diffeomorphism(3, 0.01).field(normals, 8)


def test_refuses_to_sample_half_precision():
    with pytest.raises(ValueError, match="normals must be float32 or float64, got "):
        Diffeomorphism(3, 0.01).sample(1, 8, seed=0, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda: Diffeomorphism(1, 0.01).typical_displacement(32), id="typical_displacement"),
        pytest.param(lambda: Diffeomorphism.of_displacement(1, 1, 32), id="of_displacement"),
        pytest.param(lambda: temperature_range(1, 32), id="temperature_range"),
    ],
)
def test_refuses_formulae_that_divide_by_ln_1(ask):
    with pytest.raises(ValueError, match="ln c = 0 for cutoff 1"):
        ask()


@pytest.mark.parametrize(("cutoff", "size", "name"), [(0, 32, "cutoff"), (2.0, 32, "cutoff"), (3, 4, "size")])
def test_refuses_ranges_without_modes(cutoff, size, name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, at least "):
        temperature_range(cutoff, size)

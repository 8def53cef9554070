import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from spatialkit.deform import ThinPlateSpline, folded, splines

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CIFAR, IMAGENET = (ThinPlateSpline(3, 2), 32), (ThinPlateSpline(5, 10), 224)


def random_shifts(n, grid, seed=0):
    return torch.randn(n, 2, grid, grid, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def lattice(side, size):
    """Points (x, y) in px, row after row, border included: ``(side^2, 2)``."""
    ticks = np.linspace(0, size - 1, side)
    return np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)


# --- oracles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "size"), [(2, 5), (3, 32), (3, 33), (5, 32), (4, 71), (8, 21), (5, 3)])
def test_is_the_spline_of_scipy(grid, size):
    shifts = random_shifts(2, grid)
    field = ThinPlateSpline(grid, 1.0).field(shifts, size)
    points, pixels = lattice(grid, size), lattice(size, size)
    spline = RBFInterpolator(points, shifts.reshape(4, -1).T.numpy(), kernel="thin_plate_spline")
    expected = torch.from_numpy(spline(pixels).T.copy()).view(2, 2, size, size)
    torch.testing.assert_close(field, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("grid", [2, 3, 5, 9, 16])
def test_control_points_land_between_pixels_too(grid):
    # A spline solved in float32 misses them by 1e-4 px; this one by 1e-10 and less.
    landing = splines._spline(grid, torch.from_numpy(lattice(grid, 2)))
    torch.testing.assert_close(landing, torch.eye(grid**2, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("grid", "size"), [(2, 7), (3, 33), (5, 33), (9, 33), (7, 7)])
def test_control_points_on_pixels_land_where_they_are_shifted(dtype, atol, grid, size):
    shifts = random_shifts(3, grid).to(dtype)
    step = (size - 1) // (grid - 1)
    field = ThinPlateSpline(grid, 1.0).field(shifts, size)
    assert field.dtype == dtype
    torch.testing.assert_close(field[..., ::step, ::step], shifts, rtol=0, atol=atol)


@pytest.mark.parametrize(("grid", "size"), [(2, 8), (3, 32), (6, 17)])
def test_affine_shifts_give_the_affine_field(grid, size):
    def affine(points):
        x, y = torch.from_numpy(points).T
        return torch.stack([1 + 0.2 * x - 0.1 * y, -3 + 0.05 * x + 0.3 * y])

    shifts = affine(lattice(grid, size)).view(1, 2, grid, grid)
    expected = affine(lattice(size, size)).view(1, 2, size, size)
    torch.testing.assert_close(ThinPlateSpline(grid, 1.0).field(shifts, size), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("family", "size"), [CIFAR, IMAGENET, (ThinPlateSpline(2, 1.5), 9)])
def test_rms_is_that_of_uniform_shifts(family, size):
    # Unit shifts one at a time; a uniform one has variance max_shift^2 / 3.
    each = torch.eye(2 * family.grid**2, dtype=torch.float64).view(-1, 2, family.grid, family.grid)
    mean_square = family.max_shift**2 / 3 * family.field(each, size).square().sum((0, 1)).mean()
    assert family.rms(size) == pytest.approx(math.sqrt(mean_square), rel=1e-12)


@pytest.mark.parametrize(
    ("family", "size", "rms", "largest"), [(*CIFAR, 1.26, 2.3), (*IMAGENET, 6.4, 12.4)], ids=["cifar", "imagenet"]
)
def test_the_sources_fields_have_the_size_measured_before(family, size, rms, largest):
    field = family.sample(400, size, seed=0)
    squares = field.double().square().sum(1).mean((1, 2))
    assert squares.mean().item() == pytest.approx(family.rms(size) ** 2, abs=4 * squares.std().item() / 20)
    assert family.rms(size) == pytest.approx(rms, rel=0.02)  # of 400 fields, at a standard error of 1 %
    assert field.abs().max().item() == pytest.approx(largest, rel=0.05)  # an extreme of 400
    assert not folded(field).any()


# --- conventions and properties ------------------------------------------------------------------


def test_shifts_come_in_rows_then_columns_and_dx_first():
    shifts = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    shifts[0, 0, 0, 2] = 1  # dx of the upper right point
    dx, dy = ThinPlateSpline(3, 1.0).field(shifts, 9)[0]
    assert (dy == 0).all()
    assert dx[0, 8].item() == pytest.approx(1, abs=1e-12)
    assert dx.argmax() == 8


@pytest.mark.parametrize(
    "turn",
    [
        pytest.param(lambda x: x.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None], id="mirror"),
        pytest.param(lambda x: x.mT.flip(1), id="transposition"),
    ],
)
@pytest.mark.parametrize(("grid", "size"), [(3, 32), (4, 17)])
def test_turns_with_its_control_points(turn, grid, size):
    shifts = random_shifts(3, grid)
    family = ThinPlateSpline(grid, 1.0)
    torch.testing.assert_close(family.field(turn(shifts), size), turn(family.field(shifts, size)), rtol=0, atol=1e-12)


def test_is_linear_in_the_shifts():
    family = ThinPlateSpline(3, 1.0)
    a, b = random_shifts(2, 3)[:, None]
    expected = 2 * family.field(a, 11) - 3 * family.field(b, 11)
    torch.testing.assert_close(family.field(2 * a - 3 * b, 11), expected, rtol=0, atol=1e-12)


def test_samples_shift_control_points_uniformly_up_to_the_maximum():
    shifts = ThinPlateSpline(3, 2.0).sample(2000, 9, seed=0, dtype=torch.float64)[..., ::4, ::4]
    assert shifts.abs().max().item() == pytest.approx(2, abs=1e-3)
    assert shifts.mean().item() == pytest.approx(0, abs=4 * 2 / math.sqrt(3 * shifts.numel()))
    quarters = shifts.flatten().histc(4, -2, 2) / shifts.numel()
    standard_error = math.sqrt(1 / 4 * 3 / 4 / shifts.numel())
    assert quarters.tolist() == pytest.approx([0.25] * 4, abs=4 * standard_error)


def test_max_shift_0_moves_nothing():
    assert (ThinPlateSpline(3, 0).sample(2, 8, seed=0) == 0).all()
    assert ThinPlateSpline(3, 0).rms(8) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_fields_do_not_depend_on_how_many_follow(dtype):
    few, many = (ThinPlateSpline(3, 2).sample(n, 20, seed=3, dtype=dtype) for n in (3, 70))
    # The shifts are the same bits; a product of another size may round otherwise.
    torch.testing.assert_close(few, many[:3], rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-5)


def test_a_seed_repeats_its_fields_and_another_does_not():
    family = ThinPlateSpline(3, 2)
    assert torch.equal(family.sample(3, 20, seed=3), family.sample(3, 20, seed=3))
    assert not torch.isclose(family.sample(3, 20, seed=3), family.sample(3, 20, seed=4)).all(-1).all(-1).any()


def test_float32_samples_are_rounded_float64_ones():
    narrow, wide = (ThinPlateSpline(5, 10).sample(3, 64, seed=1, dtype=d) for d in (torch.float32, torch.float64))
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=2e-5)


def test_is_differentiable_in_the_shifts():
    family = ThinPlateSpline(3, 1.0)
    assert torch.autograd.gradcheck(lambda shifts: family.field(shifts, 5), random_shifts(2, 3).requires_grad_())


def test_keeps_few_matrices_and_serves_gradients_with_them():
    splines._pull.cache_clear()
    with torch.inference_mode():
        ThinPlateSpline(3, 1.0).sample(1, 13, seed=0, dtype=torch.float64)
    shifts = random_shifts(1, 3).requires_grad_()
    ThinPlateSpline(3, 1.0).field(shifts, 13).square().sum().backward()
    assert (shifts.grad != 0).all()
    kept = splines._pull.cache_info()
    assert (kept.misses, kept.hits) == (1, 1)
    assert kept.maxsize <= 16


def test_mixed_precision_does_not_reach_the_fields():
    family = ThinPlateSpline(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = family.sample(2, 20, seed=0)
    assert torch.equal(mixed, family.sample(2, 20, seed=0))


@needs_gpu
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_a_gpu_gets_the_same_fields(precision, dtype, atol):
    expected = ThinPlateSpline(3, 2).sample(5, 33, seed=7, dtype=dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        field = ThinPlateSpline(3, 2).sample(5, 33, seed=7, device="cuda", dtype=dtype)
    finally:
        torch.set_float32_matmul_precision(before)
    assert field.is_cuda
    torch.testing.assert_close(field.cpu(), expected, rtol=0, atol=atol)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [1, 0, 3.0, None])
def test_refuses_a_grid_that_spans_no_image(grid):
    with pytest.raises(ValueError, match="grid must be a whole number, at least 2; got "):
        ThinPlateSpline(grid, 2)


@pytest.mark.parametrize("max_shift", [-1, math.inf, math.nan])
def test_refuses_a_shift_that_is_no_length(max_shift):
    with pytest.raises(ValueError, match="max_shift must be 0 or more and finite, in px; got "):
        ThinPlateSpline(3, max_shift)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda s, size: s.sample(1, size, seed=0), id="sample"),
        pytest.param(lambda s, size: s.field(random_shifts(1, 3), size), id="field"),
        pytest.param(lambda s, size: s.rms(size), id="rms"),
    ],
)
@pytest.mark.parametrize("size", [1, 32.0])
def test_refuses_a_size_without_distinct_control_points(ask, size):
    with pytest.raises(ValueError, match="size must be a whole number, at least 2; got "):
        ask(ThinPlateSpline(3, 2), size)


@pytest.mark.parametrize(
    ("shifts", "message"),
    [
        (torch.zeros(2, 3, 3), r"must be \(N, 2, 3, 3\) with N at least 1, got \(2, 3, 3\)"),
        (torch.zeros(4, 2, 3, 4), r"must be \(N, 2, 3, 3\) .* got \(4, 2, 3, 4\)"),
        (torch.zeros(0, 2, 3, 3), r"N at least 1, got \(0, 2, 3, 3\)"),
        (torch.zeros(1, 2, 3, 3, dtype=torch.float16), "float32 or float64, got torch.float16"),
        (torch.zeros(1, 2, 3, 3, dtype=torch.int64), "float32 or float64, got torch.int64"),
    ],
)
def test_refuses_what_are_no_shifts(shifts, message):
    with pytest.raises(ValueError, match=message):
        ThinPlateSpline(3, 2).field(shifts, 8)

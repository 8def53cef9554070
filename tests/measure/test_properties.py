"""Whatever comes in: a right value, nan where it is undefined, or a ValueError that says what to do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from spatialkit import deform, measure, theory
from spatialkit.deform import Diffeomorphism, ThinPlateSpline
from spatialkit.measure import Deformation, Noise, Rotation, Translation

FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
REAL = [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64]
VALUES = ["random", "constant", "zero", "nan", "inf", "huge"]
sides = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 12])


@st.composite
def tensors(draw, ndim=(4,), dtypes=(*REAL, torch.complex64), values=VALUES, sides=sides):
    """Tensors of any shape, type, layout in memory and content; now and then something else."""
    shape = [draw(sides) for _ in range(draw(st.sampled_from(ndim)))]
    dtype, content = draw(st.sampled_from(dtypes)), draw(st.sampled_from(values))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = 20 * torch.rand(shape, generator=generator, dtype=torch.float64)
    x = {"constant": torch.full_like(x, 3), "zero": torch.zeros_like(x), "huge": 1e25 * x}.get(content, x).to(dtype)
    if content in ("nan", "inf") and dtype.is_floating_point and x.numel():
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] = float(content)
    layout = draw(st.sampled_from(["plain", "last", "sliced", "flipped", "expanded"]))
    if layout == "last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced" and x.ndim:
        return torch.stack([x, x], -1)[..., 0]
    if layout == "flipped" and x.ndim > 1:
        return x.mT.contiguous().mT
    return x[:1].expand_as(x) if layout == "expanded" and x.ndim and len(x) else x


def value_or_reason(function, *arguments, **options):
    """What a function returns, or None where it raises a ValueError with a sentence; nothing given may change."""
    given = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    try:
        return function(*arguments, **options)
    except ValueError as error:
        assert len(str(error).split()) > 3, error
        return None
    finally:
        for before, after in zip(given, arguments, strict=True):
            if isinstance(before, torch.Tensor):
                assert torch.equal(before.nan_to_num(7), after.nan_to_num(7))


def slow_orderness(x, neighbours):
    """The definition in float64, path by path: mean squares of far and of near pairs."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + [(1, 1), (1, -1), (-1, 1), (-1, -1)] * (neighbours == "8")
    x, (H, W) = x.double().numpy(), x.shape[-2:]
    far, near, n = 0.0, 0.0, 0
    for y0 in range(H):
        for x0 in range(W):
            for a in steps:
                for b in steps:
                    q, r = (y0 + a[0], x0 + a[1]), (y0 + a[0] + b[0], x0 + a[1] + b[1])
                    distance = max(abs(a[0] + b[0]), abs(a[1] + b[1]))
                    kept = {"straight": a == b, "4": distance > 0, "8": distance == 2}[neighbours]
                    if kept and all(0 <= p[0] < H and 0 <= p[1] < W for p in (q, r)):
                        far += np.square(x[..., y0, x0] - x[(..., *r)]).sum()
                        near += np.square(x[..., y0, x0] - x[(..., *q)]).sum()
                        n += 1
    return math.nan if near == 0 else far / near - 1


@FEW
@given(tensors(ndim=(3, 4, 4, 4, 5)), st.sampled_from(["straight", "4", "8"]), st.booleans())
def test_orderness(x, neighbours, as_array):
    given_ = x.numpy() if as_array and x.dtype != torch.bfloat16 else x
    got = value_or_reason(measure.orderness, given_, neighbours=neighbours)
    usable = x.ndim == 4 and x.numel() and min(x.shape[-2:]) >= 3 and not x.is_complex() and bool(x.isfinite().all())
    if got is None:
        assert not usable or float(x.abs().max()) > 1e15
    else:
        assert usable
        slow = slow_orderness(x, neighbours)
        assert math.isnan(got) == math.isnan(slow)
        assert math.isnan(slow) or got == pytest.approx(slow, rel=1e-4, abs=1e-4)
    for function in (
        lambda y: measure.orderness_of_each(y, "map"),
        lambda y: measure.central_diagonal_orderness(y),
        lambda y: measure.one_sided_orderness(y),
        lambda y: measure.orderness(y, scale=2),
        lambda y: measure.two_hop_means(y),
    ):
        value_or_reason(function, x)


@FEW
@given(tensors(ndim=(2, 3, 4, 4)))
def test_filters(kernel):
    usable = kernel.ndim in (3, 4) and kernel.numel() and not kernel.is_complex()
    usable = usable and math.prod(kernel.shape[2:]) > 1 and bool(kernel.isfinite().all())
    for function in (measure.total_variation, measure.frequency_content, measure.laplacian_spectrum):
        got = value_or_reason(function, kernel)
        assert (got is not None) == bool(usable)
    if usable:
        w = kernel.double()
        size = w.abs().sum()
        slow = sum(w.diff(dim=axis).abs().sum() for axis in range(2, w.ndim)) / size
        assert measure.total_variation(kernel) == pytest.approx(float(slow), rel=1e-9, nan_ok=True)
        assert math.isnan(measure.frequency_content(kernel)) == (float(size) == 0)


@FEW
@given(tensors(dtypes=(torch.float16, torch.float32, torch.float64, torch.uint8)), st.integers(0, 3))
def test_warps(images, kind):
    H, W = images.shape[-2:]
    field = (
        torch.zeros(1, 2, H, W) if kind == 0 else torch.randn(1, 2, H, W, generator=torch.Generator().manual_seed(0))
    )
    field = (field * torch.nan if kind == 2 else field).to(images.dtype if kind != 3 else torch.float64)
    warped = value_or_reason(deform.warp, images, field)
    usable = images.dtype in (torch.float32, torch.float64) and images.numel() and field.dtype == images.dtype
    assert (warped is not None) == bool(usable and kind != 2)
    if warped is not None and kind == 0:
        assert torch.equal(warped.nan_to_num(7), images.nan_to_num(7))
    elif warped is not None and bool(images.isfinite().all()):
        assert warped.min() >= images.min() - 1e-5 * images.abs().max()
    value_or_reason(deform.linear_transform, images, deform.rotation(30))
    value_or_reason(deform.jacobian, images)
    value_or_reason(deform.folded, images)


@FEW
@given(
    tensors(dtypes=(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8), values=VALUES[:5]),
    st.sampled_from([
        Translation(1), Translation(0.5, -0.25), Rotation(0), Rotation(90), Rotation(33),
        Noise(norm=0.0), Noise(norm=2.0),
        Deformation(Diffeomorphism(2, 0.01)), Deformation(ThinPlateSpline(3, 0.0)),
        Deformation(ThinPlateSpline(3, 1.0)),
    ]),
)  # fmt: skip
def test_perturbations(images, perturb):
    made = value_or_reason(lambda x: measure.perturbed(x, {"one": perturb, "noise": Noise(like="one")}), images)
    if made is not None:
        assert all(x.shape == images.shape and x.dtype == images.dtype for x in made.values())
        if perturb in (Rotation(0), Noise(norm=0.0), Deformation(ThinPlateSpline(3, 0.0))):
            for x in made.values():
                assert bool(images.isnan().any()) or torch.equal(x, images)


@FEW
@given(
    tensors(ndim=(3, 4, 4, 4, 4), sides=st.sampled_from([0, 1, 2, 3, 5, 6, 8])),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["flat", "conv", "identity"]),
)
def test_measures_of_layers(images, dtype, kind):
    torch.manual_seed(0)
    C = images.shape[1] if images.ndim > 1 else 1
    models = {
        "flat": lambda: nn.Sequential(nn.Flatten(), nn.Linear(max(1, math.prod(images.shape[1:])), 3)),
        "conv": lambda: nn.Sequential(nn.Conv2d(max(C, 1), 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1)),
        "identity": lambda: nn.Sequential(nn.Identity()),
    }
    model = models[kind]().to(dtype)
    x = images.to(dtype) if kind != "identity" and not images.is_complex() else images
    if x.is_complex() and kind != "identity":
        return
    rows = value_or_reason(measure.layer_orderness, model, x)
    if rows is not None:
        assert (rows["value"].isna() == (rows["why"] != "")).all()
    rows = value_or_reason(measure.sensitivity, model, x, {"right": Translation(1), "G": Noise(like="right")})
    if rows is not None:
        assert (rows["value"].isna() == (rows["why"] != "")).all()
        assert rows["value"].dropna().ge(0).all()
    if x.is_floating_point():
        rows = value_or_reason(measure.layer_alignment, model, x, deform.rotation(90))
        if rows is not None:
            assert (rows["value"].isna() == (rows["why"] != "")).all()


@FEW
@given(tensors(), tensors(), st.sampled_from([0.1, 0.7, 2.0]), st.booleans())
def test_alignment(moved, other, radius, same):
    still = moved.flip(0) if same else other
    got = value_or_reason(
        measure.alignment_residual, moved, still, torch.stack([deform.rotation(90), deform.mirror()]), radius=radius
    )
    if got is not None:
        assert got.shape == (2,) and not bool((got < 0).any())
        assert not bool(got.isnan().any()) or not bool(still.any())


@FEW
@given(st.integers(-1, 6), st.floats(-1, 3), st.integers(-1, 12), st.integers(-1, 3), st.integers(-1, 2))
def test_families_of_fields(cutoff, strength, size, n, seed):
    for family in (Diffeomorphism, ThinPlateSpline):
        fields = value_or_reason(lambda f=family: f(cutoff, strength).sample(n, size, seed=seed))
        if fields is not None:
            assert fields.shape == (n, 2, size, size) and bool(fields.isfinite().all())
            assert (strength == 0) <= (not bool(fields.any()))
    value_or_reason(lambda: Diffeomorphism.of_rms(strength, cutoff=cutoff, size=size).rms(size))
    value_or_reason(lambda: Diffeomorphism.of_displacement(strength, cutoff=cutoff, size=size))
    value_or_reason(lambda: deform.temperature_range(cutoff, size))


@FEW
@given(tensors(ndim=(1, 2, 3), values=VALUES[:5], sides=st.sampled_from([1, 2, 2, 2, 3])))
def test_linear_maps(matrix):
    value_or_reason(deform.to_polar, matrix)
    value_or_reason(deform.from_polar, matrix)
    value_or_reason(deform.linear_field, matrix, 4, 5)
    value_or_reason(measure.alignment_residual, torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), matrix)


@FEW
@given(st.integers(-1, 5), st.integers(-1, 4), st.integers(-1, 40), st.integers(-1, 5))
def test_homogeneous_filters(kernel, depth, size, stride):
    value_or_reason(theory.step_moments, kernel)
    rows = value_or_reason(theory.pixel_response, kernel, depth, size)
    assert rows is None or np.allclose(rows.sum(1), 1)
    table = value_or_reason(theory.homogeneous_sensitivities, kernel, depth, size, stride)
    assert table is None or np.isfinite(table.to_numpy(dtype=float)).all()


@FEW
@given(tensors(ndim=(2, 3, 4)), tensors(ndim=(2, 3, 4)), st.booleans(), st.integers(-1, 4))
def test_paired_sensitivity(images, other, same, batch):
    changed = images.flip(0) if same else other
    table = value_or_reason(measure.paired_sensitivity, lambda x: [x.double()], images, {"D": changed}, batch=batch)
    assert table is None or (table["D"].isna() | (table["D"] >= 0)).all()

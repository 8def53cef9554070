import math
from itertools import product

import numpy as np
import pytest
import torch

from spatialkit.measure.filters import frequency_content, laplacian_spectrum, total_variation

SHAPES = [(4, 3, 3, 3), (2, 3, 2, 2), (3, 2, 5, 4), (1, 2, 1, 3), (3, 4, 3), (2, 2, 7)]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def kernels(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edges_of(sides):
    """All pairs of neighbours of the grid, by a loop over pairs of places."""
    places = list(product(*map(range, sides)))
    return [(p, q) for p in places for q in places if p < q and sum(abs(a - b) for a, b in zip(p, q, strict=True)) == 1]


def laplacian_of(sides):
    places = {place: i for i, place in enumerate(product(*map(range, sides)))}
    laplacian = np.zeros((len(places), len(places)))
    for p, q in edges_of(sides):
        i, j = places[p], places[q]
        laplacian[[i, j], [i, j]] += 1
        laplacian[[i, j], [j, i]] -= 1
    return laplacian


# --- total variation -----------------------------------------------------------------------------


@every_shape
def test_total_variation_matches_a_loop_over_all_edges(shape):
    w = kernels(*shape)
    steps = sum((w[:, :, *p] - w[:, :, *q]).abs().sum() for p, q in edges_of(shape[2:]))
    assert total_variation(w) == pytest.approx(float(steps / w.abs().sum()), rel=1e-12)


@pytest.mark.parametrize("draw, side, expected", [
    pytest.param(torch.nn.init.normal_, 3, 4 * math.sqrt(2) / 3, id="normal"),
    pytest.param(lambda w: torch.nn.init.uniform_(w, -1, 1), 3, 16 / 9, id="uniform"),
    pytest.param(lambda w: torch.nn.init.trunc_normal_(w, a=-2, b=2), 3, 1.857, id="truncated at 2 sd"),
    pytest.param(torch.nn.init.normal_, 2, math.sqrt(2), id="normal 2 x 2"),
])  # fmt: skip
def test_random_kernels_have_the_known_total_variation(draw, side, expected):
    # 40 000 slices: the ratio of sums has a standard error of about 0.001.
    torch.manual_seed(0)
    assert total_variation(draw(torch.empty(200, 200, side, side))) == pytest.approx(expected, abs=0.004)


def test_a_checkerboard_has_the_largest_total_variation():
    board = (-1.0) ** (torch.arange(3)[:, None] + torch.arange(3)).expand(1, 1, 3, 3)
    assert total_variation(board) == 24 / 9
    assert frequency_content(board) == pytest.approx(np.mean([4] * 12) * 12 / 9 / (24 / 9))


@pytest.mark.parametrize("measure", [total_variation, frequency_content])
def test_constant_slices_have_none_and_zero_ones_no_value(measure):
    constant = kernels(3, 2, 1, 1).expand(3, 2, 3, 3)
    assert measure(constant) == 0
    assert math.isnan(measure(0 * constant))
    assert laplacian_spectrum(0 * constant)["share"].isna().all()


@every_shape
@pytest.mark.parametrize("measure", [total_variation, frequency_content])
def test_ignores_gain_flips_and_the_order_of_channels(measure, shape):
    w = kernels(*shape)
    same = [-3 * w, w.flip(-1), w.flip(0), w.transpose(0, 1), w.flip(2)]
    assert [measure(v) for v in same] == pytest.approx([measure(w)] * len(same), rel=1e-12)


def test_the_layer_is_a_ratio_of_sums_not_a_mean_of_ratios():
    w = torch.cat([torch.ones(1, 1, 3, 3), 1e-3 * kernels(1, 1, 3, 3)])
    assert total_variation(w) < 0.01 < np.mean([total_variation(each[None]) for each in w])


# --- Laplacian -----------------------------------------------------------------------------------


@every_shape
def test_spectrum_matches_the_eigenvectors_of_the_laplacian(shape):
    w, spectrum = kernels(*shape), laplacian_spectrum(kernels(*shape))
    values, vectors = np.linalg.eigh(laplacian_of(shape[2:]))
    energies = ((w.reshape(-1, len(values)).numpy() @ vectors) ** 2).mean(0)
    assert spectrum["modes"].sum() == len(values)
    for row in spectrum.itertuples():
        mine = np.isclose(values, row.eigenvalue, atol=1e-9)
        assert mine.sum() == row.modes
        assert row.energy == pytest.approx(energies[mine].sum(), rel=1e-10)
        assert row.share == pytest.approx(energies[mine].sum() / energies.sum(), rel=1e-10)
    aggregate = len(values) / values.sum() / (w**2).sum((2, 3)[: w.ndim - 2]).mean() * (values * energies).sum()
    assert frequency_content(w) == pytest.approx(float(aggregate), rel=1e-10)


def test_the_3_x_3_grid_has_three_double_eigenvalues():
    spectrum = laplacian_spectrum(kernels(1, 1, 3, 3))
    np.testing.assert_allclose(spectrum["eigenvalue"], [0, 1, 2, 3, 4, 6], atol=1e-12)
    assert spectrum["modes"].tolist() == [1, 2, 1, 2, 2, 1]


@pytest.mark.parametrize("side", [3, 5])
def test_a_cosine_has_all_energy_at_its_eigenvalue(side):
    def mode(k):
        return torch.cos(math.pi * k * (torch.arange(side, dtype=torch.float64) + 0.5) / side)

    for k, m in product(range(side), repeat=2):
        w = (mode(k)[:, None] * mode(m)).expand(1, 1, side, side)
        eigenvalue = 4 - 2 * math.cos(math.pi * k / side) - 2 * math.cos(math.pi * m / side)
        spectrum = laplacian_spectrum(w)
        nearest = (spectrum["eigenvalue"] - eigenvalue).abs().idxmin()
        assert spectrum["share"][nearest] == pytest.approx(1, rel=1e-12)
        assert frequency_content(w) == pytest.approx(eigenvalue / laplacian_of((side, side)).trace() * side**2)


@every_shape
def test_energy_is_kept(shape):
    w = kernels(*shape)
    spectrum = laplacian_spectrum(w)
    assert spectrum["energy"].sum() == pytest.approx(float(w.square().flatten(2).sum(2).mean()), rel=1e-12)
    assert spectrum["share"].sum() == pytest.approx(1, rel=1e-12)
    assert (
        0
        <= frequency_content(w)
        <= np.linalg.eigvalsh(laplacian_of(shape[2:])).max() / (laplacian_of(shape[2:]).trace() / math.prod(shape[2:]))
    )


def test_white_noise_spreads_evenly_over_modes():
    w = torch.eye(9, dtype=torch.float64).reshape(9, 1, 3, 3)  # its second moments are exactly those of white noise
    spectrum = laplacian_spectrum(w)
    np.testing.assert_allclose(spectrum["share"], spectrum["modes"] / 9)
    assert frequency_content(w) == pytest.approx(1, rel=1e-12)


def test_a_quarter_turn_moves_energy_within_eigenspaces_only():
    w = kernels(5, 4, 3, 3)
    np.testing.assert_allclose(laplacian_spectrum(w)["energy"], laplacian_spectrum(w.rot90(1, (2, 3)))["energy"])


@pytest.mark.parametrize(
    "same", [lambda w: w.requires_grad_(), lambda w: w.contiguous(memory_format=torch.channels_last)]
)
def test_takes_parameters_of_any_layout(same):
    w = kernels(4, 3, 3, 3)
    assert total_variation(same(w.clone())) == pytest.approx(total_variation(w))
    assert laplacian_spectrum(same(w.clone())).equals(laplacian_spectrum(w))


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [total_variation, laplacian_spectrum, frequency_content])
@pytest.mark.parametrize("kernel, message", [
    (torch.zeros(3, 3), r"of shape \(C_out, C_in, kH, kW\).* got torch.float32 of shape \(3, 3\)"),
    (torch.zeros(0, 2, 3, 3), r"no side 0; got .* \(0, 2, 3, 3\)"),
    (torch.zeros(1, 2, 3, 3, dtype=torch.complex64), "must be real.* got torch.complex64"),
    (torch.zeros(1, 2, 1, 1), "no neighbours and no frequencies: leave 1 x 1 kernels out"),
    (torch.full((1, 2, 3, 3), torch.nan), "nan or inf"),
])  # fmt: skip
def test_refuses_what_is_no_kernel(measure, kernel, message):
    with pytest.raises(ValueError, match=message):
        measure(kernel)

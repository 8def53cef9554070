import math

import numpy as np
import pytest
import torch

from spatialkit.deform import Diffeomorphism, folded, folding, jacobian, temperature_range


def random_field(n, H, W, reach=0.5, seed=0):
    return reach * torch.randn(n, 2, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear_field(matrix, H=5, W=6):
    """The field that maps u to matrix @ u."""
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    moved = torch.tensor(matrix, dtype=torch.float64) - torch.eye(2)
    return torch.einsum("ab,bhw->ahw", moved, torch.stack([x, y]).double())[None]


def determinants_inside(field, y, x, steps=7):
    """Determinants of the bilinear map of one cell on a lattice over it, by the chain rule; field: (2, H, W)."""
    corners = {(b, a): np.array([x + a, y + b]) + field[:, y + b, x + a].numpy() for b in (0, 1) for a in (0, 1)}
    for s in np.linspace(0, 1, steps):
        for t in np.linspace(0, 1, steps):
            along_x = (1 - t) * (corners[0, 1] - corners[0, 0]) + t * (corners[1, 1] - corners[1, 0])
            along_y = (1 - s) * (corners[1, 0] - corners[0, 0]) + s * (corners[1, 1] - corners[0, 1])
            yield np.linalg.det(np.stack([along_x, along_y], 1))


# --- oracles -------------------------------------------------------------------------------------


def test_is_the_least_determinant_anywhere_in_the_cell():
    field = random_field(2, 4, 5)
    least = jacobian(field)
    assert least.shape == (2, 3, 4)
    for n, y, x in np.ndindex(2, 3, 4):
        assert least[n, y, x].item() == pytest.approx(min(determinants_inside(field[n], y, x)), abs=1e-12)


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param([[1, 0], [0, 1]], id="identity"),
        pytest.param([[0, -1], [1, 0]], id="turn"),
        pytest.param([[2, 0.5], [0.25, 1]], id="stretch"),
        pytest.param([[-1, 0], [0, 1]], id="mirror"),
        pytest.param([[1, 2], [0.5, 1]], id="flat"),
    ],
)
def test_is_the_determinant_of_a_linear_map(matrix):
    field, determinant = linear_field(matrix), np.linalg.det(matrix)
    assert jacobian(field).flatten().tolist() == pytest.approx([determinant] * 20, abs=1e-12)
    if abs(determinant) > 1e-9:
        assert folded(field).tolist() == [determinant < 0]


def test_one_pixel_folds_when_it_crosses_the_side_or_the_diagonal_of_its_neighbours():
    field = torch.zeros(4, 2, 5, 5)
    field[:, 0, 2, 2] = torch.tensor([0.99, 1.01, 0.49, 0.51])
    field[2:, 1, 2, 2] = torch.tensor([0.49, 0.51])  # over the diagonal of the cell at its lower right
    assert folded(field).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("cutoff", "size", "n", "share", "draws"),
    [(2, 32, 2000, 0.61, 800), (3, 32, 2000, 0.37, 800), (3, 224, 150, 0.40, 200)],
)
def test_folds_as_often_at_the_sources_limit_as_measured_with_their_sampler(cutoff, size, n, share, draws):
    # Those had one corner of each cell in view; all four find some 0.02 more. Beside it, three standard errors.
    _, highest = temperature_range(cutoff, size)
    ours = folded(Diffeomorphism(cutoff, highest).sample(n, size, seed=0)).double().mean().item()
    assert ours == pytest.approx(share + 0.01, abs=0.01 + 3 * math.sqrt(share * (1 - share) * (1 / n + 1 / draws)))


@pytest.mark.parametrize(("cutoff", "most"), [(2, 0.06), (3, 0.01), (5, 0.005)])
def test_folds_rarely_at_a_quarter_of_the_limit(cutoff, most):
    # Measured: 0.03 for cut-off 2, 0 to 0.004 for others.
    _, highest = temperature_range(cutoff, 32)
    assert folded(Diffeomorphism(cutoff, highest / 4).sample(2000, 32, seed=0)).double().mean() <= most


# --- properties ----------------------------------------------------------------------------------


def test_more_temperature_folds_more():
    # The same draws, magnified: the share over temperature rises from none to all.
    _, highest = temperature_range(3, 32)
    fields = [Diffeomorphism(3, highest * factor).sample(200, 32, seed=0) for factor in (0, 0.1, 0.5, 1, 3, 30)]
    shares = [folded(field).double().mean().item() for field in fields]
    assert shares == sorted(shares)
    assert shares[0] == 0 and shares[-1] == 1


def test_no_displacement_has_determinant_1():
    assert (jacobian(torch.zeros(1, 2, 4, 7)) == 1).all()
    assert not folded(torch.zeros(1, 2, 4, 7)).any()


@pytest.mark.parametrize(
    ("turn_field", "turn_cells"),
    [
        pytest.param(lambda f: f + 3.0, lambda j: j, id="shift"),
        pytest.param(lambda f: f.mT.flip(1), lambda j: j.mT, id="transposition"),
        pytest.param(lambda f: f.flip(3) * torch.tensor([-1.0, 1])[:, None, None], lambda j: j.flip(2), id="mirror"),
    ],
)
def test_goes_along_with(turn_field, turn_cells):
    field = random_field(3, 6, 5)
    torch.testing.assert_close(jacobian(turn_field(field)), turn_cells(jacobian(field)), rtol=0, atol=1e-12)


def test_unfolded_fields_that_hold_the_border_stay_inside_the_image():
    field = Diffeomorphism(3, temperature_range(3, 16)[1]).sample(300, 16, seed=0, dtype=torch.float64)
    kept = field[~folded(field)]
    ticks = torch.arange(16.0, dtype=torch.float64)
    places = kept + torch.stack([ticks.expand(16, 16), ticks[:, None].expand(16, 16)])
    assert len(kept) > 100
    assert (places >= 0).all() and (places <= 15).all()


def test_does_not_depend_on_how_fields_are_cut(monkeypatch):
    field = Diffeomorphism(3, 0.013).sample(23, 16, seed=0)
    whole = folded(field)
    assert whole.any() and not whole.all()
    monkeypatch.setattr(folding, "_PIXELS_AT_A_TIME", 2 * 2 * 16 * 16)
    assert torch.equal(folded(field), whole)


def test_determinants_have_gradients_and_folds_have_none():
    field = random_field(2, 3, 4, reach=0.1).requires_grad_()
    assert torch.autograd.gradcheck(jacobian, field)
    assert not folded(field).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu():
    field = random_field(3, 9, 8)
    torch.testing.assert_close(jacobian(field.cuda()).cpu(), jacobian(field), rtol=0, atol=1e-13)
    assert torch.equal(folded(field.cuda()).cpu(), folded(field))


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [jacobian, folded])
@pytest.mark.parametrize("shape", [(2, 5, 5), (3, 1, 5, 5), (0, 2, 5, 5), (3, 2, 1, 5), (3, 2, 5, 1), ()])
def test_refuses_what_is_no_field(measure, shape):
    with pytest.raises(ValueError, match=r"field must be \(N, 2, H, W\), N at least 1, H and W at least 2; got "):
        measure(torch.zeros(shape))


@pytest.mark.parametrize("measure", [jacobian, folded])
def test_refuses_integers(measure):
    with pytest.raises(ValueError, match=r"field must be floating-point, got torch.int64"):
        measure(torch.zeros(1, 2, 3, 3, dtype=torch.int64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_refuses_to_judge_fields_that_point_nowhere(bad):
    field = torch.zeros(2, 2, 4, 4)
    field[1, 1, 2, 2] = bad
    field[1, 0, 2, 2] = bad
    with pytest.raises(ValueError, match="field must be finite"):
        folded(field)

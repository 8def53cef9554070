import math

import pytest
import torch

from spatialkit.deform import mirror, rotation, scaling, shear
from spatialkit.theory import left_after_averaging
from spatialkit.theory.plane import GaussianSum, random_blobs, random_filter

B = shear(0.5) @ scaling(1.3, 0.8)


@pytest.mark.parametrize(
    "T", [rotation(57), scaling(1.25), scaling(0.8), scaling(1.25, 0.8), shear(0.4), mirror(20), B @ rotation(40)]
)
def test_agrees_with_the_norm_of_the_average_itself(T):
    filter, volume = random_filter(3), float(torch.linalg.det(T).abs())
    found = left_after_averaging(filter, T, 3)
    for j, m in enumerate([1, 2, 4, 8]):
        # (U f)(z) = |det T|^(1/2) f(T z) is f transformed by the inverse
        terms = [
            filter.transformed(torch.linalg.matrix_power(torch.linalg.inv(T), k)).times(volume ** (k / 2) / m)
            for k in range(m)
        ]
        assert float(found[j]) == pytest.approx(float(terms[0].plus(*terms[1:]).norm()), rel=1e-9)


def test_finite_rotations_leave_the_symmetrised_filter():
    filter = random_filter(1)
    symmetric = filter.averaged([rotation(90 * k) for k in range(4)])
    assert float(left_after_averaging(filter, rotation(90), 6)[-1]) == pytest.approx(float(symmetric.norm()), rel=1e-9)


def test_all_of_an_invariant_filter_is_left():
    symmetric = random_filter(1).averaged([rotation(72 * k) for k in range(5)])
    assert torch.allclose(left_after_averaging(symmetric, rotation(72), 5), torch.ones(6, dtype=torch.float64))


def test_shear_of_a_round_gaussian_has_its_closed_form():
    # c(k) = 1 / sqrt(1 + (k s)^2 / 4) for amounts s of a shear.
    round_one = GaussianSum(torch.ones(1).double(), torch.zeros(1, 2).double(), 0.01 * torch.eye(2).double()[None])
    m, s = 64, 0.3
    k = torch.arange(1, m, dtype=torch.float64)
    c = 1 / torch.sqrt(1 + (k * s) ** 2 / 4)
    expected = math.sqrt((m + 2 * float(((m - k) * c).sum())) / m**2)
    assert float(left_after_averaging(round_one, shear(s), 6)[-1]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("T", [scaling(1.5), scaling(1.5, 0.5)])
def test_long_averages_of_a_stretch_fall_as_the_root_of_their_number(T):
    left = left_after_averaging(random_filter(2), T, 16)
    assert float(left[-1] / left[-3]) == pytest.approx(0.5, rel=0.01)


def test_rejects_several_filters_and_negative_numbers():
    with pytest.raises(ValueError, match="need one filter"):
        left_after_averaging(random_blobs(2, 0), rotation(1), 3)
    with pytest.raises(ValueError, match="at least 0"):
        left_after_averaging(random_filter(0), rotation(1), -1)

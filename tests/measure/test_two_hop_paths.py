import numpy as np
import pytest
import torch

from spatialkit.measure import two_hop_paths
from spatialkit.measure.two_hop_paths import NEIGHBOURS, count_paths, mean_squares

# Mean squares against a loop over all triples: see test_orderness.py.

every_neighbourhood = pytest.mark.parametrize("neighbours", NEIGHBOURS)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(3, 3), (5, 4), (6, 9)])
def test_counts_as_many_paths_as_there_are(size):
    H, W = size
    inside, side, corner = (H - 2) * (W - 2), 2 * (H - 2) + 2 * (W - 2), 4
    expected = {  # by the middle pixel: ordered pairs of its neighbours
        "straight": 4 * inside + 2 * side,
        "4": 4 * 3 * inside + 3 * 2 * side + 2 * 1 * corner,
        "8": 32 * inside + 8 * side,
    }
    for neighbours in NEIGHBOURS:
        n_paths = sum(counts.sum(0) for counts in count_paths(H, W, neighbours).values())
        assert n_paths.tolist() == [expected[neighbours]] * 2


@every_neighbourhood
def test_no_path_wraps_around(neighbours):
    H, W = 4, 5
    for shift, counts in count_paths(H, W, neighbours).items():
        for i in np.flatnonzero(counts.any(1)):
            (y, x), (far_y, far_x) = divmod(i, W), divmod(i + shift, W)
            assert far_y < H
            assert max(abs(far_y - y), abs(far_x - x)) <= 2


@every_neighbourhood
def test_the_way_of_other_devices_agrees_with_that_of_the_cpu(neighbours):
    x, paths = noise(5, 42), count_paths(6, 7, neighbours)
    on_any = two_hop_paths._path_sums(x, 7, neighbours, paths)
    on_cpu = two_hop_paths._path_sums_on_cpu(x, 7, neighbours, paths)
    torch.testing.assert_close(on_any, on_cpu)


@every_neighbourhood
@pytest.mark.parametrize("n_threads", [1, 3])
def test_does_not_depend_on_how_the_work_is_cut(neighbours, n_threads, monkeypatch):
    x = noise(33, 5, 6).cumsum(-1)
    whole = mean_squares(x, neighbours)
    monkeypatch.setattr(two_hop_paths, "_PIXELS_IN_CACHE", 70)  # 2 maps
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    torch.testing.assert_close(mean_squares(x, neighbours), whole, rtol=1e-13, atol=0)

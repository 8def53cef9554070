"""The boundary benchmark: pairs against independent solvers, counts and averages by hand."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from spatialkit import data
from spatialkit.measure import edges
from spatialkit.measure.edges import Evaluation, evaluate, pairs
from spatialkit.measure.ridges import thinned


def drawn(seed, shape=(60, 71)):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 5)
    return thinned(np.abs(field) < np.hypot(*np.gradient(field)))


def by_assignment(a, b, tolerance):
    """Pairs by the assignment problem on the full table of distances."""
    far = np.hypot(*(np.argwhere(a)[:, None] - np.argwhere(b)[None]).transpose(2, 0, 1)) > tolerance * np.hypot(
        *a.shape
    )
    rows, columns = linear_sum_assignment(far)
    return int((~far[rows, columns]).sum())


@pytest.mark.parametrize("tolerance", [0.0075, 0.02, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_as_many_as_an_assignment_finds(seed, tolerance):
    a, b = drawn(seed), drawn(seed) & (np.random.default_rng(9).random((60, 71)) < 0.8)
    b = np.roll(b, seed, axis=1)
    found = pairs(a, b, tolerance)
    assert found == by_assignment(a, b, tolerance) == pairs(b, a, tolerance)


def test_pairs_of_twenty_human_maps_are_as_many_as_hopcroft_and_karp_find():
    networkx = pytest.importorskip("networkx")
    try:
        images = data.boundary_images("test", 10)
    except data.DataMissing as missing:
        pytest.skip(str(missing))
    for maps in images.annotations:
        for k in (1, 2):
            a, b = thinned(maps[0].numpy()), maps[k].numpy()
            reach = 0.0075 * np.hypot(*a.shape)
            near = _near(np.argwhere(a), np.argwhere(b), reach)
            graph = networkx.Graph([(i, -1 - j) for i, found in enumerate(near) for j in found])
            left = {node for node in graph if node >= 0}
            matched = networkx.bipartite.hopcroft_karp_matching(graph, left)
            assert pairs(a, b) == len(matched) // 2 > 0


def _near(a, b, reach):
    from scipy.spatial import cKDTree

    return cKDTree(a).query_ball_tree(cKDTree(b), reach + 1e-9)


def test_the_tolerance_is_a_share_of_the_diagonal_and_its_end_counts():
    a, b = np.zeros((30, 40), bool), np.zeros((30, 40), bool)  # diagonal 50
    a[10, 10], b[13, 14] = True, True  # 5 px apart
    assert pairs(a, b, 0.1) == 1 and pairs(a, b, 0.0999) == 0


def test_nothing_pairs_with_nothing():
    empty, full = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    assert pairs(empty, full) == pairs(full, empty) == pairs(empty, empty) == 0


def test_counts_by_hand():
    prediction, first, second = (np.zeros((30, 40), bool) for _ in range(3))
    prediction[5, 5:15] = True  # ten pixels; both annotators drew a half, one a line elsewhere as well
    first[5, 5:10] = True
    second[5, 10:15] = True
    second[20, 5:25] = True
    for union in ("any", "largest"):
        found = evaluate([prediction.astype(float)], [[first, second]], 0.01, 3, union, progress=False)
        assert found.thresholds.tolist() == [0.25, 0.5, 0.75]
        assert found.confirmed.tolist() == found.predicted.tolist() == found.found.tolist() == [[10, 10, 10]]
        assert found.drawn.tolist() == [[30, 30, 30]]
        assert (found.precision == 1).all() and found.recall == pytest.approx(np.full(3, 1 / 3))
        assert found.ods == found.ois == pytest.approx(0.5) and np.isnan(found.ap)


def test_thresholds_cut_a_soft_map():
    soft = np.zeros((30, 40))
    soft[5, 5:25], soft[15, 5:25] = 0.9, 0.3
    truth = soft > 0.5
    found = evaluate([soft], [[truth]], 0.01, 4, progress=False)  # .2, .4, .6, .8
    assert found.predicted.tolist() == [[40, 20, 20, 20]] and found.confirmed.tolist() == [[20] * 4]
    assert found.precision.tolist() == [0.5, 1, 1, 1] and (found.recall == 1).all()
    assert found.ods == found.ois == 1


def test_one_threshold_is_one_half():
    soft = np.zeros((20, 20))
    soft[5, 2:8], soft[10, 2:8] = 0.5, 0.49
    found = evaluate([soft], [[soft > 0]], thresholds=1, progress=False)
    assert found.thresholds.tolist() == [0.5] and found.predicted.tolist() == [[6]]


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_union_is_what_all_annotators_together_can_confirm(seed):
    a = drawn(seed, (40, 44))
    truths = [np.roll(drawn(seed, (40, 44)), shift, axis=axis) & (np.random.default_rng(shift).random((40, 44)) < 0.7)
              for shift, axis in ((1, 0), (2, 1), (3, 1))]  # fmt: skip
    tolerance = 0.04
    columns = np.concatenate([np.argwhere(t) for t in truths])
    far = np.hypot(*(np.argwhere(a)[:, None] - columns[None]).transpose(2, 0, 1)) > tolerance * np.hypot(40, 44)
    rows, chosen = linear_sum_assignment(far)
    expected = int((~far[rows, chosen]).sum())
    largest, lone = (
        evaluate([a.astype(float)], [truths], tolerance, 1, union, progress=False) for union in ("largest", "any")
    )
    assert largest.confirmed.item() == expected >= lone.confirmed.item()
    assert lone.confirmed.item() >= max(pairs(a, t, tolerance) for t in truths)
    assert largest.found.item() == lone.found.item() == sum(pairs(a, t, tolerance) for t in truths)


def test_the_rule_of_the_union_matters_where_annotators_share_pixels():
    prediction, truth = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    prediction[10, 5:15] = True
    truth[10, 5:10] = True  # five pixels within reach of more than five: either annotator confirms some five
    confirmed = {
        union: evaluate([prediction.astype(float)], [[truth, truth]], 0.06, 1, union, progress=False).confirmed.item()
        for union in ("any", "largest")
    }
    assert confirmed["largest"] == 8  # all within 3 px of a drawn one
    assert confirmed["any"] == 5  # the solver finds the same five twice


def evaluation(confirmed, predicted, found, drawn):
    counts = [np.array(c) for c in (confirmed, predicted, found, drawn)]
    n = counts[0].shape[1]
    return Evaluation(np.arange(1, n + 1) / (n + 1), *counts)


def test_scales_and_area_by_hand():
    e = evaluation([[8, 4], [9, 6]], [[16, 4], [10, 6]], [[8, 4], [9, 6]], [[10, 10], [10, 10]])
    precision, recall = np.array([17 / 26, 1.0]), np.array([0.85, 0.5])
    assert e.precision == pytest.approx(precision) and e.recall == pytest.approx(recall)
    weights = np.stack([np.linspace(1, 0, 100), np.linspace(0, 1, 100)])
    along = 2 * (precision @ weights) * (recall @ weights) / (precision @ weights + recall @ weights)
    assert e.ods == pytest.approx(along.max()) and e.ods > e.f.max()
    # image 0: F = .615, .571: threshold 0; image 1: .9, .75: threshold 0.
    assert e.ois == pytest.approx(2 * (17 / 26) * 0.85 / (17 / 26 + 0.85))
    at = np.arange(50, 86) / 100
    line = 1.0 + (at - 0.5) / 0.35 * (17 / 26 - 1.0)
    assert e.ap == pytest.approx(line.sum() * 0.01)


def test_each_image_takes_its_own_threshold():
    e = evaluation([[5, 0], [5, 5]], [[5, 0], [50, 5]], [[5, 0], [5, 5]], [[5, 5], [5, 5]])
    assert e.ois == 1 > e.ods


def test_images_can_be_drawn_again():
    e = evaluation([[8, 4], [9, 6]], [[16, 4], [10, 6]], [[8, 4], [9, 6]], [[10, 10], [10, 10]])
    twice = e.of([1, 1])
    assert len(twice) == 2 and twice.precision.tolist() == e.of([1]).precision.tolist() == [0.9, 1.0]
    assert e.of(np.arange(2)).ods == e.ods


@pytest.mark.parametrize("seed", range(3))
def test_a_map_against_itself_is_perfect_to_what_thinning_takes(seed):
    one = drawn(seed, (90, 120))
    thick = one | np.roll(one, 1, axis=1) & (np.random.default_rng(0).random(one.shape) < 0.05)
    found = evaluate([thick.astype(float)], [[thick]], thresholds=5, progress=False)
    assert (found.precision == 1).all()
    assert 1 - found.ods < 0.03


def test_an_empty_prediction_has_no_f():
    found = evaluate([np.zeros((20, 20))], [[drawn(0, (20, 20))]], thresholds=3, progress=False)
    assert found.ods == found.ois == 0 and (found.predicted == 0).all()


def test_tensors_and_sizes_may_differ():
    torch = pytest.importorskip("torch")
    maps = [drawn(0, (20, 31)), drawn(1, (33, 24))]
    arrays = evaluate([m * 0.7 for m in maps], [[m] for m in maps], thresholds=4, progress=False)
    tensors = evaluate(
        [torch.from_numpy(m * 0.7) for m in maps], [torch.from_numpy(m[None]) for m in maps], thresholds=4,
        progress=False,
    )  # fmt: skip
    assert (arrays.found == tensors.found).all() and (arrays.predicted == tensors.predicted).all()


def test_progress_counts_images(capsys):
    evaluate([np.zeros((20, 20))] * 2, [[drawn(0, (20, 20))]] * 2, thresholds=1)
    assert "2/2" in capsys.readouterr().err
    evaluate([np.zeros((20, 20))], [[drawn(0, (20, 20))]], thresholds=1, progress=False)
    assert capsys.readouterr().err == ""


GOOD, TRUTH = np.zeros((9, 9)), np.zeros((9, 9), bool)


@pytest.mark.parametrize("arguments, match", [
    (([GOOD], [[TRUTH]], 0.0075, 0), "need 1 threshold"),
    (([GOOD], [[TRUTH]], 0.0), "tolerance above 0"),
    (([GOOD], [[TRUTH]], 1.5), "below 1; got 99 and 1.5"),
    (([GOOD], [[TRUTH]], 0.0075, 9, "all"), "union must be one of any, largest; got 'all'"),
    (([], []), "one list of annotators' maps for each prediction, got 0 and 0"),
    (([GOOD], []), "got 1 and 0"),
    (([GOOD, GOOD], [[TRUTH], []]), "image 1: need .* at least one annotator's map"),
    (([GOOD], [[TRUTH, np.zeros((9, 8), bool)]]), r"image 0: .*got \(9, 9\) and \[\(9, 9\), \(9, 8\)\]"),
    (([GOOD + 2], [[TRUTH]]), r"image 0: predictions must lie in 0\.\.1; apply a sigmoid"),
    (([GOOD * np.nan], [[TRUTH]]), "must lie in"),
    (([GOOD], [[TRUTH.astype(np.uint8)]]), "must be bool, got .*uint8"),
])  # fmt: skip
def test_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        evaluate(*arguments)


def test_pairs_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"need two maps \(H, W\) of one shape, got \(9, 9\) and \(9, 8\)"):
        pairs(TRUTH, np.zeros((9, 8), bool))


@pytest.mark.slow
@pytest.mark.parametrize("union, f", [("any", 0.8005), ("largest", 0.8033)])
def test_one_annotator_agrees_with_the_others_as_published(union, f):
    """F = .80 on the 200 test images (Arbelaez et al. 2011); here the first annotator of each against the others."""
    try:
        images = data.boundary_images("test")
    except data.DataMissing as missing:
        pytest.skip(str(missing))
    maps = [one.numpy() for one in images.annotations]
    found = edges.evaluate([m[0].astype(float) for m in maps], [m[1:] for m in maps], 0.0075, 1, union, progress=False)
    assert found.ods == pytest.approx(0.80, abs=0.01) and found.ods == pytest.approx(f, abs=5e-4)

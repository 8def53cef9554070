"""Scale detection: every pair of positions against the definition, worked out a second time."""

import math

import pytest
import torch

from spatialkit.data import all_pairs, move_points, scale_detection, scale_labels, two_points


def plain_label(a, b, task, size, xi, gap):
    """One pair, by the words of the definition; float distances, a walk round the ring."""
    if task == 2:
        return 1 if all(math.floor(p / xi) == math.floor(q / xi) for p, q in zip(a, b, strict=True)) else -1
    if len(a) == 1:
        steps = range(size)
        distance = min(s for s in steps if (a[0] + s) % size == b[0] or (a[0] - s) % size == b[0])
    else:
        distance = math.hypot(a[0] - b[0], a[1] - b[1])
    if distance < xi - gap / 2:
        return 1
    return -1 if distance >= xi + gap / 2 else 0


@pytest.mark.parametrize(("dimensions", "task", "size", "xi", "gap"), [
    pytest.param(1, 1, 32, 11, 4, id="ring-task-1"),
    pytest.param(1, 1, 31, 7.5, 3, id="ring-odd"),
    pytest.param(1, 2, 128, 32, 0, id="ring-task-2"),
    pytest.param(2, 1, 32, 14, 2, id="square-task-1", marks=pytest.mark.slow),
    pytest.param(2, 1, 11, 5, 2, id="square-odd"),
    pytest.param(2, 2, 16, 4, 0, id="square-task-2"),
])  # fmt: skip
def test_every_label_is_the_definitions(dimensions, task, size, xi, gap):
    positions = all_pairs(size, dimensions)
    labels = scale_labels(positions, task, size, xi, gap)
    expected = [plain_label(a, b, task, size, xi, gap) for a, b in positions.tolist()]
    assert labels.tolist() == expected


@pytest.mark.parametrize(("dimensions", "size"), [(1, 9), (2, 5)])
def test_all_pairs_are_there_once(dimensions, size):
    pairs = {frozenset(map(tuple, pair)) for pair in all_pairs(size, dimensions).tolist()}
    n = size**dimensions
    assert len(pairs) == len(all_pairs(size, dimensions)) == n * (n - 1) // 2
    assert all(len(pair) == 2 for pair in pairs)


def test_class_sizes_of_the_source():
    def sizes(labels):
        return int((labels == 1).sum()), int((labels == -1).sum())

    assert sizes(scale_labels(all_pairs(32, 1), 1, 32, 11, 4)) == (256, 112)
    assert sizes(scale_labels(all_pairs(128, 1), 2, 128, 32)) == (1984, 6144)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_images_have_two_active_pixels_and_the_norm(dimensions):
    positions = all_pairs(6, dimensions)
    images = two_points(positions, 6, dimensions)
    assert images.shape == (len(positions), 1, *[6] * dimensions) and images.dtype == torch.float32
    torch.testing.assert_close(images.square().flatten(1).sum(1), torch.full((len(positions),), 6.0**dimensions))
    found = images[:, 0].nonzero()[:, 1:].view(-1, 2, dimensions)  # in reading order, as the pairs
    assert found.equal(positions)


def test_points_on_one_pixel_add_up():
    image = two_points(torch.tensor([[[3], [3]]]), 8, 1)
    assert image[0, 0].tolist() == [0, 0, 0, 4, 0, 0, 0, 0]  # 2 sqrt(8 / 2)


@pytest.mark.parametrize(("arguments", "n_test"), [
    ({"dimensions": 2}, 2000),
    ({"dimensions": 1, "size": 32, "xi": 11, "gap": 4, "n_train": 48, "n_test": None}, 176),
    ({"dimensions": 1, "task": 2, "size": 128, "xi": 32, "n_train": 1024, "n_test": 400}, 400),
])  # fmt: skip
def test_sets_are_balanced_disjoint_seeded_and_outside_the_gap(arguments, n_test):
    sets = scale_detection(**arguments, seed=3)
    defaults = {"task": 1, "size": 32, "xi": 14.0, "gap": 2.0, "n_train": 1024} | arguments
    assert (len(sets.train.labels), len(sets.test.labels)) == (defaults["n_train"], n_test)
    for part in (sets.train, sets.test):
        assert part.labels.sum() == 0 and part.labels.abs().eq(1).all() and part.labels.dtype == torch.float32
        task, size, xi, gap = (defaults[name] for name in ("task", "size", "xi", "gap"))
        assert part.labels.equal(scale_labels(part.positions, task, size, xi, gap))
        assert part.images.equal(two_points(part.positions, size, arguments["dimensions"]))
    both = torch.cat([sets.train.positions, sets.test.positions]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)
    assert scale_detection(**arguments, seed=3).test.positions.equal(sets.test.positions)
    assert not scale_detection(**arguments, seed=4).train.positions.equal(sets.train.positions)


def test_moves_go_to_each_neighbour_equally_often():
    generator = torch.Generator().manual_seed(0)
    middle = torch.full((9000, 2, 2), 5)
    for stay, n in ((False, 8), (True, 9)):
        steps, counts = (
            (move_points(middle, 11, generator, stay=stay) - 5).view(-1, 2).unique(dim=0, return_counts=True)
        )
        assert len(steps) == n and steps.abs().max() == 1
        assert stay or steps.abs().sum(1).min() > 0
        expected = 18000 / n
        assert (counts - expected).abs().max() < 5 * expected**0.5  # five standard deviations


def test_a_ring_wraps_and_a_border_clips():
    ends = torch.tensor([[[0], [7]]]).expand(100, 2, 1)
    generator = torch.Generator().manual_seed(0)
    assert set(move_points(ends, 8, generator).flatten().tolist()) == {1, 7, 0, 6}
    assert set(move_points(ends, 8, generator, border="clip")[:, 0].flatten().tolist()) == {0, 1}


def test_moves_that_leave_the_patch_or_change_the_label_are_undone():
    positions = all_pairs(16, 1).repeat(20, 1, 1)
    generator = torch.Generator().manual_seed(0)
    kept = move_points(positions, 16, generator, patch=4)
    assert (kept // 4).equal(positions // 4) and not kept.equal(positions)
    # inside a patch of 4 half of the moves of the two border pixels are undone: 1/4 of all
    assert (kept == positions).double().mean() == pytest.approx(0.25, abs=0.02)
    label = lambda p: scale_labels(p, 2, 16, 4)  # noqa: E731
    same = move_points(positions, 16, generator, label=label)
    assert label(same).equal(label(positions)) and not (same // 4).equal(positions // 4)


@pytest.mark.parametrize(("call", "match"), [
    (lambda: scale_detection(n_train=3), "even and at least 2"),
    (lambda: scale_detection(dimensions=1, xi=11, gap=4, n_train=48, n_test=400), "need more than the 256 and 112"),
    (lambda: scale_labels(all_pairs(8, 1), 3, 8, 2), "task must be 1 or 2"),
    (lambda: scale_labels(all_pairs(8, 1), 1, 8, 0), "xi must be positive"),
    (lambda: scale_labels(all_pairs(8, 1), 2, 8, 3), "do not tile 8 px"),
    (lambda: all_pairs(8, 3), "dimensions must be 1 or 2"),
    (lambda: all_pairs(1, 2), "at least 2 px"),
    (lambda: two_points(torch.zeros(1, 2, 2), 8), "integers between 0 and 7"),
    (lambda: two_points(torch.full((1, 2, 2), 8), 8), "integers between 0 and 7"),
    (lambda: two_points(torch.zeros(1, 2, 1, dtype=torch.long), 8), "do not fit 2 dimensions"),
    (lambda: two_points(torch.zeros(2, 2, dtype=torch.long), 8), "N x 2 x dimensions"),
    (lambda: move_points(all_pairs(8, 1), 8, torch.Generator(), border="torus"), "'ring' or 'clip'"),
])  # fmt: skip
def test_refuses_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()

"""Outlines of textured blobs: discs by their formula, outlines by a plain loop, textures by their spectra."""

import math

import numpy as np
import pytest
import torch

from spatialkit.data import BlobOutlines, oriented_textures, outline
from spatialkit.data.oriented import CASES

SIDE = 48


@pytest.fixture(scope="module")
def textures():
    return oriented_textures(6, side=64, seed=3)


@pytest.mark.parametrize("shape", [(7, 9), (2, 1, 6, 5)])
def test_an_outline_is_what_the_words_say(shape):
    inside = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.6
    found = outline(inside).reshape(-1, *shape[-2:])
    H, W = shape[-2:]
    for one, edge in zip(inside.reshape(-1, H, W), found, strict=True):
        for y in range(H):
            for x in range(W):
                near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                differs = any(0 <= j < H and 0 <= i < W and one[j, i] != one[y, x] for j, i in near)
                assert bool(edge[y, x]) == differs


def test_without_wobble_blobs_are_discs_with_outlines_one_pixel_to_either_side():
    task = BlobOutlines("I", side=64, blobs=(1, 1), radius=(9.0, 9.0), wobble=0.0)
    images, targets = task.draw(30)
    y, x = np.mgrid[:64, :64]
    whole = 0
    for i in range(30):
        rng = np.random.default_rng([0, i, 0])
        rng.integers(1, 2)
        cy, cx = rng.uniform(0, 63, 2)
        distance = np.hypot(x - cx, y - cy)
        assert (images[i, 0].numpy() == (distance < 9)).all()
        lit = distance[targets[i, 0].numpy()]
        assert lit.max() < 10 and lit.min() >= 8  # a neighbour, one pixel away, is on the other side
        if min(cx, cy) > 10 and max(cx, cy) < 53:
            whole += 1
            assert abs(images[i].sum() - math.pi * 81) < 12  # lattice points in a disc: the circle problem
            # Either side has max(|n_x|, |n_y|) pixels per px of the circle, n its normal: 8 r / sqrt 2 in all.
            assert abs(targets[i].sum() - 2 * 8 * 9 / math.sqrt(2)) < 6
    assert whole > 5


def test_radii_stay_within_the_wobble():
    task = BlobOutlines("I", side=96, blobs=(1, 1), radius=(20.0, 20.0), wobble=0.5, seed=2)
    seen = []
    for i in range(20):
        rng = np.random.default_rng([2, i, 0])
        rng.integers(1, 2)
        cy, cx = rng.uniform(0, 95, 2)
        edge = task.draw(1, start=i)[1][0, 0].numpy()
        y, x = np.nonzero(edge)
        seen.append(np.hypot(x - cx, y - cy))
    radii = np.concatenate(seen)
    assert radii.min() >= 20 * 0.5 - 1 and radii.max() < 20 * 1.5 + 1 and radii.std() > 1


@pytest.mark.parametrize("case", CASES)
def test_an_image_depends_on_seed_and_number_alone(case, textures):
    task = BlobOutlines(case, side=SIDE, textures=textures, seed=5)
    images, targets = task.draw(6)
    later, targets_later = task.draw(2, start=4)
    assert later.equal(images[4:]) and targets_later.equal(targets[4:])
    assert images.shape == targets.shape == (6, 1, SIDE, SIDE)
    assert images.dtype == torch.float32 and targets.dtype == torch.bool
    assert not BlobOutlines(case, side=SIDE, textures=textures, seed=6).draw(1)[0].equal(images[:1])
    assert images.min() >= 0 and images.max() <= 1


def test_blobs_are_the_same_in_all_cases(textures):
    drawn = [BlobOutlines(case, side=SIDE, textures=textures).draw(4) for case in CASES]
    assert drawn[0][1].any() and all(targets.equal(drawn[0][1]) for _, targets in drawn)
    inside = drawn[0][0].bool()
    assert outline(inside).equal(drawn[0][1])


def test_the_size_of_the_gradient_solves_case_i_alone(textures):
    metrics = pytest.importorskip("sklearn.metrics")
    precision = {}
    for case in CASES:
        images, targets = BlobOutlines(case, side=SIDE, textures=textures).draw(20)
        size = torch.hypot(*torch.gradient(images[:, 0], dim=(1, 2)))
        precision[case] = metrics.average_precision_score(targets.flatten(), size.flatten())
        chance = float(targets.float().mean())  # the blobs, and so the targets, are those of every case
    assert precision["I"] > 0.95
    assert 0.8 * chance < precision["III"] < precision["II"] < 3 * chance < 0.4


def test_case_ii_is_filled_with_two_textures_as_they_are():
    levels = torch.tensor([0.2, 0.5, 0.9])
    flat = levels[:, None, None].expand(3, SIDE, SIDE).contiguous()
    images, _ = BlobOutlines("II", side=SIDE, textures=flat).draw(60)
    inside = BlobOutlines("I", side=SIDE).draw(60)[0].bool()
    pairs = set()
    for image, blob in zip(images, inside, strict=True):
        values = image[blob].unique().tolist(), image[~blob].unique().tolist()
        assert len(values[0]) == len(values[1]) == 1 and values[0] != values[1]
        pairs.add((values[0][0], values[1][0]))
    assert len(pairs) == 6  # both orders of all three


def test_cut_outs_are_anywhere_and_turned():
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    stack = torch.stack([(x + y) / 200, 0.5 + x / 200])
    task = BlobOutlines("II", side=32, textures=stack, blobs=(1, 1), radius=(0.1, 0.1))  # next to nothing but ground
    images = task.draw(60)[0].double()
    steps = {
        (round(float((i[0, 0, 1] - i[0, 0, 0]) * 200)), round(float((i[0, 1, 0] - i[0, 0, 0]) * 200))) for i in images
    }
    assert steps == {(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)}
    assert len({float(image[0, 0, 0]) for image in images}) > 20


def test_case_iii_has_one_histogram(textures):
    task = BlobOutlines("III", side=SIDE, textures=textures)
    for stream in range(3):
        for cut in task._fillings(np.random.default_rng(stream)):
            np.testing.assert_allclose(np.sort(cut.ravel()), np.linspace(0, 1, SIDE * SIDE), atol=1e-12)
    images = task.draw(60)[0]
    inside = BlobOutlines("I", side=SIDE).draw(60)[0].bool()
    difference = torch.tensor([float(i[b].mean() - i[~b].mean()) for i, b in zip(images, inside, strict=True)])
    plain = BlobOutlines("II", side=SIDE, textures=textures).draw(60)[0]
    as_they_are = torch.tensor([float(i[b].mean() - i[~b].mean()) for i, b in zip(plain, inside, strict=True)])
    assert difference.abs().mean() < 0.5 * as_they_are.abs().mean()


def test_the_order_of_grey_values_is_kept_in_case_iii(textures):
    second, third = (
        BlobOutlines(case, side=SIDE, textures=textures)._fillings(np.random.default_rng(0)) for case in ("II", "III")
    )
    for plain, ranked in zip(second, third, strict=True):
        assert (np.diff(ranked.ravel()[plain.ravel().argsort(kind="stable")]) > 0).all()


@pytest.mark.parametrize("side", [64, 101])
def test_textures_are_bands_about_their_wave_vector(side):
    textures = oriented_textures(8, side, seed=1).double()
    low, high = np.array([[-4.5, -2], [0, math.pi], [0.2, 0.5], [0.1, 0.6], [0.35, 0.65], [0.1, 0.22]]).T
    for i, texture in enumerate(textures):
        log2_f, angle, _, spread, mean, deviation = np.random.default_rng([1, i]).uniform(low, high)
        power = torch.fft.fft2(texture - texture.mean()).abs().square()
        ky, kx = torch.fft.fftfreq(side, dtype=torch.float64)[:, None], torch.fft.fftfreq(side, dtype=torch.float64)
        doubled = 2 * torch.atan2(-ky, kx)  # lines: angles modulo pi
        found = torch.atan2((power * doubled.sin()).sum(), (power * doubled.cos()).sum()) / 2
        assert abs((float(found) - angle + math.pi / 2) % math.pi - math.pi / 2) < 0.05 + 0.35 * spread
        centre = float((power * (kx**2 + ky**2).sqrt().clamp(min=1e-9).log2()).sum() / power.sum())
        assert abs(centre - log2_f) < 0.6
        assert float(texture.mean()) == pytest.approx(mean, abs=0.02)
        assert float(texture.std()) == pytest.approx(deviation, rel=0.1)  # clipping takes a little


def test_textures_of_a_seed_do_not_depend_on_their_number():
    assert oriented_textures(3, 32).equal(oriented_textures(5, 32)[:3])
    assert not oriented_textures(1, 32, seed=1).equal(oriented_textures(1, 32))


def test_default_textures_fill_large_images():
    images, targets = BlobOutlines("II", side=140).draw(1)
    assert images.shape == (1, 1, 140, 140) and targets.any()


@pytest.mark.parametrize("arguments, match", [
    ({"case": "IV"}, "case must be one of I, II, III; got 'IV'"),
    ({"side": 7}, "need 8 px"),
    ({"blobs": (0, 2)}, "at least 1 blob"),
    ({"blobs": (3, 2)}, "smaller first"),
    ({"radius": (0.0, 2.0)}, "a radius above 0"),
    ({"wobble": 1.0}, "wobble must be from 0 to below 1"),
    ({"seed": -1}, "seed at least 0"),
    ({"textures": torch.rand(1, 64, 64)}, r"at least 2 of at least 48 px; got \(1, 64, 64\)"),
    ({"textures": torch.rand(2, 40, 64)}, "at least 48 px"),
    ({"textures": torch.rand(2, 1, 64, 64)}, r"must be \(T, h, w\)"),
    ({"textures": torch.zeros(2, 64, 64, dtype=torch.uint8)}, "torch.uint8"),
    ({"textures": torch.full((2, 64, 64), 2.0)}, r"float in 0\.\.1"),
])  # fmt: skip
def test_refuses_bad_tasks(arguments, match):
    with pytest.raises(ValueError, match=match):
        BlobOutlines(**{"case": "II", "side": SIDE, **arguments})


def test_refuses_bad_counts():
    with pytest.raises(ValueError, match="n must be at least 1 and start at least 0, got 0 and 0"):
        BlobOutlines("I").draw(0)
    with pytest.raises(ValueError, match="got 1 and -1"):
        BlobOutlines("I").draw(1, start=-1)
    for arguments in ((0, 32), (1, 15), (1, 32, -1)):
        with pytest.raises(ValueError, match="need n of at least 1"):
            oriented_textures(*arguments)

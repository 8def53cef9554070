"""Thinning against scikit-image and by what it must keep; suppression on ridges whose crest is known."""

import numpy as np
import pytest
from scipy import ndimage

from spatialkit.measure.ridges import ridges, thinned

EIGHT = np.ones((3, 3))


def random_map(share, shape=(40, 57), seed=0):
    return np.random.default_rng(seed).random(shape) < share


def drawn(shape=(60, 71), seed=0, thickness=2.0):
    """Thick random curves: places where a smooth field is near a level."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 6)
    slope = np.hypot(*np.gradient(field))
    return np.abs(field) < thickness * slope


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(40, 57), (1, 30), (3, 3)])
def test_thinning_is_that_of_scikit_image(share, shape):
    morphology = pytest.importorskip("skimage.morphology")
    image = random_map(share, shape)
    assert (thinned(image) == morphology.thin(image)).all()
    assert (thinned(drawn()) == morphology.thin(drawn())).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_thinning_keeps_parts_and_holes(seed):
    before = drawn(seed=seed)
    after = thinned(before)
    assert (after <= before).all() and after.sum() < 0.6 * before.sum()
    assert ndimage.label(after, EIGHT)[1] == ndimage.label(before, EIGHT)[1]
    assert ndimage.label(~np.pad(after, 1))[1] == ndimage.label(~np.pad(before, 1))[1]
    assert (thinned(after) == after).all()


def test_a_thick_line_becomes_its_middle():
    image = np.zeros((11, 40), bool)
    image[3:8, 5:35] = True
    rows = {tuple(np.flatnonzero(column)) for column in thinned(image).T[8:32]}
    assert rows == {(5,)}


def test_thinning_leaves_its_argument_alone():
    image = drawn()
    copy = image.copy()
    thinned(image)
    assert (image == copy).all()


@pytest.mark.parametrize("image", [
    pytest.param(drawn(), id="thick"),
    pytest.param(random_map(0.5), id="noise"),
    pytest.param(np.ones((9, 9), bool), id="full"),
    pytest.param(np.zeros((9, 9), bool), id="empty"),
])  # fmt: skip
def test_a_binary_map_loses_nothing_to_suppression(image):
    assert (ridges(image.astype(float)) == image).all()


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 110, 160])
def test_of_a_smooth_ridge_the_crest_stays(degrees):
    y, x = np.mgrid[:41, :41] - 20.0
    normal = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    distance = x * normal[0] + y * normal[1]
    ridge = np.exp(-(distance**2) / (2 * 3.0**2))
    inner = np.hypot(x, y) < 15
    kept = ridges(ridge) > 0
    assert (np.abs(distance[kept & inner]) < 1.1).all()  # half a step, and what 1 % of height allows near the crest
    assert kept[inner & (np.abs(distance) < 0.4)].all()
    assert (ridges(ridge)[kept] == ridge[kept]).all()

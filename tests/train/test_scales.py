"""Scale detection as a problem: images and labels against plain loops."""

import math

import pytest
import torch

from spatialkit.train import scale_task
from spatialkit.train.scales import hinge_loss

SMALL = {"size": 8, "xi": 4.0, "gap": 1.0, "n_train": 60, "n_validation": 40, "n_test": 30}
PARTS = ("train", "validation", "test")


@pytest.mark.parametrize("seed", [0, 3])
def test_images_have_two_points_whose_distance_is_the_label(seed):
    problem = scale_task(**SMALL, seed=seed)
    for part in PARTS:
        images, labels = getattr(problem, part)
        for image, label in zip(images, labels, strict=True):
            (r, c), (s, d) = image[0].nonzero().tolist()
            distance = math.hypot(r - s, c - d)
            assert (label == 1 and distance < 3.5) or (label == -1 and distance >= 4.5)
    assert [len(getattr(problem, part)[0]) for part in PARTS] == [60, 40, 30]
    labels = torch.cat([problem.train[1], problem.validation[1]])
    assert labels.sum() == problem.test[1].sum() == 0  # as many of each class


def test_no_image_is_in_two_parts():
    problem = scale_task(**SMALL)
    images = torch.cat([getattr(problem, part)[0] for part in PARTS]).flatten(1)
    assert len(images.unique(dim=0)) == len(images) == 130


@pytest.mark.parametrize("size", [7, 8])
def test_the_mean_of_an_image_is_one_by_default(size):
    images = scale_task(**(SMALL | {"size": size})).validation[0]
    assert images.max().item() == pytest.approx(size**2 / 2, rel=1e-6)
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), torch.ones(40))
    norm = scale_task(**(SMALL | {"size": size}), brightness=1.0).validation[0].square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(norm, torch.ones(40))


def test_brightness_is_a_factor():
    bright, dim = (scale_task(**SMALL, brightness=b) for b in (6.0, 2.0))
    for part in PARTS:
        torch.testing.assert_close(getattr(bright, part)[0], 3 * getattr(dim, part)[0])
        assert torch.equal(getattr(bright, part)[1], getattr(dim, part)[1])


def test_task_two_asks_for_the_same_patch():
    images, labels = scale_task(**(SMALL | {"task": 2, "n_test": 10})).train
    for image, label in zip(images, labels, strict=True):
        (r, c), (s, d) = image[0].nonzero().tolist()
        assert (label == 1) == ((r // 4, c // 4) == (s // 4, d // 4))


def test_hinge_loss_is_the_formula():
    outputs, labels = [2.0, 0.5, 0.0, -3.0], [1.0, 1.0, -1.0, 1.0]
    expected = sum(max(0.0, 1 - y * f) for f, y in zip(outputs, labels, strict=True)) / 4
    assert float(hinge_loss(torch.tensor(outputs)[:, None], torch.tensor(labels))) == expected == (0 + 0.5 + 1 + 4) / 4
    problem = scale_task(**SMALL)
    assert (problem.loss, problem.outputs, problem.augment) == (hinge_loss, 1, None)


def test_equal_keys_mean_equal_problems():
    problem, again, other = (scale_task(**SMALL, seed=seed) for seed in (1, 1, 2))
    assert problem.key == again.key != other.key
    assert torch.equal(problem.train[0], again.train[0]) and not torch.equal(problem.train[0], other.train[0])
    keys = {scale_task(**(SMALL | change)).key for change in ({"xi": 3.0}, {"brightness": 2.0}, {"n_test": 32})}
    assert len(keys | {problem.key}) == 4


@pytest.mark.parametrize(("arguments", "match"), [
    ({"task": 3}, "task must be 1 or 2, got 3"),
    ({"xi": 0.0}, "xi must be positive"),
    ({"n_train": 61}, "must be even"),
    ({"n_train": 4000}, "need more than"),
    ({"task": 2, "xi": 3.0}, "do not tile 8 px"),
])  # fmt: skip
def test_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        scale_task(**(SMALL | arguments))

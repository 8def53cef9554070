import pytest
import torch

from spatialkit.data import deformed_classes
from spatialkit.deform import ThinPlateSpline, warp


@pytest.fixture
def images():
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def test_without_a_shift_every_example_is_its_class_image(images):
    x, classes = deformed_classes(images, 5, 0.0, seed=1)
    assert torch.equal(classes.bincount(), torch.tensor([5, 5, 5]))
    torch.testing.assert_close(x, images[classes])


def test_each_example_is_its_class_image_under_a_field_of_its_own(images):
    x, classes = deformed_classes(images, 4, 1.5, seed=2)
    fields = ThinPlateSpline(3, 1.5).sample(12, 12, seed=2)
    torch.testing.assert_close(x, warp(images[classes], fields))
    assert len(x.flatten(1).unique(dim=0)) == 12


def test_another_seed_gives_other_examples_of_the_same_classes(images):
    (first, _), (second, _) = (deformed_classes(images, 4, 1.0, seed=s) for s in (0, 1))
    assert not torch.isin(first.flatten(1).sum(1), second.flatten(1).sum(1)).any()


def test_stronger_deformations_are_farther_from_the_class_image(images):
    distances = []
    for shift in (0.5, 1.0, 2.0, 4.0):
        x, classes = deformed_classes(images, 50, shift, seed=0)
        distances.append(float((x - images[classes]).square().mean()))
    assert distances == sorted(distances)


@pytest.mark.parametrize("shape, n, message", [
    ((3, 1, 12, 10), 1, "K x C x n x n"),
    ((0, 1, 12, 12), 1, "K at least 1"),
    ((3, 1, 12, 12), 0, "n_per_class must be at least 1"),
])  # fmt: skip
def test_refuses_bad_input(shape, n, message):
    with pytest.raises(ValueError, match=message):
        deformed_classes(torch.zeros(shape), n, 1.0, seed=0)
    with pytest.raises(ValueError, match="float"):
        deformed_classes(torch.zeros(1, 1, 12, 12, dtype=torch.uint8), 2, 1.0, seed=0)

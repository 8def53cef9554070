"""Data sets as problems: nothing is in two parts, nothing of the test depends on the seed."""

import json

import numpy as np
import pytest
import torch

from spatialkit import data
from spatialkit.train import classification
from spatialkit.train.classes import shift_and_flip

SMALL = {"n_train": 40, "n_validation": 30, "n_test": 20}


def standardised(name, split):
    """The oracle: by mean and standard deviation of all training images, in float64."""
    train, images = (data.load(name, part).images.numpy().astype(np.float64) for part in ("train", split))
    axes = (0, 2, 3)
    return (images - train.mean(axes, keepdims=True)) / train.std(axes, keepdims=True)


@pytest.mark.parametrize("name", ["digits", "photographs"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_training_image_is_in_one_part_standardised_by_all(name, seed):
    problem = classification(name, n_validation=100, seed=seed)
    expected = standardised(name, "train")
    assert len(problem.train[0]) == len(expected) - 100 and len(problem.validation[0]) == 100
    x = torch.cat([problem.train[0], problem.validation[0]])
    y = torch.cat([problem.train[1], problem.validation[1]])
    assert len(x.flatten(1).unique(dim=0)) == len(expected)  # none twice, so none in two parts
    order = torch.randperm(len(expected), generator=torch.Generator().manual_seed(seed))
    assert sorted(order.tolist()) == list(range(len(expected)))
    np.testing.assert_allclose(x.numpy(), expected[order], atol=2e-6)  # float32, values up to about 3
    assert torch.equal(y, data.load(name).labels[order])
    assert (problem.outputs, x.dtype) == (len(data.load(name).classes), torch.float32)


@pytest.mark.parametrize("name", ["digits", "photographs"])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_the_test_set_is_the_same_for_every_seed_and_split(name, noise):
    problems = [classification(name, **SMALL, noise=noise, seed=seed) for seed in (0, 1)]
    problems.append(classification(name, n_train=9, n_validation=1, n_test=20, noise=noise, seed=2))
    for problem in problems:
        assert torch.equal(problem.test[0], problems[0].test[0])
        assert torch.equal(problem.test[1], data.load(name, "test").labels[:20])
    assert not torch.equal(problems[0].train[0], problems[1].train[0])
    if not noise:
        whole = classification(name, n_validation=100)
        np.testing.assert_allclose(whole.test[0].numpy(), standardised(name, "test"), atol=2e-6)
        assert torch.equal(whole.test[0][:20], problems[0].test[0])


def test_a_part_of_the_training_images_is_drawn_from_all():
    problem = classification("digits", **SMALL, seed=4)
    order = torch.randperm(1297, generator=torch.Generator().manual_seed(4))
    for (images, labels), chosen in ((problem.train, order[:40]), (problem.validation, order[40:70])):
        np.testing.assert_allclose(images.numpy(), standardised("digits", "train")[chosen], atol=2e-6)
        assert torch.equal(labels, data.load("digits").labels[chosen])


def test_noise_has_its_norm_in_all_parts_and_is_another_in_each():
    noises = {}
    for seed in (0, 1):
        clean, noisy = (classification("digits", **SMALL, noise=noise, seed=seed) for noise in (0, 5.0))
        for part in ("train", "validation", "test"):
            noises[part, seed] = getattr(noisy, part)[0] - getattr(clean, part)[0]
    for part, seed in noises:
        noise = noises[part, seed].flatten(1).double()
        # 64 pixels per image: the mean square norm varies by sqrt(2 / pixels) of itself; 4 times that is allowed.
        assert float(noise.square().sum(dim=1).mean()) == pytest.approx(25, rel=4 * (2 / noise.numel()) ** 0.5)
    assert torch.equal(noises["test", 0], noises["test", 1])
    rows = [n for (part, seed), n in noises.items() if (part, seed) != ("test", 1)]
    rows = torch.nn.functional.normalize(torch.cat(rows).flatten(1))
    cosines = (rows @ rows.T).fill_diagonal_(0)
    assert cosines.abs().max() < 0.8  # of independent ones about N(0, 1 / 64): 0.8 is over 6 standard deviations


def test_equal_keys_mean_equal_problems():
    problem = classification("digits", **SMALL)
    again = classification("digits", **{name: np.int64(value) for name, value in SMALL.items()})
    assert problem.key == again.key and torch.equal(problem.train[0], again.train[0])
    others = [{"seed": 1}, {"noise": 0.5}, {"n_train": 41}, {"n_validation": 31}, {"n_test": 21}]
    keys = {classification("digits", **(SMALL | other)).key for other in others}
    keys.add(classification("photographs", **SMALL).key)
    assert len(keys | {problem.key}) == 7
    assert data.load("digits").sha256 in json.loads(problem.key)


@pytest.mark.parametrize(("shape", "shift"), [((50, 2, 5, 7), 3), ((30, 1, 8, 8), 4), ((9, 3, 6, 6), 0)])
def test_shift_and_flip_agrees_with_a_plain_loop(shape, shift):
    n, channels, height, width = shape
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = shift_and_flip(images, torch.Generator().manual_seed(5), shift)
    generator = torch.Generator().manual_seed(5)
    top, left = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator).squeeze(-1).tolist()
    mirrored = torch.randint(0, 2, (n, 1), generator=generator).squeeze(-1).tolist()
    for i in range(n):
        expected = torch.zeros(channels, height, width, dtype=torch.float64)
        for row in range(height):
            for column in range(width):
                r = row + top[i] - shift
                c = (width - 1 - column if mirrored[i] else column) + left[i] - shift
                if 0 <= r < height and 0 <= c < width:
                    expected[:, row, column] = images[i, :, r, c]
        assert torch.equal(moved[i], expected)


def test_moves_of_shift_and_flip_are_uniform():
    image = torch.zeros(1, 1, 21, 21)
    image[..., 10, 10], image[..., 10, 11] = 1, 2
    moved = shift_and_flip(image.expand(20_000, -1, -1, -1), torch.Generator().manual_seed(0))
    where = (moved[:, 0] == 1).flatten(1).max(dim=1).indices
    rows, columns = where // 21, where % 21
    mirrored = (moved[:, 0] == 2).flatten(1).max(dim=1).indices < where
    # Of 20,000 draws a share p varies by sqrt(p (1 - p) / 20,000): 0.0022 for 1/9, 0.0035 for 1/2; 4 times that.
    for places in (rows, columns):
        shares = places.bincount(minlength=21)[6:15] / 20_000
        assert float(shares.sum()) == pytest.approx(1)
        assert (shares - 1 / 9).abs().max() < 0.009
    assert float(mirrored.float().mean()) == pytest.approx(0.5, abs=0.014)
    correlations = torch.corrcoef(torch.stack([rows, columns, mirrored]).double())
    assert correlations.triu(1).abs().max() < 4 / 20_000**0.5  # each varies by 1 / sqrt(20,000)


def test_shift_and_flip_draws_from_its_generator_alone():
    images = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before, state = images.clone(), torch.get_rng_state()
    first, again, other = (shift_and_flip(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(shift_and_flip(images, generator), shift_and_flip(images, generator))


def test_training_images_are_shifted_and_flipped():
    assert classification("digits", **SMALL).augment is shift_and_flip


@pytest.mark.parametrize(("arguments", "match"), [
    ({"n_train": 0}, "counts must be at least 1, and 0 training images and 30 to validate on at most the 1297 of"),
    ({"n_validation": 0}, "counts must be at least 1"),
    ({"n_test": 0}, "counts must be at least 1"),
    ({"n_train": 1268}, "1268 training images and 30 to validate on at most the 1297 of digits"),
    ({"n_train": None, "n_validation": 1297}, "counts must be at least 1, and 0 training images"),
    ({"noise": -1.0}, r"the norm of noise must be at least 0, got -1\.0"),
    ({"noise": float("nan")}, "finite numbers"),
    ({"dataset": "numerals"}, "no data set is called 'numerals'"),
])  # fmt: skip
def test_refuses_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        classification(**({"dataset": "digits"} | SMALL | arguments))

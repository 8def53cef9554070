"""What a problem calls an error, and the noise that images get."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spatialkit.train import Problem
from spatialkit.train.problem import noised


class Plain(nn.Module):
    """Puts out its images' pixels, N x outputs."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        assert not self.training
        return images.flatten(1)


def problem(outputs, images, labels, **other):
    empty = torch.zeros(1, 1, 1, outputs), torch.zeros(1)
    parts = {"train": empty, "validation": empty, "test": empty} | other
    tensors = torch.tensor(images).reshape(-1, 1, 1, outputs), torch.tensor(labels)
    return Problem(key="", code={}, outputs=outputs, loss=F.cross_entropy, **(parts | {"test": tensors}))


def test_with_several_outputs_the_largest_is_the_answer():
    outputs = [[3.0, 1, 2], [0, 5, 1], [0, 0, 1], [9, 8, 7]]
    assert problem(3, outputs, [0, 1, 2, 2]).error(Plain()) == 1 / 4
    assert problem(2, [[1.0, 2], [2, 1]], [0, 1]).error(Plain()) == 1


def test_with_one_output_its_sign_is_the_answer():
    outputs = [0.1, 7.0, -0.1, -7.0, 7.0]
    assert problem(1, outputs, [1.0, 1, -1, -1, -1]).error(Plain()) == pytest.approx(1 / 5)
    assert problem(1, [0.0, 0.0], [1.0, -1.0]).error(Plain()) == 1  # no answer is a wrong one


def test_the_error_is_that_of_the_part_and_the_mode_stays():
    part = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1), torch.tensor([1.0, -1.0])
    model = Plain().train()
    assert problem(1, [1.0], [1.0], validation=part).error(model, "validation") == 1 / 2
    assert problem(1, [1.0], [1.0], validation=part).error(model) == 0
    assert model.training


@pytest.mark.parametrize("shape", [(400, 1, 5, 7), (100, 3, 16, 16)])
@pytest.mark.parametrize("norm", [0.5, 12.0])
def test_noise_has_the_norm_that_was_asked_for(shape, norm):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = (noised(images, norm, seed=3) - images).flatten(1)
    # n pixels in all: the mean square varies by sqrt(2 / n) of itself, the mean by 1 / sqrt(n); 4 times that.
    n, pixel = noise.numel(), norm / noise.shape[1] ** 0.5
    assert float(noise.square().sum(dim=1).mean()) == pytest.approx(norm**2, rel=4 * (2 / n) ** 0.5)
    assert abs(float(noise.mean())) < 4 * pixel / n**0.5
    # White: neighbouring pixels agree by chance alone.
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 4 * pixel**2 / (n - len(noise)) ** 0.5


def test_noise_comes_from_its_seed_and_grows_with_the_norm():
    images = torch.zeros(4, 1, 3, 3)
    assert torch.equal(noised(images, 1.0, 5), noised(images, 1.0, 5))
    assert not torch.equal(noised(images, 1.0, 5), noised(images, 1.0, 6))
    torch.testing.assert_close(noised(images, 3.0, 5), 3 * noised(images, 1.0, 5))
    assert torch.equal(noised(images, 0.0, 5), images)
    with pytest.raises(ValueError, match=r"the norm of noise must be at least 0, got -0\.1"):
        noised(images, -0.1, 0)

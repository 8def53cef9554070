"""Standardising, predicting and errors: by definition, and without side effects."""

import numpy as np
import pytest
import torch
from torch import nn

from spatialkit.models import PlainCNN
from spatialkit.train import error_rate, predict, standardise


def test_standardise_uses_the_training_images_alone():
    train = torch.randint(0, 256, (50, 3, 5, 5), dtype=torch.uint8)
    other = torch.full((2, 3, 5, 5), 7.0)
    a, b = standardise(train, other)
    torch.testing.assert_close(a.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(a.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
    x = train.float()
    expected = (7 - x.mean((0, 2, 3))) / x.std((0, 2, 3))
    torch.testing.assert_close(b[0, :, 0, 0], expected)


def test_predict_leaves_images_and_every_mode_alone():
    images = torch.randn(9, 3)
    before, model = images.clone(), nn.Sequential(nn.ReLU(inplace=True), nn.Dropout())
    model[1].eval()
    predict(model, images, batch=4)
    assert torch.equal(images, before)
    assert model.training and model[0].training and not model[1].training


def test_predict_restores_the_mode_and_joins_the_batches():
    images = torch.randn(20, 1, 6, 6)
    model = PlainCNN((1, 6, 6), 2, depth=2, width=4).train()
    torch.testing.assert_close(predict(model, images, batch=7), model(images))
    assert model.training


def test_bad_input_says_what_is_wrong():
    images, labels = torch.randn(20, 1, 6, 6), torch.arange(20) % 2
    network = lambda: PlainCNN((1, 6, 6), 2, depth=2, width=4)  # noqa: E731
    with pytest.raises(ValueError, match="N x C x H x W"):
        standardise(images[0])
    with pytest.raises(ValueError, match="constant"):
        standardise(torch.zeros(3, 1, 4, 4))
    with pytest.raises(ValueError, match="must be a tensor"):
        standardise(np.zeros((3, 1, 4, 4)))
    with pytest.raises(ValueError, match=r"training images' 3 channels, got \(5, 1, 4, 4\)"):
        standardise(torch.rand(5, 3, 4, 4), torch.rand(5, 1, 4, 4))
    with pytest.raises(ValueError, match="hold nan or inf"):
        standardise(torch.full((3, 1, 4, 4), torch.nan))
    with pytest.raises(ValueError, match="at least one image"):
        predict(network(), images[:0])
    with pytest.raises(ValueError, match="labels must be one per image"):
        error_rate(network(), images, labels[:, None])
    with pytest.raises(ValueError, match="has its training diverged"):
        error_rate(nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2)), images * torch.nan, labels * 0)

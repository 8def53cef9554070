"""Classifying the images of a data set."""

import functools
import json

import torch
import torch.nn.functional as F
from torch import Tensor

from spatialkit import data
from spatialkit.lab import canonical, fingerprint_of_module
from spatialkit.train.problem import Problem, noised

__all__ = ["classification", "shift_and_flip"]

_OF_TRAINING = 10_000  # added to the seed of the noise, so that it is not that of the test images


def classification(
    dataset: str = "cifar10",
    *,
    n_train: int | None = None,
    n_validation: int = 1000,
    n_test: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Problem:
    """A data set of images, with a part of its training images kept out to choose by.

    Images are standardised by all training images of the data set and, while training, shifted by up to 4 pixels
    and mirrored at random. The test set is the same for every seed: the first ``n_test`` images, with the same
    noise.

    Args:
        dataset: A name of `spatialkit.data.load`.
        n_train: Images to train on; by default all but those to validate on.
        n_validation: Images to choose by.
        n_test: Images to test on; by default all.
        noise: Norm of white noise added once to every standardised image, of all three parts.
        seed: Decides which images train and which validate, and the noise of both.

    Raises:
        ValueError: If a count is below 1 or there are too few images.

    References:
        Tomasini et al. (2023), section 2, and Fig C3 for the noise. The source keeps no images to choose by.
    """
    arguments = {name: canonical(value) for name, value in sorted(dict(locals()).items())}
    train, test = data.load(dataset, "train"), data.load(dataset, "test")
    n_train = len(train) - n_validation if n_train is None else n_train
    if min(n_train, n_validation, 1 if n_test is None else n_test) < 1 or n_train + n_validation > len(train):
        raise ValueError(
            f"counts must be at least 1, and {n_train} training images and {n_validation} to validate on "
            f"at most the {len(train)} of {dataset}"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    chosen = order[: n_train + n_validation]
    mean, deviation = _moments(train)
    x, x_test = ((images.float() - mean) / deviation for images in (train.images[chosen], test.images[:n_test]))
    x, x_test = noised(x, noise, _OF_TRAINING + seed), noised(x_test, noise, 0)
    y = train.labels[chosen]
    return Problem(
        key=json.dumps(["classification", arguments, train.sha256, test.sha256]),
        code={__name__: fingerprint_of_module(__name__)},
        train=(x[:n_train], y[:n_train]),
        validation=(x[n_train:], y[n_train:]),
        test=(x_test, test.labels[:n_test]),
        outputs=len(train.classes),
        loss=F.cross_entropy,
        augment=shift_and_flip,
    )


@functools.cache
def _moments(dataset: data.Dataset) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, 1 x C x 1 x 1; sums over integers, so exact in any order."""
    totals: list = [0, 0]
    for part in dataset.images.split(4096):
        wide = part.long()
        totals = [t + v.sum(dim=(0, 2, 3), keepdim=True) for t, v in zip(totals, (wide, wide**2), strict=True)]
    n = dataset.images[:, 0].numel()
    mean, square = (t.double() / n for t in totals)
    return mean.float(), (square - mean**2).sqrt().float()


def shift_and_flip(images: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """Each image moved by up to ``shift`` pixels along both axes, into zeros, and mirrored half of the time.

    Args:
        images: N x C x H x W.
        generator: On the CPU; all moves are drawn from it.
        shift: Largest move, in px.
    """
    n, _, height, width = images.shape
    padded = F.pad(images, (shift,) * 4).permute(0, 2, 3, 1)
    top, left = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator).to(images.device)
    mirrored = torch.randint(0, 2, (n, 1), generator=generator).to(images.device) > 0
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    columns = torch.where(mirrored, width - 1 - columns, columns)
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded[which, (top + rows)[:, :, None], (left + columns)[:, None, :]].permute(0, 3, 1, 2)

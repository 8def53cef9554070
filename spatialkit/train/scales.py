"""Detecting a scale: whether two active pixels are near each other."""

import json

import torch.nn.functional as F
from torch import Tensor

from spatialkit import data
from spatialkit.lab import canonical, fingerprint_of_module
from spatialkit.train.problem import Problem

__all__ = ["hinge_loss", "scale_task"]


def scale_task(
    *,
    task: int = 1,
    size: int = 32,
    xi: float = 14.0,
    gap: float = 2.0,
    brightness: float | None = None,
    n_train: int = 1024,
    n_validation: int = 1000,
    n_test: int = 2000,
    seed: int = 0,
) -> Problem:
    """Scale detection in two dimensions with the hinge loss, one output.

    Args:
        task, size, xi, gap: See `spatialkit.data.scale_detection`.
        brightness: Factor on the images of `spatialkit.data.two_points`; by default sqrt(n / 2) for n pixels, which
            makes an active pixel n / 2 and the mean over pixels 1, as in the authors' code. It decides how far training
            moves the kernels of a network without normalisation.
        n_train, n_validation, n_test: Images of each part; none is in two parts.
        seed: Of the draw of all three.

    Raises:
        ValueError: As `spatialkit.data.scale_detection`.

    References:
        Tomasini et al. (2023), section 3 and Fig C1, whose numbers are the defaults. The source keeps no images to
        choose by.
    """
    arguments = {name: canonical(value) for name, value in sorted(dict(locals()).items())}
    n = n_train + n_validation
    drawn = data.scale_detection(task=task, size=size, xi=xi, gap=gap, n_train=n, n_test=n_test, seed=seed)
    factor = (size**2 / 2) ** 0.5 if brightness is None else brightness
    x, y = factor * drawn.train.images, drawn.train.labels
    return Problem(
        key=json.dumps(["scale task", arguments]),
        code={__name__: fingerprint_of_module(__name__)},
        train=(x[:n_train], y[:n_train]),
        validation=(x[n_train:], y[n_train:]),
        test=(factor * drawn.test.images, drawn.test.labels),
        outputs=1,
        loss=hinge_loss,
    )


def hinge_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean hinge loss of one output per image, N x 1, and labels of 1 and -1, N."""
    return F.relu(1 - labels * outputs[:, 0]).mean()

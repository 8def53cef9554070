"""How well a linear classifier reads the class of an image off a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from spatialkit.measure.survey import Layer

__all__ = ["Probe", "check_labels"]

_FOLDS = 5
_NUMBERS = 512  # to which a representation is projected, at most


class Probe:
    """Accuracy of a linear classifier on each layer, as a `spatialkit.measure.meters.Measure`.

    A representation of more than 512 numbers is projected at random: each number is added to one of 512 sums, with a
    random sign (a count sketch), so that memory grows by 2 kB an image and layer. Ridge regression on the classes
    follows, its strength chosen by leave-one-out within the training part of each of five folds.

    Args:
        labels: Class of each image, ``(N,)``.
        seed: Of projections and folds.
    """

    places = False
    blank: Sequence[Mapping] = ({"measure": "linear probe"},)

    def __init__(self, labels: np.ndarray, seed: int = 0):
        self.labels, self.seed = labels, seed

    def __call__(self, layer: Layer) -> _Meter:
        return _Meter(self.labels, self.seed)


class _Meter:
    """The projected representations of one layer."""

    def __init__(self, labels: np.ndarray, seed: int):
        self.labels, self.seed = labels, seed
        self.features: list[Tensor] = []
        self._place = self._sign = torch.empty(0)

    def add(self, versions: Tensor, first: int) -> None:
        rows = versions[0].detach().flatten(1)
        if rows.is_complex() or not rows.isfinite().all():
            raise ValueError("puts out what no linear classifier can read: complex numbers, nan or inf")
        rows = rows.float()
        if rows.shape[1] > _NUMBERS:
            if not len(self._place):
                draw = torch.Generator().manual_seed(self.seed)
                self._place = torch.randint(_NUMBERS, (rows.shape[1],), generator=draw).to(rows.device)
                self._sign = (torch.randint(2, (rows.shape[1],), generator=draw) * 2.0 - 1).to(rows.device)
            rows = rows.new_zeros(len(rows), _NUMBERS).index_add_(1, self._place, rows * self._sign)
        self.features.append(rows.cpu())

    def rows(self) -> Iterator[dict]:
        right = _predicted(torch.cat(self.features).numpy(), self.labels, self.seed) == self.labels
        low, high = _interval(int(right.sum()), len(right))
        yield {"measure": "linear probe", "value": float(right.mean()), "low": low, "high": high}


def _predicted(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The class of each image, by a classifier that has not seen it."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(min(_FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed)
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-1, 5, 7)))
    return cross_val_predict(classifier, features, labels, cv=folds)


def _interval(k: int, n: int) -> tuple[float, float]:
    """Of a share of independent trials (Clopper and Pearson); folds make them not quite independent."""
    from scipy.stats import binomtest

    found = binomtest(k, n).proportion_ci()
    return float(found.low), float(found.high)


def check_labels(labels: Tensor | Sequence[int], n: int) -> np.ndarray:
    """Classes numbered from 0, ``(n,)``.

    Raises:
        ValueError: Unless there is one for each of ``n`` images, and at least two classes with two images each.
    """
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if given.shape != (n,):
        raise ValueError(f"labels must be one class for each of the {n} images, got shape {given.shape}")
    classes, numbered = np.unique(given, return_inverse=True)
    if len(classes) < 2 or np.bincount(numbered).min() < 2:
        raise ValueError("a linear probe needs two classes or more, with two images each or more: leave labels out")
    return numbered

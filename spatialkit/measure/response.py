"""How strongly every layer of a network responds to perturbed images, in one pass over them.

With f what a layer puts out for one image, x_1 ... x_P the images and x'_i perturbed ones, the *mean square* is::

    S = mean_i ||f(x'_i) - f(x_i)||^2 / mean_(i != j) ||f(x_i) - f(x_j)||^2

It is called D if x' is deformed and G if it is noised as strongly, and R = D / G. The *cosine* is::

    mean_i dcos(f(x'_i), f(x_i)) / median_(i < j) dcos(f(x_i), f(x_j)),    dcos(a, b) = 1 - a . b / (||a|| ||b||)

Intervals come from the Poisson bootstrap over images (see `spatialkit.measure.spread`). All measures share the
resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spatialkit.measure.calls import check_images
from spatialkit.measure.meters import measured
from spatialkit.measure.perturbations import FieldFamily, Noise, Perturbation, named
from spatialkit.measure.spread import Scratch, Spread, ratio, weights
from spatialkit.measure.survey import Layer

__all__ = ["Responses", "sensitivity"]

_NORMALISERS = ("mean square", "cosine")


def sensitivity(
    model: nn.Module,
    images: Tensor,
    perturbations: FieldFamily | Perturbation | Mapping[str, Perturbation | FieldFamily],
    layers: str | Sequence[str] | None = None,
    *,
    normalise: Sequence[str] = _NORMALISERS,
    pairs: int = 128,
    batch: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Response of every layer to perturbations of the images, relative to how much images differ in it.

    The images pass once, each beside its perturbed versions, in evaluation mode; what a layer puts out is measured
    before the next one runs. A few of them pass before, twice and in batches of two sizes: a layer has values only if
    it saw every image once, on its own. Kept are a few arrays as large as one representation per layer, and the
    representations of ``pairs`` images until all of these are through: memory does not grow with the number of images.
    The same image is perturbed and resampled in the same way whatever ``batch`` is. ::

        fields = Diffeomorphism.of_rms(1, cutoff=3, size=32)
        table = sensitivity(model, images, fields)
        table.query("measure == 'R'").plot("layer", "value")

    Args:
        model: Any network; it stays in the mode it is in. A compiled one runs uncompiled.
        images: What it takes, first axis images; at least 2.
        perturbations: Fields to deform the images by, such as `spatialkit.deform.Diffeomorphism`, for D, G and R; or
            perturbations by name, such as ``{"turn": Rotation(10)}`` (see `spatialkit.measure.perturbations`). Fields,
            or one perturbation by itself, stand for ``{"D": Deformation(fields), "G": Noise(like="D")}``.
        layers: ``"leaves"``, the default: ``input``, the images themselves, and all modules in which no other runs.
            ``"blocks"``: ``input`` and the modules in which others run, such as residual and transformer blocks, and
            stages. Or a list of names of modules, and ``input`` (see `spatialkit.measure.calls`).
        normalise: ``"mean square"``, ``"cosine"`` or both (see the module).
        pairs: How many of the first images make the pairs of the median, and the reference. Lower it for a network
            whose representations of that many images do not fit into memory.
        batch: Images at a time; as many of each perturbation come with them. On a GPU, take more.
        seed: Of all random numbers.

    Returns:
        One row per layer and measure, layers in the order of their outputs, with the columns of
        `spatialkit.measure.tables`: ``value`` without unit; ``low`` and ``high``, the central 95 % of the bootstrap
        over images (see the module). With ``normaliser`` "mean square", ``measure`` is G for noise and D for all other
        perturbations, and, for noise like another perturbation, R, their ratio, whose ``perturbation`` names both, as
        in "D / G". With ``normaliser`` "cosine", ``measure`` is cosine.
        nan where the denominator is 0, as of D where all representations are equal, and for layers that cannot be
        measured: ``why`` says why. An image with a representation of zeros has no direction and stays out of cosines.

    Raises:
        ValueError: If there are under 2 images, no perturbation, or one that does not fit them; if ``normalise``,
            ``pairs``, ``batch`` or ``seed`` is none of the above, or a layer is unknown; if a layer asked for by name
            cannot be measured: if it puts out nothing, no axis of its output is images, it mixes images or is random,
            or puts out something complex, not finite or too large to square.

    References:
        D, G, R: Tomasini et al. (2023), eq. 1; the authors' code pairs each image with itself, too, so that its D
        and G are P / (P - 1) times ours. Cosine: "Learned Deformation Stability in Convolutional Neural Networks"
        (2018), section 2.1: the mean over 128 images over the median of all their pairs.
    """
    perturbations = named(perturbations)
    _check(images, normalise, pairs, batch, seed)
    responses = Responses(perturbations, normalise, min(pairs, len(images)), seed)
    return measured(model, images, layers, [responses], perturbations, own_input=True, batch=batch, seed=seed)


class Responses:
    """D, G, R and cosines, as a `spatialkit.measure.meters.Measure`.

    Args:
        perturbations: By name: the first of the pass, in its order.
        normalise, seed: As for `sensitivity`.
        pairs: How many of the first images make the pairs of the median, and the reference; at most all.
    """

    places = False

    def __init__(self, perturbations: Mapping[str, Perturbation], normalise: Sequence[str], pairs: int, seed: int):
        self.perturbations, self.normalise, self.seed = perturbations, normalise, seed
        self.blank = _names(perturbations, normalise)
        self._first_weights, self._scratch = weights(range(pairs), seed), Scratch()
        self._known: tuple[tuple, Tensor] = ((), self._first_weights)

    def __call__(self, layer: Layer) -> _Meter:
        return _Meter(
            self, Spread(len(self.perturbations), "cosine" in self.normalise, self._first_weights, self._scratch)
        )

    def weights(self, first: int, n: int, device: torch.device) -> Tensor:
        """How often these images count in each resample: drawn for the first layer, kept for the others."""
        if self._known[0] != (first, n, device):
            self._known = (first, n, device), weights(range(first, first + n), self.seed).to(device)
        return self._known[1]


class _Meter:
    """The sums of one layer, and the rows that they make."""

    def __init__(self, responses: Responses, spread: Spread):
        self.responses, self.spread = responses, spread

    def add(self, versions: Tensor, first: int) -> None:
        versions = versions[: 1 + len(self.responses.perturbations)]
        self.spread.add(versions, self.responses.weights(first, versions.shape[1], versions.device))

    def rows(self) -> Iterator[dict]:
        """For all images, and by resamples."""
        values = _measures(self.spread, self.responses.perturbations, self.responses.normalise)
        for names, each in zip(self.responses.blank, values, strict=True):
            known, resampled = np.isfinite(each[0]), each[1:][np.isfinite(each[1:])]
            low, high = np.quantile(resampled, [0.025, 0.975]) if known and len(resampled) else (np.nan, np.nan)
            row = {**names, "value": each[0], "low": low, "high": high}
            if not known:
                why = "the noise is of length 0" if names["measure"] == "R" else "no two images differ in this layer"
                row["why"] = why
            yield row


def _names(perturbations: Mapping[str, Perturbation], normalise: Sequence[str]) -> list[dict]:
    """Perturbation, normaliser and measure of each row of a layer, in the order of `_measures`."""
    rows = []
    if "mean square" in normalise:
        rows += [(name, "mean square", "G" if isinstance(p, Noise) else "D") for name, p in perturbations.items()]
        rows += [(f"{like} / {name}", "mean square", "R") for name, like in _noises(perturbations)]
    if "cosine" in normalise:
        rows += [(name, "cosine", "cosine") for name in perturbations]
    return [dict(zip(("perturbation", "normaliser", "measure"), row, strict=True)) for row in rows]


def _measures(
    spread: Spread, perturbations: Mapping[str, Perturbation], normalise: Sequence[str]
) -> Iterator[np.ndarray]:
    """Each measure of a layer for all images and for each resample."""
    if "mean square" in normalise:
        squares = dict(zip(perturbations, spread.squares(), strict=True))
        between = spread.mean_square_of_pairs()
        yield from (ratio(square, between) for square in squares.values())
        yield from (ratio(squares[like], squares[name]) for name, like in _noises(perturbations))
    if "cosine" in normalise:
        yield from (ratio(cosine, spread.median_cosine_of_pairs()) for cosine in spread.cosines())


def _noises(perturbations: Mapping[str, Perturbation]) -> list[tuple[str, str]]:
    """Names of noises that are like another perturbation, and of that."""
    return [(name, p.like) for name, p in perturbations.items() if isinstance(p, Noise) and p.like is not None]


def _check(images, normalise, pairs, batch, seed) -> None:
    check_images(images, least=2)
    if isinstance(normalise, str) or not normalise or not set(normalise) <= set(_NORMALISERS):
        raise ValueError(f"normalise must list one or both of {', '.join(_NORMALISERS)}; got {normalise!r}")
    if pairs < 2:
        raise ValueError(f"pairs must be at least 2 images, got {pairs}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")

"""How strongly every layer of a network responds to perturbed images, in one pass over them.

With f what a layer puts out for one image, x_1 ... x_P the images and x'_i perturbed ones, the *mean square* is::

    S = mean_i ||f(x'_i) - f(x_i)||^2 / mean_(i != j) ||f(x_i) - f(x_j)||^2

It is called D if x' is deformed and G if it is noised as strongly, and R = D / G. The *cosine* is::

    mean_i dcos(f(x'_i), f(x_i)) / median_(i < j) dcos(f(x_i), f(x_j)),    dcos(a, b) = 1 - a . b / (||a|| ||b||)

Sums suffice for the first: over distinct pairs, the mean of ||f(x_i) - f(x_j)||^2 is 2 / (P - 1) times::

    sum_i ||f(x_i) - r||^2 - P ||mean_i f(x_i) - r||^2

for any reference r. Here r is the mean over the first images, so that no large numbers cancel. The median needs the
images side by side, and is taken over all pairs of these first ones.

Intervals come from the Poisson bootstrap: in each of 1000 resamples image i counts Poisson(1) times, and with it
``||f(x'_i) - f(x_i)||^2``, the cosine distance of its pair, ``||f(x_i) - r||^2`` and all its pairs with other images.
The two normalisers follow to first order: the mean over pairs as the mean of ``||f(x_i) - r||^2``, the median by the
share of pairs that come to lie below it (its Bahadur representation). All measures share the resamples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spatialkit.measure.calls import check_images, in_batches, modules_of
from spatialkit.measure.perturbations import FieldFamily, Noise, Perturbation, drawn, named, perturbed
from spatialkit.measure.survey import Layer, Survey, check_layers, survey
from spatialkit.measure.tables import long_table

__all__ = ["sensitivity"]

_NORMALISERS = ("mean square", "cosine")
_RESAMPLES = 1000
_COLUMNS_AT_A_TIME, _VALUES_AT_A_TIME = 2**14, 2**18  # some buffers of them fit into a processor's cache
_VALUES_ON_A_GPU = 2**24
_ROWS_AT_A_TIME = 32  # of the matrix of all pairs


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
    modules = modules_of(model)
    by_name = layers is not None and not isinstance(layers, str)
    own_input = "input" not in modules and (not by_name or "input" in layers)
    watched = [name for name in layers if name != "input"] if by_name and own_input else layers
    if watched or not own_input:
        check_layers(model, watched)
    perturbed(images[:2], perturbations, seed)  # tells what does not fit before the network runs
    found = survey(model, images, watched) if watched != [] else Survey(model, [], {}, strict=True)
    if own_input:
        found.layers.insert(0, Layer("input", "input"))
    pairs = min(pairs, len(images))
    first_weights = _weights(range(pairs), seed)
    meters: dict[str, _Meter] = {}

    def see(layer: Layer, output: Tensor) -> None:
        if layer.name not in meters:
            meters[layer.name] = _Meter(len(perturbations), "cosine" in normalise, first_weights)
        meters[layer.name].update(output, weights)

    def together(parts: Iterator[Tensor]) -> Iterator[Tensor]:
        """Images, then each of their perturbed versions; the input layer is seen here."""
        nonlocal weights
        for start, part in zip(itertools.count(step=batch), parts, strict=False):
            weights = _weights(range(start, start + len(part)), seed).to(part.device)
            all_versions = torch.cat([part, *perturbed(part, perturbations, seed, start).values()])
            if part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last):
                all_versions = all_versions.contiguous(memory_format=torch.channels_last)
            yield all_versions

    weights = first_weights
    with in_batches(model, images, batch) as parts:
        found.read(together(parts), see)
    return long_table(
        row for layer in found.layers for row in _rows(layer, meters.get(layer.name), perturbations, normalise)
    )


def _rows(
    layer: Layer, meter: _Meter | None, perturbations: Mapping[str, Perturbation], normalise: Sequence[str]
) -> Iterator[dict]:
    """The rows of one layer, for all images and for each resample."""
    measures = _names(perturbations, normalise)
    values = [None] * len(measures) if layer.why else _measures(meter, perturbations, normalise)
    for names, each in zip(measures, values, strict=True):
        row = {"layer": layer.name, "depth": layer.depth, **names, "value": np.nan, "why": layer.why}
        if each is not None:
            known, why = np.isfinite(each[0]), layer.note
            resampled = each[1:][np.isfinite(each[1:])]
            low, high = np.quantile(resampled, [0.025, 0.975]) if known and len(resampled) else (np.nan, np.nan)
            if not known:
                why = "the noise is of length 0" if names["measure"] == "R" else "no two images differ in this layer"
            row |= {"value": each[0], "low": low, "high": high, "why": why}
        yield row


def _names(perturbations: Mapping[str, Perturbation], normalise: Sequence[str]) -> list[dict]:
    """Perturbation, normaliser and measure of each row of a layer, in the order of `_measures`."""
    rows = []
    if "mean square" in normalise:
        rows += [(name, "mean square", "G" if isinstance(p, Noise) else "D") for name, p in perturbations.items()]
        rows += [(f"{p.like} / {name}", "mean square", "R") for name, p in _noises(perturbations)]
    if "cosine" in normalise:
        rows += [(name, "cosine", "cosine") for name in perturbations]
    return [dict(zip(("perturbation", "normaliser", "measure"), row, strict=True)) for row in rows]


def _measures(
    meter: _Meter, perturbations: Mapping[str, Perturbation], normalise: Sequence[str]
) -> Iterator[np.ndarray]:
    """Each measure of a layer for all images and for each resample."""
    if "mean square" in normalise:
        squares = dict(zip(perturbations, meter.squares(), strict=True))
        spread = meter.mean_square_of_pairs()
        yield from (_ratio(square, spread) for square in squares.values())
        yield from (_ratio(squares[noise.like], squares[name]) for name, noise in _noises(perturbations))
    if "cosine" in normalise:
        yield from (_ratio(cosine, meter.median_cosine_of_pairs()) for cosine in meter.cosines())


def _noises(perturbations: Mapping[str, Perturbation]) -> list[tuple[str, Noise]]:
    """Noises that are like another perturbation, with their names."""
    return [(name, p) for name, p in perturbations.items() if isinstance(p, Noise) and p.like is not None]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, nan where the whole is 0."""
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    return np.divide(part, whole, out=np.full(shape, np.nan), where=whole > 0)


class _Meter:
    """Sums over images of what one layer puts out, for all images and for each resample.

    Args:
        n_perturbed: Perturbed versions of each image.
        cosine: Whether cosines are asked for.
        first_weights: How often each of the first images counts, ``(pairs, 1 + resamples)``.
    """

    def __init__(self, n_perturbed: int, cosine: bool, first_weights: Tensor):
        self.n_perturbed, self.cosine, self.first_weights = n_perturbed, cosine, first_weights
        self.n_seen = 0
        self._reference: Tensor | None = None  # r, once the first images are through
        self._medians = np.empty(0)  # of the cosine distances of all their pairs
        n_sums = 2 + n_perturbed * (3 if cosine else 1)
        self._totals = first_weights.new_zeros(n_sums, first_weights.shape[1])

    def update(self, output: Tensor, weights: Tensor) -> None:
        """Add what the layer put out for images, then for each of their perturbed versions in the same order."""
        with torch.autocast(output.device.type, enabled=False):
            rows = self._rows(output.detach(), len(weights))  # (versions, n, values)
            n_first = min(max(0, len(self.first_weights) - self.n_seen), len(weights))
            if n_first:
                self._add(rows[:, :n_first], weights[:n_first])
            if n_first < len(weights):
                self._add(rows[:, n_first:], weights[n_first:])

    def squares(self) -> np.ndarray:
        """Mean of ||f(x') - f(x)||^2, shape ``(perturbed, 1 + resamples)``."""
        totals = self._totals.cpu().numpy()
        return _ratio(totals[2 : 2 + self.n_perturbed], totals[1])

    def mean_square_of_pairs(self) -> np.ndarray:
        """Mean of ||f(x_i) - f(x_j)||^2 over all pairs of distinct images, shape ``(1 + resamples,)``."""
        from_reference, count = self._totals.cpu().numpy()[:2]
        spread = from_reference[0] - float(self._from_reference.square().sum()) / self.n_seen
        resampled = _ratio(from_reference, count) * _ratio(count[0], from_reference[0])
        return 2 / (self.n_seen - 1) * max(spread, 0.0) * resampled

    def cosines(self) -> np.ndarray:
        """Mean of dcos(f(x'), f(x)) where it is defined, shape ``(perturbed, 1 + resamples)``."""
        distance, defined = self._totals.cpu().numpy()[2 + self.n_perturbed :].reshape(2, self.n_perturbed, -1)
        return _ratio(distance, defined)

    def median_cosine_of_pairs(self) -> np.ndarray:
        """Median of dcos(f(x_i), f(x_j)) over all pairs of the first images, shape ``(1 + resamples,)``."""
        return self._medians

    def _rows(self, output: Tensor, n: int) -> Tensor:
        """One row of numbers per image, ``(versions, n, values)``, in the order of memory: a view if possible."""
        versions = 1 + self.n_perturbed
        if output.is_complex():
            raise ValueError(f"puts out {str(output.dtype).removeprefix('torch.')}, not real numbers")
        if self.n_seen == 0:
            self._shape = output.shape[1:]
            self._axes = sorted(range(1, output.ndim), key=lambda axis: -output.stride(axis))
        if output.shape[1:] != self._shape:
            raise ValueError(f"puts out {tuple(output.shape[1:])} for some images, {tuple(self._shape)} for others")
        rows = output.permute(0, *self._axes).reshape(versions, n, self._shape.numel())
        wide = rows.dtype in (torch.float64, torch.int32, torch.int64)
        rows = rows.to(torch.float64 if wide else torch.float32)
        if self.n_seen == 0:
            self._first = rows.new_empty(len(self.first_weights), rows.shape[2])
            self._from_reference = torch.zeros_like(rows[0, 0], dtype=torch.float64)  # sum over images of f(x) - r
            self._totals = self._totals.to(rows.device)
        return rows

    def _add(self, rows: Tensor, weights: Tensor) -> None:
        n = rows.shape[1]
        squares = self._squares(rows)  # (2, versions, n)
        change, changed = squares[0, 1:], squares[1, 1:]
        sums = [squares[0, :1], torch.ones_like(squares[0, :1]), change]
        if self.cosine:
            distance = _cosine_distance(squares[1, 0], changed, change)
            defined = distance.isfinite()
            sums += [distance.where(defined, 0), defined]
        self._totals.addmm_(torch.cat(sums), weights)
        if self._reference is None:
            self._first[self.n_seen : self.n_seen + n] = rows[0]
        self.n_seen += n
        if self._reference is None and self.n_seen == len(self._first):
            self._settle()

    def _settle(self) -> None:
        """With the first images together: their mean, their distances from it, and those of all their pairs."""
        first, self._first = self._first, None
        origin = first[0]
        self._reference = torch.cat(
            [origin[k] + (first[:, k] - origin[k]).mean(0) for k in _cuts(first.shape[1], len(first), first.device)]
            or [origin]
        )
        weights = self.first_weights.to(first.device)
        from_reference, clean = self._squares(first[None])[:, 0]
        self._totals[0] += from_reference @ weights
        if self.cosine:
            self._medians = _medians(_cosine_distances(first, clean.sqrt()), clean > 0, weights)

    def _squares(self, rows: Tensor) -> Tensor:
        """Squared lengths of what is in ``rows``, ``(versions, n, values)``, in one walk over it.

        Returns:
            float64, ``(2, versions, n)``: first of f(x) - r (0 as long as there is no r) and of each f(x') - f(x),
            then of f(x) and of each f(x') (0 unless cosines are asked for).
        """
        versions, n, n_values = rows.shape
        n_columns = min(max(1, n_values), _COLUMNS_AT_A_TIME) if rows.is_cpu else max(1, n_values)
        squares = torch.zeros(2, versions, n, dtype=torch.float64, device=rows.device)  # of differences, of rows
        for i in _cuts(n, n_columns, rows.device):
            for k in _cuts(n_values, 1, rows.device, n_columns):
                part = rows[:, i, k]
                differences = torch.zeros_like(part) if self._reference is None else torch.empty_like(part)
                torch.sub(part[1:], part[:1], out=differences[1:])
                if self._reference is not None:
                    torch.sub(part[0], self._reference[k], out=differences[0])
                    self._from_reference[k] += differences[0].sum(0)
                squares[0, :, i] += torch.linalg.vector_norm(differences, dim=2).square()
                if self.cosine:
                    squares[1, :, i] += torch.linalg.vector_norm(part, dim=2).square()
        if not squares.isfinite().all():
            kind = str(rows.dtype).removeprefix("torch.")
            raise ValueError(f"puts out nan or inf, or values too large to square in {kind}")
        return squares


def _cuts(total: int, other: int, device: torch.device, at_once: int | None = None) -> Iterator[slice]:
    """Slices of an axis, so that as many rows or columns times ``other`` stay in a processor's cache."""
    at_once = at_once or max(1, (_VALUES_AT_A_TIME if device.type == "cpu" else _VALUES_ON_A_GPU) // max(1, other))
    return (slice(start, min(start + at_once, total)) for start in range(0, total, at_once))


def _cosine_distance(clean: Tensor, changed: Tensor, change: Tensor) -> Tensor:
    """1 - cos from the squares of both sides of the angle and of the third side; nan where one of the two is 0.

    ||b - a||^2 - (||b|| - ||a||)^2 = 2 ||a|| ||b|| (1 - cos) loses fewer digits of a small angle than 1 - cos.
    """
    a, b = clean.sqrt(), changed.sqrt()
    return ((change - (b - a) ** 2) / (2 * a * b)).clamp(0, 2)


def _cosine_distances(rows: Tensor, lengths: Tensor) -> Tensor:
    """Cosine distance of each pair of rows, ``(n, n)``, float64; without meaning for rows of length 0.

    With unit vectors u it is ||u_i - u_j||^2 / 2; u_0 is taken off all of them first, as it may be their common part.
    """
    per_length = torch.where(lengths > 0, 1 / lengths, 0).to(rows.dtype)[:, None]
    products = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for k in _cuts(rows.shape[1], len(rows), rows.device):
        u = rows[:, k] * per_length
        u = u - u[0]
        u = u if u.is_cpu else u.double()  # a GPU may round float32 products to few bits
        for end in range(_ROWS_AT_A_TIME, len(u) + _ROWS_AT_A_TIME, _ROWS_AT_A_TIME):
            some = slice(end - _ROWS_AT_A_TIME, end)
            products[some, :end] += u[some] @ u[:end].T  # the lower triangle is enough
    products = products.tril() + products.tril(-1).T
    squares = products.diagonal()
    return ((squares[:, None] + squares) / 2 - products).clamp(0, 2)


def _medians(distances: Tensor, directed: Tensor, weights: Tensor) -> np.ndarray:
    """Median of the distances of distinct rows, and to first order that of each resample, ``(1 + resamples,)``.

    Args:
        distances: ``(n, n)``.
        directed: Which rows take part, ``(n,)``.
        weights: How often each row counts, ``(n, 1 + resamples)``; the first time, once.
    """
    pairs = (directed[:, None] & directed).fill_diagonal_(False)
    values = distances[pairs.triu()].sort().values.cpu().numpy()
    if len(values) == 0:
        return np.full(weights.shape[1], np.nan)
    below = (distances <= float(np.median(values))) & pairs
    w = (weights.T * directed).float()  # small whole numbers, as are their products and sums
    n_below, n_pairs = ((w @ below.float()) * w).sum(1), w.sum(1) ** 2 - (w**2).sum(1)
    share = _ratio(n_below.cpu().numpy(), n_pairs.cpu().numpy())
    places = (0.5 + share[0] - share) * (len(values) - 1)
    return np.interp(places, np.arange(len(values)), values)


def _weights(numbers: range, seed: int) -> Tensor:
    """How often each image counts, ``(n, 1 + resamples)``, float64: first once, then Poisson(1) times."""
    counts = drawn("bootstrap", numbers, seed, _poisson)
    return torch.cat([torch.ones_like(counts[:, :1]), counts], 1).double()


def _poisson(n: int, seed: int) -> Tensor:
    ones = torch.ones(n, _RESAMPLES, dtype=torch.float32, device="cpu")
    return torch.poisson(ones, generator=torch.Generator("cpu").manual_seed(seed))


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

"""Sums over images: how much representations change when images are perturbed, and how much images differ in them.

With f(x) what a layer puts out for an image, and over distinct pairs, the mean of ||f(x_i) - f(x_j)||^2 is
2 / (P - 1) times::

    sum_i ||f(x_i) - r||^2 - P ||mean_i f(x_i) - r||^2

for any reference r. Here r is the mean over the first images, so that no large numbers cancel. The median needs the
images side by side, and is taken over all pairs of these first ones.

Intervals come from the Poisson bootstrap: in each of 1000 resamples image i counts Poisson(1) times, and with it
``||f(x'_i) - f(x_i)||^2``, the cosine distance of its pair, ``||f(x_i) - r||^2`` and all its pairs with other images.
The two normalisers follow to first order: the mean over pairs as the mean of ``||f(x_i) - r||^2``, the median by the
share of pairs that come to lie below it (its Bahadur representation). All measures share the resamples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from spatialkit.measure.perturbations import drawn

__all__ = ["Scratch", "Spread", "ratio", "weights"]

_RESAMPLES = 1000
_COLUMNS_AT_A_TIME, _VALUES_AT_A_TIME = 2**14, 2**18  # some buffers of them fit into a processor's cache
_VALUES_ON_A_GPU = 2**24
_ROWS_AT_A_TIME = 32  # of the matrix of all pairs


class Scratch:
    """Memory that is used again and again: to get new pages from the system takes longer than to fill them."""

    def __init__(self) -> None:
        self._flat: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """A tensor of the shape and type of ``x`` with anything in it, until the next call."""
        flat = self._flat.get((x.dtype, x.device))
        if flat is None or flat.numel() < x.numel():
            flat = self._flat[x.dtype, x.device] = x.new_empty(x.numel())
        return flat[: x.numel()].view(x.shape)


class Spread:
    """Sums over images of what one layer puts out, for all images and for each resample.

    Args:
        n_perturbed: Perturbed versions of each image.
        cosine: Whether cosines are asked for.
        first_weights: How often each of the first images counts, ``(pairs, 1 + resamples)``.
        scratch: Shared with other layers.
    """

    def __init__(self, n_perturbed: int, cosine: bool, first_weights: Tensor, scratch: Scratch):
        self.n_perturbed, self.cosine, self.first_weights = n_perturbed, cosine, first_weights
        self._scratch = scratch
        self.n_seen = 0
        self._reference: Tensor | None = None  # r, once the first images are through
        self._medians = np.empty(0)  # of the cosine distances of all their pairs
        n_sums = 2 + n_perturbed * (3 if cosine else 1)
        self._totals = first_weights.new_zeros(n_sums, first_weights.shape[1])

    def add(self, versions: Tensor, weights: Tensor) -> None:
        """Add what the layer put out for images and their perturbed versions, ``(1 + perturbed, n, ...)``.

        Args:
            weights: How often each of the images counts, ``(n, 1 + resamples)``.

        Raises:
            ValueError: If they are complex, of another shape than those before, not finite or too large to square.
        """
        with torch.autocast(versions.device.type, enabled=False):
            rows = self._rows(versions.detach())  # (versions, n, values)
            n_first = min(max(0, len(self.first_weights) - self.n_seen), len(weights))
            if n_first:
                self._add(rows[:, :n_first], weights[:n_first])
            if n_first < len(weights):
                self._add(rows[:, n_first:], weights[n_first:])

    def squares(self) -> np.ndarray:
        """Mean of ||f(x') - f(x)||^2, shape ``(perturbed, 1 + resamples)``."""
        totals = self._totals.cpu().numpy()
        return ratio(totals[2 : 2 + self.n_perturbed], totals[1])

    def mean_square_of_pairs(self) -> np.ndarray:
        """Mean of ||f(x_i) - f(x_j)||^2 over all pairs of distinct images, shape ``(1 + resamples,)``."""
        from_reference, count = self._totals.cpu().numpy()[:2]
        spread = from_reference[0] - float(self._from_reference.square().sum()) / self.n_seen
        resampled = ratio(from_reference, count) * ratio(count[0], from_reference[0])
        return 2 / (self.n_seen - 1) * max(spread, 0.0) * resampled

    def cosines(self) -> np.ndarray:
        """Mean of dcos(f(x'), f(x)) where it is defined, shape ``(perturbed, 1 + resamples)``."""
        distance, defined = self._totals.cpu().numpy()[2 + self.n_perturbed :].reshape(2, self.n_perturbed, -1)
        return ratio(distance, defined)

    def median_cosine_of_pairs(self) -> np.ndarray:
        """Median of dcos(f(x_i), f(x_j)) over all pairs of the first images, shape ``(1 + resamples,)``."""
        return self._medians

    def _rows(self, versions: Tensor) -> Tensor:
        """One row of numbers per image, ``(versions, n, values)``, in the order of memory: a view if possible."""
        shape = versions.shape[2:]
        if versions.is_complex():
            raise ValueError(f"puts out {str(versions.dtype).removeprefix('torch.')}, not real numbers")
        if self.n_seen == 0:
            self._shape = shape
            strides = versions.stride()
            self._axes = sorted(range(2, versions.ndim), key=lambda axis: -strides[axis])
        if shape != self._shape:
            raise ValueError(f"puts out {tuple(shape)} for some images, {tuple(self._shape)} for others")
        rows = versions.permute(0, 1, *self._axes).reshape(*versions.shape[:2], shape.numel())
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
        first, self._first = self._first, self._first.new_empty(0)
        self._reference = origin = first[0].clone()
        for k in _cuts(first.shape[1], len(first), first.device):
            part = first[:, k]
            self._reference[k] += torch.sub(part, origin[k], out=self._scratch.like(part)).mean(0)
        weights = self.first_weights.to(first.device)
        from_reference, clean = self._squares(first[None])[:, 0]
        self._totals[0] += from_reference @ weights
        if self.cosine:
            self._medians = _medians(_cosine_distances(first, clean.sqrt(), self._scratch), clean > 0, weights)

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
                differences = self._scratch.like(part)
                torch.sub(part[1:], part[:1], out=differences[1:])
                if self._reference is None:
                    differences[0] = 0
                else:
                    torch.sub(part[0], self._reference[k], out=differences[0])
                    self._from_reference[k].add_(differences[0].sum(0))
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


def _cosine_distances(rows: Tensor, lengths: Tensor, scratch: Scratch) -> Tensor:
    """Cosine distance of each pair of rows, ``(n, n)``, float64; without meaning for rows of length 0.

    With unit vectors u it is ||u_i - u_j||^2 / 2; u_0 is taken off all of them first, as it may be their common part.
    """
    per_length = torch.where(lengths > 0, 1 / lengths, 0).to(rows.dtype)[:, None]
    products = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for k in _cuts(rows.shape[1], len(rows), rows.device):
        part = rows[:, k]
        u = torch.mul(part, per_length, out=scratch.like(part))
        u -= u[0].clone()
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
    share = ratio(n_below.cpu().numpy(), n_pairs.cpu().numpy())
    places = (0.5 + share[0] - share) * (len(values) - 1)
    return np.interp(places, np.arange(len(values)), values)


def weights(numbers: range, seed: int) -> Tensor:
    """How often each image counts, ``(n, 1 + resamples)``, float64: first once, then Poisson(1) times."""
    counts = drawn("bootstrap", numbers, seed, _poisson)
    return torch.cat([torch.ones_like(counts[:, :1]), counts], 1).double()


def _poisson(n: int, seed: int) -> Tensor:
    ones = torch.ones(n, _RESAMPLES, dtype=torch.float32, device="cpu")
    return torch.poisson(ones, generator=torch.Generator("cpu").manual_seed(seed))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, nan where the whole is 0."""
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    return np.divide(part, whole, out=np.full(shape, np.nan), where=whole > 0)

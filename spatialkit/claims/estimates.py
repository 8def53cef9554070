"""Estimates: a number with a 95 % interval that fits it, and never leaves the range in which the number can lie."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special, stats

__all__ = [
    "Estimate",
    "bootstrap",
    "correlation",
    "geometric_mean",
    "jackknife",
    "lead_of_correlation",
    "mean_of",
    "share",
]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; without one where the number is exact (``low`` and ``high`` nan)."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        exact = math.isnan(self.low)
        return f"{self.value:.3g}" if exact else f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def __format__(self, spec: str) -> str:
        """For sentences: ``f"{ours:.2f}"`` is "0.61 (0.52 to 0.75)"; without a format, as ``str``."""
        if not spec:
            return str(self)
        value, low, high = (format(number, spec) for number in (self.value, self.low, self.high))
        return value if math.isnan(self.low) else f"{value} ({low} to {high})"


class _Scale(NamedTuple):
    """Where a kind of number lies, and the scale on which its estimate is nearly normal."""

    low: float
    high: float
    to: Callable  # of a number, or of each of an array
    back: Callable
    slope: Callable


_SCALES = {
    "number": _Scale(-math.inf, math.inf, lambda x: x, lambda z: z, lambda x: 1.0),
    "positive": _Scale(0, math.inf, np.log, np.exp, lambda x: 1 / x),
    "share": _Scale(0, 1, special.logit, special.expit, lambda x: 1 / (x * (1 - x))),
    "correlation": _Scale(-1, 1, np.arctanh, np.tanh, lambda x: 1 / (1 - x**2)),  # Fisher's z
}
_SCALES["difference"] = _SCALES["correlation"]


def mean_of(values: Sequence[float], kind: str = "number") -> Estimate:
    """Arithmetic mean over seeds, with Student's t interval on the scale of its kind.

    On another scale g than the plain one, the standard error s of the mean m becomes s g'(m). Where all values of
    a share or correlation lie at the same end of the range, their spread says nothing; the interval is then the
    one of Clopper and Pearson for n of n, which holds for whatever lies between 0 and 1 (-1 and 1).

    Args:
        values: One per seed.
        kind: ``number`` (plain scale), ``positive`` (logarithm), ``share`` (logit), ``correlation`` (Fisher's z) or
            ``difference`` of two shares (the same).

    Raises:
        ValueError: With fewer than two values, one that is not finite, or one outside the range of its kind.
    """
    numbers, scale = _checked(values, kind), _SCALES[kind]
    n, mean = numbers.size, float(numbers.mean())
    if mean in (scale.low, scale.high) and math.isfinite(scale.high):
        exact = share(n if mean == scale.high else 0, n)
        width = scale.high - scale.low
        return Estimate(mean, scale.low + width * exact.low, scale.low + width * exact.high)
    half = stats.t.ppf(0.975, n - 1) * numbers.std(ddof=1) / math.sqrt(n)
    return Estimate(mean, mean, mean) if half == 0 else _around(mean, half * scale.slope(mean), scale)


def geometric_mean(values: Sequence[float]) -> Estimate:
    """Geometric mean of positive numbers over seeds, with Student's t interval of their logarithms.

    Raises:
        ValueError: With fewer than two values, or one that is not finite and above 0.
    """
    numbers = _checked(values, "positive")
    if not numbers.all():
        raise ValueError(f"a geometric mean needs numbers above 0, got {numbers.tolist()}")
    logs = mean_of(np.log(numbers))
    return Estimate(*(math.exp(end) for end in (logs.value, logs.low, logs.high)))


def share(successes: int, trials: int) -> Estimate:
    """Share of successes in independent trials, with the exact interval of Clopper and Pearson.

    Raises:
        ValueError: Unless ``0 <= successes <= trials`` and there is a trial.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"need 0 <= successes <= trials with a trial at least, got {successes} of {trials}")
    low = stats.beta.ppf(0.025, successes, trials - successes + 1) if successes else 0.0
    high = stats.beta.ppf(0.975, successes + 1, trials - successes) if successes < trials else 1.0
    return Estimate(successes / trials, float(low), float(high))


def correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> Estimate:
    """Pearson's r of independent pairs, with Fisher's z interval (standard error 1 / sqrt(n - 3)).

    Raises:
        ValueError: With fewer than four pairs, a value that is not finite, or one side constant.
    """
    r, n = _pearson(x, y), len(x)
    return _around(r, stats.norm.ppf(0.975) / math.sqrt(n - 3), _SCALES["correlation"])


def lead_of_correlation(outcome: Sequence[float], one: Sequence[float], other: Sequence[float]) -> Estimate:
    """How much larger, in size, the correlation of an outcome with one quantity is than that with another.

    The two correlations come from the same units and depend on each other; their Fisher intervals are combined as
    in G. Y. Zou, "Toward using confidence intervals to compare correlations" (2007), section on overlapping
    correlations. Both signs are taken as observed.

    Raises:
        ValueError: With fewer than four units, a value that is not finite, or a constant quantity.
    """
    signs = [math.copysign(1, _pearson(outcome, side)) for side in (one, other)]
    first, second = (correlation(outcome, np.multiply(s, side)) for s, side in zip(signs, (one, other), strict=True))
    between = signs[0] * signs[1] * _pearson(one, other)
    a, b = first.value, second.value
    spread = (1 - a**2) * (1 - b**2)
    joint = (between - a * b / 2) * (1 - a**2 - b**2 - between**2) + between**3
    c = np.clip(joint / spread, -1, 1) if spread > 0 else 1.0
    (down_a, up_a), (down_b, up_b) = ((e.value - max(e.low, 0), e.high - e.value) for e in (first, second))
    below = math.sqrt(max(0, down_a**2 + up_b**2 - 2 * c * down_a * up_b))
    above = math.sqrt(max(0, up_a**2 + down_b**2 - 2 * c * up_a * down_b))
    return Estimate(a - b, a - b - below, a - b + above)


def jackknife(statistic: Callable[[np.ndarray], float], values: np.ndarray, kind: str = "number") -> Estimate:
    """A smooth statistic of a few units, with Student's t interval from leaving out one unit at a time.

    The standard error is that of Tukey's jackknife on the scale of the kind, with n - 1 degrees of freedom; for
    the mean it is the usual one. Where the statistic reaches an end of its range, nothing narrower than the whole
    range can be said.

    Args:
        statistic: Takes an array of units, first axis, and returns a number.
        values: One entry per unit along the first axis.
        kind: As in ``mean_of``.

    Raises:
        ValueError: With fewer than three units, or if the statistic lies outside the range of its kind.
    """
    values, scale = np.asarray(values, dtype=float), _SCALES[kind]
    n = len(values)
    if n < 3:
        raise ValueError(f"leaving one out needs at least three units, got {n}")
    value = float(statistic(values))
    if not scale.low <= value <= scale.high:
        raise ValueError(f"a {kind} lies between {scale.low} and {scale.high}, got {value}")
    with np.errstate(all="ignore"):
        left = scale.to(np.array([statistic(np.delete(values, i, axis=0)) for i in range(n)]))
        half = stats.t.ppf(0.975, n - 1) * math.sqrt((n - 1) ** 2 / n) * left.std(ddof=1)
    return _around(value, half, scale) if np.isfinite(half) else Estimate(value, scale.low, scale.high)


def bootstrap(
    statistic: Callable[[np.ndarray], float], values: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """A statistic of many units, with the percentile interval of resampling units with replacement.

    Args:
        statistic: Takes an array of units, first axis, and returns a number.
        values: One entry per unit along the first axis.
        resamples: How many resampled sets.
        seed: Seed of the resampling.

    Raises:
        ValueError: With fewer than ten units, whose percentiles are too narrow.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 10:
        raise ValueError(
            f"a bootstrap needs at least ten units, got {len(values)}; use mean_of, correlation or jackknife"
        )
    chosen = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    drawn = np.array([statistic(values[rows]) for rows in chosen])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(float(statistic(values)), float(low), float(high))


def _around(value: float, half: float, scale: _Scale) -> Estimate:
    """The interval of a half width on the scale, brought back."""
    with np.errstate(divide="ignore", over="ignore"):
        centre = scale.to(value)
        low, high = (float(scale.back(centre + side * half)) for side in (-1, 1))
    return Estimate(value, min(low, value), max(high, value))  # rounding may put an end beyond the value


def _checked(values: Sequence[float], kind: str) -> np.ndarray:
    """Values as an array, at least two, finite and in the range of their kind."""
    if kind not in _SCALES:
        raise ValueError(f"kind must be one of {', '.join(_SCALES)}, got {kind!r}")
    numbers, scale = np.asarray(values, dtype=float), _SCALES[kind]
    if numbers.size < 2 or not np.isfinite(numbers).all():
        raise ValueError(f"an interval needs at least two finite values, got {numbers.tolist()}")
    if numbers.min() < scale.low or numbers.max() > scale.high:
        raise ValueError(f"a {kind} lies between {scale.low} and {scale.high}, got {numbers.tolist()}")
    return numbers


def _pearson(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Pearson's r of at least four finite pairs."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape != b.shape or a.size < 4 or not np.isfinite([a, b]).all():
        raise ValueError(f"a correlation needs at least four pairs of finite numbers, got {a.tolist()}, {b.tolist()}")
    if not np.ptp(a) or not np.ptp(b):
        raise ValueError("a correlation with a constant is not defined")
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))

"""Claims: estimates with intervals, verdicts by rules written beforehand, and the scorecard."""

import csv
import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd
import yaml
from filelock import FileLock
from scipy import stats

from spatialkit import places, plot
from spatialkit.lab.store import atomic_write

__all__ = [
    "Estimate",
    "all_of",
    "bootstrap",
    "catalogue",
    "judge",
    "mean_of",
    "record",
    "scorecard",
]

COLUMNS = "claim what ours low high paper verdict profile dataset device seeds figure command code".split()
VERDICTS = ("replicated", "partly", "not replicated", "not run")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; without one where the number is exact (``low`` and ``high`` nan)."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        exact = math.isnan(self.low)
        return f"{self.value:.3g}" if exact else f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean_of(values: Sequence[float]) -> Estimate:
    """Mean over seeds with Student's t interval.

    Raises:
        ValueError: With fewer than two values, or one that is not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least two finite values, got {values.tolist()}")
    half = stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def bootstrap(
    statistic: Callable[[np.ndarray], float], values: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """A statistic of all trials, with the percentile interval of resampling trials with replacement.

    Args:
        statistic: Takes an array of trials, first axis, and returns a number.
        values: One entry per trial along the first axis.
        resamples: How many resampled sets.
        seed: Seed of the resampling.

    Raises:
        ValueError: With fewer than three trials.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 3:
        raise ValueError(f"a bootstrap needs at least three trials, got {len(values)}")
    chosen = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    drawn = np.array([statistic(values[rows]) for rows in chosen])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(float(statistic(values)), float(low), float(high))


def judge(
    estimate: Estimate,
    *,
    above: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
) -> str:
    """The verdict on "the quantity lies above (below) a bound", or "within two bounds".

    "replicated" when the whole interval lies on the claimed side (inside the band), "not
    replicated" when all of it lies on the other side (outside), "partly" when it contains a
    bound: these data cannot tell.

    Raises:
        ValueError: Unless exactly one of the three is given, or if the estimate is nan.
    """
    bounds = [above is not None, below is not None, within is not None]
    if sum(bounds) != 1:
        raise ValueError("give exactly one of above, below and within")
    if math.isnan(estimate.value):
        raise ValueError("the estimate is nan; a claim cannot be judged on it")
    exact = math.isnan(estimate.low)
    low, high = (estimate.value, estimate.value) if exact else (estimate.low, estimate.high)
    least, most = within or (-math.inf if above is None else above, math.inf if below is None else below)
    if least < low and high < most:
        return "replicated"
    return "not replicated" if high <= least or low >= most else "partly"


def all_of(verdicts: Sequence[str]) -> str:
    """The verdict on a claim of several parts: all replicated, none, or else partly."""
    kinds = set(verdicts)
    return kinds.pop() if len(kinds) == 1 else "partly"


@functools.cache
def catalogue() -> dict[str, dict]:
    """Claim id -> its entry in claims.yaml: what the source says and the rule for a verdict."""
    text = resources.files("spatialkit").joinpath("claims.yaml").read_text("utf-8")
    return {claim["id"]: claim for claim in yaml.safe_load(text)["claims"]}


def record(claim: str, rows: Sequence[dict], table: pd.DataFrame, *, figure: str | None = None) -> pd.DataFrame:
    """Put a claim on the scorecard, replacing what stood there, and return its rows to be shown.

    Args:
        claim: Its id in claims.yaml.
        rows: One per measured quantity: ``what`` (in words), ``ours`` (an ``Estimate``), ``verdict``,
            and, where the source prints one, its number ``paper``; ``dataset`` and ``seeds`` where rows differ in them.
            A data set by its name in ``plot.NAMES`` gets the copy that the table says was used.
        table: The sweep's table that the estimates come from; its provenance joins the rows.
        figure: Name of the figure; by default the claim's id.

    Raises:
        ValueError: If the claim or a verdict is unknown.
    """
    if claim not in catalogue():
        raise ValueError(f"{claim!r} is not in claims.yaml; known are {', '.join(catalogue())}")
    made = table.attrs["made"]
    shared = {
        "claim": claim,
        "profile": " ".join(made["profile"]),
        "dataset": "; ".join(made["data"]) or "synthetic",
        "device": "; ".join(made["device"]),
        "seeds": made["seeds"],
        "figure": f"figures/{figure or claim}.png",
        "command": f"make figures ONLY={catalogue()[claim]['notebook']} PROFILE={made['profile'][0]}",
        "code": f"{made['other code']} of {made['runs']} runs by other code" if made["other code"] else "present",
    }
    lines = [shared | _cells(row, made["data"]) for row in rows]
    _replace(claim, lines)
    shown = pd.DataFrame(rows)
    return shown[[c for c in ("dataset", "what", "ours", "paper", "verdict") if c in shown]]


def _cells(row: dict, copies: Sequence[str]) -> dict:
    """A row of the scorecard as text; a data set is named with the copy that was used."""
    if row["verdict"] not in VERDICTS:
        raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {row['verdict']!r}")
    ours = row["ours"]
    numbers = {"ours": ours.value, "low": ours.low, "high": ours.high, "paper": row.get("paper", math.nan)}
    cells = {k: "" if math.isnan(v) else f"{v:.4g}" for k, v in numbers.items()}
    cells |= {"what": row["what"], "verdict": row["verdict"]}
    copy_of = {plot.NAMES.get(copy.split(" (")[0]): copy for copy in copies}
    named = {name: row[name] for name in ("dataset", "seeds") if name in row}
    return cells | {name: copy_of.get(value, value) for name, value in named.items()}


def _replace(claim: str, lines: list[dict]) -> None:
    """Write the scorecard anew, all claims in the order of the list, under a lock."""
    path = places.out() / "figures" / "scorecard.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        kept = [row for row in _read(path) if row["claim"] != claim and row["verdict"] != "not run"] + lines
        rows = []
        for name, entry in catalogue().items():
            none = {"claim": name, "what": entry["artefact"], "verdict": "not run"}
            rows += [row for row in kept if row["claim"] == name] or [none]
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(path, stream.getvalue())


def _read(path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def scorecard() -> pd.DataFrame:
    """The committed scorecard, one row per measured quantity, every claim at least once."""
    rows = _read(places.evidence() / "figures" / "scorecard.csv")
    rows = rows or [{"claim": c, "what": e["artefact"], "verdict": "not run"} for c, e in catalogue().items()]
    return pd.DataFrame(rows, columns=COLUMNS).fillna("")

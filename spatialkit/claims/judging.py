"""Judging: verdicts on estimates, on the parts of a claim together, and in words."""

import math
from collections.abc import Sequence

import pandas as pd

from spatialkit.claims.estimates import Estimate
from spatialkit.claims.rules import catalogue

__all__ = ["VERDICTS", "all_of", "judge", "span", "tally", "verdict_on"]

VERDICTS = ("replicated", "undecided", "not replicated", "not run")  # of a part


def judge(
    estimate: Estimate,
    *,
    above: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
    smallest: float | None = None,
) -> str:
    """The verdict on "the quantity lies above (below) a bound", or "within two bounds".

    "replicated" when the whole interval lies on the claimed side (inside the band), "not
    replicated" when all of it lies on the other side (outside), "undecided" when it contains a
    bound: these data cannot tell. An interval that falls short of the smallest effect that
    counts is "not replicated" on whichever side of the bound it lies.

    Args:
        estimate: The quantity; one without an interval is judged by its value.
        above: The bound that it is claimed to exceed.
        below: The bound that it is claimed to stay under.
        within: The two ends of a band.
        smallest: The smallest value beyond ``above`` (``below``) that counts as an effect.

    Raises:
        ValueError: Unless exactly one of the three bounds is given, if the estimate is nan, or if ``smallest`` is not
            on the claimed side of the bound.
    """
    if sum(bound is not None for bound in (above, below, within)) != 1:
        raise ValueError("give exactly one of above, below and within")
    if math.isnan(estimate.value):
        raise ValueError("the estimate is nan; a claim cannot be judged on it")
    exact = math.isnan(estimate.low)
    low, high = (estimate.value, estimate.value) if exact else (estimate.low, estimate.high)
    least, most = within or (-math.inf if above is None else above, math.inf if below is None else below)
    if smallest is not None:
        if within or not least < smallest < most:
            raise ValueError(f"smallest must lie beyond the bound, on the claimed side, got {smallest}")
        if high < smallest if above is not None else low > smallest:
            return "not replicated"
    if least < low and high < most:
        return "replicated"
    return "not replicated" if high <= least or low >= most else "undecided"


def all_of(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its parts, in this order; parts that were not run do not count.

    "not replicated" when some part is and none is replicated, "mixed" when some are and some are not, "replicated"
    when all are, else "undecided"; "not run" where no part was.
    """
    ran = set(verdicts) - {"not run"}
    if not ran:
        return "not run"
    if "not replicated" in ran:
        return "mixed" if "replicated" in ran else "not replicated"
    return "replicated" if ran == {"replicated"} else "undecided"


def verdict_on(claim: str, rows: pd.DataFrame) -> str:
    """The verdict on a claim from its rows of the scorecard.

    A part that claims.yaml marks as necessary, named by a text that its rows contain, decides alone when these rows,
    taken as a claim of their own, are not replicated.
    """
    mine = rows[rows["claim"] == claim]
    for text in catalogue()[claim].get("necessary", []):
        if all_of(mine.loc[mine["what"].str.contains(text, regex=False), "verdict"]) == "not replicated":
            return "not replicated"
    return all_of(mine["verdict"])


def tally(rows: Sequence[dict]) -> str:
    """How many rows have which verdict, in words: "3 of 4 replicated, 1 undecided"; what did not occur is left out."""
    verdicts = [row["verdict"] for row in rows]
    said = [f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts]
    if len(verdicts) == 1:
        return verdicts[0]
    return f"all {said[0]}" if len(said) == 1 else ", ".join([said[0].replace(" ", f" of {len(rows)} ", 1), *said[1:]])


def span(rows: Sequence[dict], part: str, spec: str = ".2f") -> str:
    """Smallest and largest value of the rows whose ``what`` contains a text, in words: "0.21 to 0.48"."""
    values = sorted(row["ours"].value for row in rows if part in row["what"])
    ends = dict.fromkeys(format(value, spec) for value in (values[0], values[-1])) if values else ["not measured"]
    return " to ".join(ends)

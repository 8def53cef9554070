"""Claims: verdicts on estimates by the rules of claims.yaml, and the scorecard."""

import csv
import functools
import io
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pandas as pd
import yaml
from filelock import FileLock

from spatialkit.claims.estimates import (
    Estimate,
    bootstrap,
    correlation,
    geometric_mean,
    jackknife,
    lead_of_correlation,
    mean_of,
    share,
)
from spatialkit.data.sets import TITLES
from spatialkit.lab import places
from spatialkit.lab.provenance import code_behind
from spatialkit.lab.store import atomic_write

__all__ = [
    "Estimate",
    "all_of",
    "bootstrap",
    "catalogue",
    "correlation",
    "findings",
    "geometric_mean",
    "jackknife",
    "judge",
    "lead_of_correlation",
    "mean_of",
    "record",
    "scorecard",
    "share",
    "smallest",
    "span",
    "tally",
    "verdict_on",
]

COLUMNS = "claim what ours low high paper verdict profile dataset device seeds figure command code".split()
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


@functools.cache
def catalogue() -> dict[str, dict]:
    """Claim id -> its entry in claims.yaml: what the source says and the rule for a verdict."""
    text = resources.files("spatialkit.claims").joinpath("claims.yaml").read_text("utf-8")
    return {claim["id"]: claim for claim in yaml.safe_load(text)["claims"]}


def smallest(claim: str) -> dict[str, float]:
    """Part -> the smallest effect that counts, for the parts of a claim that claim a sign.

    Raises:
        ValueError: If the claim is unknown.
    """
    return dict(_entry(claim).get("smallest", {}))


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


def _entry(claim: str) -> dict:
    if claim not in catalogue():
        raise ValueError(f"{claim!r} is not in claims.yaml; known are {', '.join(catalogue())}")
    return catalogue()[claim]


def record(
    claim: str, rows: Sequence[dict], table: pd.DataFrame, *, found: str = "", figure: str | None = None
) -> pd.DataFrame:
    """Put a claim on the scorecard, replacing what stood there, and return its rows to be shown.

    Args:
        claim: Its id in claims.yaml.
        rows: One per measured quantity: ``what`` (in words), ``ours`` (an ``Estimate``), ``verdict``,
            and, where the source prints one, its number ``paper``; ``dataset`` and ``seeds`` where rows differ in them.
            A data set by its title (`spatialkit.data.TITLES`) gets the copy that the table says was used.
        table: The sweep's table that the estimates come from; its provenance joins the rows.
        found: What was found, in one sentence for a reader, with numbers formatted from the estimates.
        figure: Name of the figure; by default the claim's id.

    Raises:
        ValueError: If the claim or a verdict is unknown.
    """
    entry, made = _entry(claim), table.attrs["made"]
    shared = {
        "claim": claim,
        "profile": " ".join(made["profile"]),
        "dataset": "; ".join(made["data"]) or "synthetic",
        "device": "; ".join(made["device"]),
        "seeds": made["seeds"],
        "figure": f"figures/{figure or claim}.png",
        "command": f"make figures ONLY={entry['notebook']} PROFILE={made['profile'][0]}",
        "code": code_behind(made),
    }
    lines = [shared | _cells(row, made["data"]) for row in rows]
    _replace(claim, lines, found)
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
    copy_of = {TITLES.get(copy.split(" (")[0]): copy for copy in copies}
    named = {name: row[name] for name in ("dataset", "seeds") if name in row}
    return cells | {name: copy_of.get(value, value) for name, value in named.items()}


def _replace(claim: str, lines: list[dict], found: str) -> None:
    """Write the scorecard and what was found anew, all claims in the order of the list, under a lock."""
    folder = places.out() / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scorecard.csv"
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
        said = _sentences(folder) | {claim: found}
        in_order = {name: said[name] for name in catalogue() if said.get(name)}
        atomic_write(folder / "found.json", json.dumps(in_order, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _sentences(folder: Path) -> dict[str, str]:
    path = folder / "found.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def scorecard() -> pd.DataFrame:
    """The committed scorecard, one row per measured quantity, every claim at least once."""
    rows = _read(places.evidence() / "figures" / "scorecard.csv")
    rows = rows or [{"claim": c, "what": e["artefact"], "verdict": "not run"} for c, e in catalogue().items()]
    return pd.DataFrame(rows, columns=COLUMNS).fillna("")


def findings() -> dict[str, str]:
    """Claim id -> what was found, one sentence each; claims that were not run are left out."""
    return _sentences(places.evidence() / "figures")

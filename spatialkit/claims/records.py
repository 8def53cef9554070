"""Records of claims: the scorecard, and what was found in words."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock

from spatialkit import lab
from spatialkit.claims.judging import VERDICTS
from spatialkit.claims.rules import catalogue, entry
from spatialkit.data.sets import TITLES
from spatialkit.lab import places

__all__ = ["findings", "record", "scorecard"]

COLUMNS = "claim what ours low high paper verdict profile dataset device seeds figure command code".split()


def record(
    claim: str, rows: Sequence[dict], runs: lab.Tables, *, found: str = "", figure: str | None = None
) -> pd.DataFrame:
    """Put a claim on the scorecard, replacing what stood there, and return its rows to be shown.

    Args:
        claim: Its id in claims.yaml.
        rows: One per measured quantity: ``what`` (in words), ``ours`` (an ``Estimate``), ``verdict``,
            and, where the source prints one, its number ``paper``; ``dataset`` and ``seeds`` where rows differ in them.
            A data set by its title (`spatialkit.data.TITLES`) gets the copy that the runs used.
        runs: The sweep's table that the estimates come from, a part of it, or a list of such tables; where its runs
            come from joins the rows.
        found: What was found, in one sentence for a reader, with numbers formatted from the estimates.
        figure: Name of the figure; by default the claim's id.

    Raises:
        ValueError: If the claim or a verdict is unknown, or no sweep made the runs.
    """
    said, made = entry(claim), lab.summary(runs)
    shared = {
        "claim": claim,
        "profile": " ".join(made["profile"]),
        "dataset": "; ".join(made["data"]) or "synthetic",
        "device": "; ".join(made["device"]),
        "seeds": made["seeds"],
        "figure": f"figures/{figure or claim}.png",
        "command": f"make figures ONLY={said['notebook']} PROFILE={made['profile'][0]}",
        "code": lab.code_behind(made),
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
        kept = [row for row in _read(path) if row["claim"] != claim and row["profile"]] + lines
        rows = []
        for name, listed in catalogue().items():
            none = {"claim": name, "what": listed["artefact"], "verdict": "not run"}
            rows += [row for row in kept if row["claim"] == name] or [none]
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        lab.atomic_write(path, stream.getvalue())
        said = _sentences(folder) | {claim: found}
        in_order = {name: said[name] for name in catalogue() if said.get(name)}
        lab.atomic_write(folder / "found.json", json.dumps(in_order, indent=1, ensure_ascii=False) + "\n")


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

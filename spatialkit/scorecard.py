"""The scorecard as a picture and as the README's table."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from spatialkit import places, plot
from spatialkit.claims import VERDICTS, catalogue, scorecard
from spatialkit.lab.store import atomic_write

__all__ = ["draw", "readme_table", "verdicts", "write_readme_table"]

COLOURS = dict(zip(VERDICTS, ("#0173b2", "#ece133", "#d55e00", "#e6e6e6"), strict=True))
_MARKS = ("<!-- scorecard: begin -->", "<!-- scorecard: end -->")


def verdicts(rows: pd.DataFrame | None = None) -> dict[str, str]:
    """Claim id -> its verdict over all of its rows; "not run" while nothing is measured."""
    rows = scorecard() if rows is None else rows
    summary = {}
    for claim in catalogue():
        kinds = set(rows.loc[rows["claim"] == claim, "verdict"]) - {"not run"}
        summary[claim] = "not run" if not kinds else kinds.pop() if len(kinds) == 1 else "partly"
    return summary


def figure() -> Figure:
    """One tile per claim, one row per source, coloured by verdict."""
    plot.set_theme()
    summary = verdicts()
    sources = list(dict.fromkeys(claim.split(".")[0] for claim in summary))
    picture = Figure(figsize=(7.2, 0.36 * len(sources) + 0.6))
    axis = picture.subplots()
    for row, source in enumerate(sources):
        names = [claim.split(".")[1] for claim in summary if claim.startswith(f"{source}.")]
        for column, name in enumerate(names):
            verdict = summary[f"{source}.{name}"]
            axis.barh(row, 0.94, left=column, height=0.86, color=COLOURS[verdict])
            dark = verdict in ("replicated", "not replicated")
            axis.text(column + 0.47, row, name, ha="center", va="center", size=4.5, color="w" if dark else "k")
    axis.set(yticks=range(len(sources)), yticklabels=sources, xticks=[], xlabel="claims, in the order of claims.yaml")
    axis.invert_yaxis()
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    tally = {verdict: sum(v == verdict for v in summary.values()) for verdict in VERDICTS}
    handles = [Patch(color=COLOURS[verdict], label=f"{verdict}: {n}") for verdict, n in tally.items()]
    axis.legend(handles=handles, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return picture


def draw() -> None:
    """Write figures/scorecard.svg and .png."""
    plot.write(figure(), "scorecard")


def readme_table() -> str:
    """What has been measured so far in Markdown: one line per claim, with its first quantity and all its parts."""
    rows = scorecard()
    summary = verdicts(rows)
    lines = ["| claim | notebook | first of its quantities | source | ours (95 % interval) | parts | verdict |"]
    lines.append("| --- " * 7 + "|")
    for claim, part in rows[rows["verdict"] != "not run"].groupby("claim", sort=False):
        row, tally = part.iloc[0], part["verdict"].value_counts()
        ours = row["ours"] + (f" ({row['low']} to {row['high']})" if row["low"] else "")
        name = row["dataset"].split(" (")[0]
        what = row["what"] + ("" if name == "synthetic" else f" ({plot.NAMES.get(name, name)})")
        parts = ", ".join(f"{tally[v]} {v}" for v in VERDICTS if v in tally)
        link, notebook = f"[{claim}]({row['figure']})", catalogue()[claim]["notebook"]
        lines.append("| " + " | ".join([link, notebook, what, row["paper"] or "-", ours, parts, summary[claim]]) + " |")
    counts = ", ".join(f"{list(summary.values()).count(v)} {v}" for v in VERDICTS)
    profiles = ", ".join(sorted(set(" ".join(rows["profile"]).split()))) or "none"
    head = f"{len(summary)} claims: {counts}. Profile of the evidence: {profiles}. All quantities: "
    return "\n".join([head + "[scorecard.csv](figures/scorecard.csv).", "", *lines])


def write_readme_table() -> None:
    """Put the table between its two marks in README.md.

    Raises:
        ValueError: If the README has lost the marks.
    """
    path = places.evidence() / "README.md"
    text = path.read_text("utf-8")
    if not all(mark in text for mark in _MARKS):
        raise ValueError(f"README.md needs the lines {_MARKS[0]} and {_MARKS[1]} for the scorecard")
    before, rest = text.split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    atomic_write(path, f"{before}{_MARKS[0]}\n{readme_table()}\n{_MARKS[1]}{after}")

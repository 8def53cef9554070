"""The scorecard at a glance: in a line, as a picture, and as a table of what the sources say and what was found."""

from typing import TYPE_CHECKING

import pandas as pd

from spatialkit.claims.judging import VERDICTS, verdict_on
from spatialkit.claims.records import findings, scorecard
from spatialkit.claims.rules import catalogue
from spatialkit.lab import atomic_write, places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM_VERDICTS", "figure", "markdown", "summary_line", "verdicts", "write_readme_table"]

CLAIM_VERDICTS = ("replicated", "mixed", "undecided", "not replicated", "not run")
_SQUARES = dict(zip(VERDICTS, "🟦🟨🟧⬜", strict=True))
_LONGEST = 10  # squares in a bar of the table
_MARKS = ("<!-- scorecard: begin -->", "<!-- scorecard: end -->")


def verdicts(rows: pd.DataFrame | None = None) -> dict[str, str]:
    """Claim id -> its verdict over all of its rows; "not run" while nothing is measured."""
    rows = scorecard() if rows is None else rows
    return {claim: verdict_on(claim, rows) for claim in catalogue()}


def summary_line(rows: pd.DataFrame | None = None) -> str:
    """How many claims, and how many parts of them, have which verdict."""
    rows = scorecard() if rows is None else rows
    claims, parts = list(verdicts(rows).values()), list(rows.loc[rows["verdict"] != "not run", "verdict"])
    of_claims = ", ".join(f"{claims.count(v)} {v}" for v in CLAIM_VERDICTS)
    of_parts = ", ".join(f"{parts.count(v)} {v}" for v in VERDICTS[:3])
    return f"{len(claims)} claims: {of_claims}. {len(parts)} parts measured: {of_parts}"


def figure() -> "Figure":
    """The committed scorecard as a picture: one row per source, one bar per claim made of its parts."""
    from spatialkit.claims.picture import picture_of  # what draws is imported only to draw

    return picture_of(scorecard())


def bar(parts: pd.Series) -> str:
    """Parts as squares, at most ten: in proportion, but none that occurs is left out."""
    counts = {verdict: int((parts == verdict).sum()) for verdict in VERDICTS}
    squares, n = min(sum(counts.values()), _LONGEST), sum(counts.values())
    drawn = {verdict: max(round(count * squares / n), 1) if count else 0 for verdict, count in counts.items()}
    largest = max(drawn, key=lambda verdict: drawn[verdict])
    drawn[largest] += squares - sum(drawn.values())  # what rounding gave or took
    return "".join(_SQUARES[verdict] * number for verdict, number in drawn.items())


def markdown(folder: str = "figures") -> str:
    """Every measured claim as one line of a Markdown table: what is said, what was found, verdict and parts.

    Args:
        folder: Where the figures are, seen from the page that shows the table.
    """
    rows = scorecard()
    summary, found = verdicts(rows), findings()
    lines = ["| claim | what the source says | what we found | verdict | parts |", "| --- | --- | --- | --- | --- |"]
    for claim, part in rows[rows["verdict"] != "not run"].groupby("claim", sort=False):
        entry, counts = catalogue()[claim], part["verdict"].value_counts()
        numbers = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if v in counts)
        says = " ".join(entry["says"].split())
        link = f"[{claim}]({folder}/{part.iloc[0]['figure'].removeprefix('figures/')})"
        cells = [link, says, found.get(claim, ""), f"**{summary[claim]}**", f"{bar(part['verdict'])} {numbers}"]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


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
    profiles = ", ".join(sorted(set(" ".join(scorecard()["profile"]).split()))) or "none"
    head = f"{summary_line()}. Profile of the evidence: {profiles}. Every number with its interval: "
    table = f"{head}[scorecard.csv](figures/scorecard.csv).\n\n{markdown()}"
    atomic_write(path, f"{before}{_MARKS[0]}\n{table}\n{_MARKS[1]}{after}")

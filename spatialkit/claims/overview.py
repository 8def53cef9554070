"""The scorecard at a glance: in a line, as a picture, and as a table of what the sources say and what was found."""

from typing import TYPE_CHECKING

import pandas as pd

from spatialkit.claims.judging import VERDICTS, verdict_on
from spatialkit.claims.records import findings, scorecard
from spatialkit.claims.rules import catalogue
from spatialkit.lab import atomic_write, places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM_VERDICTS", "figure", "markdown", "summary_line", "verdicts", "write_pages"]

CLAIM_VERDICTS = ("replicated", "mixed", "undecided", "not replicated", "not run")
_SQUARES = dict(zip(VERDICTS, "🟦🟨🟧⬜", strict=True))
_LONGEST = 10  # squares in a bar of the table
_MARKS = ("<!-- scorecard: begin -->", "<!-- scorecard: end -->")  # in README.md
_PAGE = """# The scorecard

{totals} Every number with its interval, the source's number, data and command:
[scorecard.csv](../figures/scorecard.csv).

![One bar per claim, made of its parts, with a mark for its verdict](../figures/scorecard.png)

A claim has parts. A part is *replicated* (🟦), *not replicated* (🟧), or *undecided* (🟨): its 95 % interval holds the
bound, and these data cannot tell. A claim is *mixed* when some parts hold and some fail. The rules are in
[claims.yaml](../spatialkit/claims/claims.yaml), written before the runs; the smallest effects that count were added
later, by one convention for all claims, so that "no effect" can be found, too. What the sources got wrong or left open
is in [errata.md](errata.md). The first column links to the figure, the last to the notebook that measures the claim.

{table}

This page is written by `make figures`.
"""


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


def markdown(folder: str = "figures", notebooks: str = "") -> str:
    """Every measured claim as one line of a Markdown table: what is said, what was found, verdict and parts.

    Args:
        folder: Where the figures are, seen from the page that shows the table.
        notebooks: Where the notebooks are, seen from there; "" leaves out the column that links to them.
    """
    rows = scorecard()
    summary, found = verdicts(rows), findings()
    head = ["claim", "what the source says", "what we found", "verdict", "parts", *(["notebook"] if notebooks else [])]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for claim, part in rows[rows["verdict"] != "not run"].groupby("claim", sort=False):
        entry, counts = catalogue()[claim], part["verdict"].value_counts()
        numbers = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if v in counts)
        says = " ".join(entry["says"].split())
        link = f"[{claim}]({folder}/{part.iloc[0]['figure'].removeprefix('figures/')})"
        cells = [link, says, found.get(claim, ""), f"**{summary[claim]}**", f"{bar(part['verdict'])} {numbers}"]
        cells += [_notebook(entry["notebook"], notebooks)] if notebooks else []
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _notebook(number: str, folder: str) -> str:
    """A link to the notebook of this number; the number alone where there is none."""
    found = sorted((places.root() / "notebooks").glob(f"{number}_*.ipynb"))
    return f"[{number}]({folder}/{found[0].name})" if found else number


def write_pages() -> None:
    """Bring the sentence of totals in README.md, between its two marks, and docs/scorecard.md up to date.

    Raises:
        ValueError: If the README has lost the marks.
    """
    base = places.evidence()
    text = (base / "README.md").read_text("utf-8")
    if not all(mark in text for mark in _MARKS):
        raise ValueError(f"README.md needs the lines {_MARKS[0]} and {_MARKS[1]} for the scorecard")
    before, rest = text.split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    profiles = ", ".join(sorted(set(" ".join(scorecard()["profile"]).split()))) or "none"
    totals = f"{summary_line()}. Profile of the evidence: {profiles}."
    (base / "docs").mkdir(exist_ok=True)
    page = _PAGE.format(totals=totals, table=markdown("../figures", "../notebooks"))
    atomic_write(base / "docs" / "scorecard.md", page)
    atomic_write(base / "README.md", f"{before}{_MARKS[0]}\n{totals}\n{_MARKS[1]}{after}")

"""The scorecard as a picture, and as a table of what the sources say, what was found, and the verdicts."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spatialkit import plot
from spatialkit.claims import VERDICTS, catalogue, findings, scorecard, verdict_on
from spatialkit.lab import places
from spatialkit.lab.store import atomic_write

__all__ = ["CLAIM_VERDICTS", "draw", "figure", "markdown", "summary_line", "verdicts", "write_readme_table"]

CLAIM_VERDICTS = ("replicated", "mixed", "undecided", "not replicated", "not run")
COLOURS = dict(zip(VERDICTS, ("#0173b2", "#ece133", "#d55e00", "#e6e6e6"), strict=True))
MARKERS = dict(zip(CLAIM_VERDICTS, ("o", "d", "s", "X", "."), strict=True))
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


def figure() -> Figure:
    """One row per source, one bar per claim made of its parts, with a mark for the verdict on the claim."""
    plot.set_theme()
    rows = scorecard()
    summary = verdicts(rows)
    sources = list(dict.fromkeys(claim.split(".")[0] for claim in summary))
    picture = Figure(figsize=(8, 0.4 * len(sources) + 0.2))
    axis = picture.subplots()
    for line, source in enumerate(sources):
        for column, claim in enumerate(c for c in summary if c.startswith(f"{source}.")):
            _draw_claim(axis, column, line, claim.split(".")[1], rows.loc[rows["claim"] == claim, "verdict"])
            axis.plot(column + 0.07, line - 0.3, MARKERS[summary[claim]], color="k", ms=3.5, mew=0)
    axis.set(yticks=range(len(sources)), yticklabels=sources, xticks=[])
    axis.set_ylim(len(sources) - 0.5, -0.5)
    axis.margins(x=0.005)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    _draw_legend(axis, list(summary.values()), rows["verdict"])
    return picture


def _draw_claim(axis, column: int, line: int, name: str, parts: pd.Series) -> None:
    """A name, and below it a bar of parts in the order of ``VERDICTS``."""
    axis.text(column + 0.16, line - 0.28, name, ha="left", va="center", size=4.5)
    left = column
    for verdict in VERDICTS:
        width = 0.92 * (parts == verdict).sum() / len(parts)
        axis.barh(line + 0.13, width, left=left, height=0.4, color=COLOURS[verdict], lw=0)
        left += width


def _draw_legend(axis, claims: list[str], parts: pd.Series) -> None:
    """Colours of parts and marks of claims, each with its number."""
    counts = {verdict: (parts == verdict).sum() for verdict in VERDICTS[:3]}
    colours = [Patch(color=COLOURS[verdict], label=f"{n} {verdict}") for verdict, n in counts.items()]
    style = {"color": "k", "ls": "", "ms": 4, "mew": 0}
    marks = [Line2D([], [], marker=MARKERS[v], label=f"{claims.count(v)} {v}", **style) for v in CLAIM_VERDICTS]
    place = {"loc": "lower right", "fontsize": "x-small", "title_fontsize": "x-small", "alignment": "left"}
    axis.add_artist(axis.legend(handles=colours, title="bars: parts", bbox_to_anchor=(0.81, 0), **place))
    axis.legend(handles=marks, title="marks: claims", bbox_to_anchor=(1, 0), **place)


def draw() -> None:
    """Write figures/scorecard.svg and .png."""
    plot.write(figure(), "scorecard")


def bar(parts: pd.Series) -> str:
    """Parts as squares, at most ten: in proportion, but none that occurs is left out."""
    counts = {verdict: int((parts == verdict).sum()) for verdict in VERDICTS}
    squares, n = min(sum(counts.values()), _LONGEST), sum(counts.values())
    drawn = {verdict: max(round(count * squares / n), 1) if count else 0 for verdict, count in counts.items()}
    largest = max(drawn, key=drawn.get)
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

"""The scorecard as a picture."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spatialkit import plot
from spatialkit.claims.judging import VERDICTS
from spatialkit.claims.overview import CLAIM_VERDICTS, verdicts
from spatialkit.claims.records import scorecard

__all__ = ["draw", "picture_of"]

_COLOURS = dict(zip(VERDICTS, ("#0173b2", "#ece133", "#d55e00", "#e6e6e6"), strict=True))
_MARKERS = dict(zip(CLAIM_VERDICTS, ("o", "d", "s", "X", "."), strict=True))


def picture_of(rows: pd.DataFrame) -> Figure:
    """One row per source, one bar per claim made of its parts, with a mark for the verdict on the claim."""
    plot.set_theme()
    summary = verdicts(rows)
    sources = list(dict.fromkeys(claim.split(".")[0] for claim in summary))
    picture = Figure(figsize=(8, 0.4 * len(sources) + 0.2))
    axis = picture.subplots()
    for line, source in enumerate(sources):
        for column, claim in enumerate(c for c in summary if c.startswith(f"{source}.")):
            _draw_claim(axis, column, line, claim.split(".")[1], rows.loc[rows["claim"] == claim, "verdict"])
            axis.plot(column + 0.07, line - 0.3, _MARKERS[summary[claim]], color="k", ms=3.5, mew=0)
    axis.set(yticks=range(len(sources)), yticklabels=sources, xticks=[])
    axis.set_ylim(len(sources) - 0.5, -0.5)
    axis.margins(x=0.005)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    _draw_legend(axis, list(summary.values()), rows["verdict"])
    return picture


def _draw_claim(axis: Axes, column: int, line: int, name: str, parts: pd.Series) -> None:
    """A name, and below it a bar of parts in the order of ``VERDICTS``."""
    axis.text(column + 0.16, line - 0.28, name, ha="left", va="center", size=4.5)
    left = column
    for verdict in VERDICTS:
        width = 0.92 * (parts == verdict).sum() / len(parts)
        axis.barh(line + 0.13, width, left=left, height=0.4, color=_COLOURS[verdict], lw=0)
        left += width


def _draw_legend(axis: Axes, claims: list[str], parts: pd.Series) -> None:
    """Colours of parts and marks of claims, each with its number."""
    counts = {verdict: (parts == verdict).sum() for verdict in VERDICTS[:3]}
    colours = [Patch(color=_COLOURS[verdict], label=f"{n} {verdict}") for verdict, n in counts.items()]
    style: dict[str, Any] = {"color": "k", "ls": "", "ms": 4, "mew": 0}
    marks = [Line2D([], [], marker=_MARKERS[v], label=f"{claims.count(v)} {v}", **style) for v in CLAIM_VERDICTS]
    place: dict[str, Any] = {
        "loc": "lower right",
        "fontsize": "x-small",
        "title_fontsize": "x-small",
        "alignment": "left",
    }
    axis.add_artist(axis.legend(handles=colours, title="bars: parts", bbox_to_anchor=(0.81, 0), **place))
    axis.legend(handles=marks, title="marks: claims", bbox_to_anchor=(1, 0), **place)


def draw() -> None:
    """Write figures/scorecard.svg and .png."""
    plot.write(picture_of(scorecard()), "scorecard")

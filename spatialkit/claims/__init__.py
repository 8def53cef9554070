"""Claims: the list with its rules, numbers with intervals, verdicts, and the scorecard."""

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
from spatialkit.claims.judging import VERDICTS, all_of, judge, span, tally, verdict_on
from spatialkit.claims.overview import figure, markdown, summary_line, verdicts
from spatialkit.claims.records import findings, record, scorecard
from spatialkit.claims.rules import catalogue, smallest, sources

__all__ = [
    "VERDICTS", "Estimate", "all_of", "bootstrap", "catalogue", "correlation", "figure", "findings", "geometric_mean",
    "jackknife", "judge", "lead_of_correlation", "markdown", "mean_of", "record", "scorecard", "share", "smallest",
    "sources", "span", "summary_line", "tally", "verdict_on", "verdicts",
]  # fmt: skip

"""`reproduce`: compute notebooks again in a folder of their own, and hold the result against the committed evidence."""

from __future__ import annotations

import math
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from spatialkit import lab
from spatialkit.commands import report
from spatialkit.commands.plan import Plan, number_of, records_of, select
from spatialkit.commands.runner import alone, check_writable, remove_leftovers, run_notebooks

__all__ = ["Comparison", "Reproduction", "compare", "reproduce"]

_OPPOSITE = {"replicated", "not replicated"}
_KINDS = ("equal", "inside", "outside", "missing")
_LEGEND = (
    "equal: all printed digits of value and interval; inside: the new value lies in the committed interval (of a "
    "quantity without one: equal to three digits); missing: on one side only; opposite: replicated on one side, not "
    "replicated on the other."
)


@dataclass(frozen=True)
class Reproduction(Plan):
    """A plan that reads no committed record and writes beside the evidence; a killed one goes on."""

    fresh: bool = True

    @property
    def build(self) -> Path:
        return self.base / "build" / "reproduce" / self.profile

    @property
    def out(self) -> Path:
        return self.build

    @property
    def marker(self) -> Path:
        return self.build / "begun"

    @property
    def page(self) -> Path:
        return self.build / f"reproduced-{'-'.join(self.only) or 'all'}.md"


@dataclass(frozen=True)
class Comparison:
    """One quantity of the scorecard, as committed and as computed here; an empty row where one side lacks it."""

    claim: str
    what: str
    committed: dict
    here: dict

    @property
    def kind(self) -> str:
        """``equal``, ``inside`` the committed interval, ``outside``, or ``missing`` on one side."""
        if not self.committed or not self.here:
            return "missing"
        if all(self.committed[key] == self.here[key] for key in ("ours", "low", "high")):
            return "equal"
        ours, value = float(self.here["ours"] or "nan"), float(self.committed["ours"] or "nan")
        low, high = (float(self.committed[key] or "nan") for key in ("low", "high"))
        if math.isnan(low) and math.isnan(high):
            return "inside" if math.isclose(ours, value, rel_tol=1e-3, abs_tol=1e-9) else "outside"
        return "outside" if math.isnan(ours) or ours < low or ours > high else "inside"  # a side may be open

    @property
    def verdicts(self) -> str:
        """``same``, ``different`` or ``opposite``; ``-`` where one side has none."""
        if self.kind == "missing":
            return "-"
        both = {self.committed["verdict"], self.here["verdict"]}
        return "same" if len(both) == 1 else "opposite" if both == _OPPOSITE else "different"

    @property
    def cells(self) -> list[str]:
        """Claim, quantity, committed, here, what became of value and verdict."""
        sides = [_quantity(row) for row in (self.committed, self.here)]
        return [self.claim, self.what, *sides, self.kind, self.verdicts]


def _quantity(row: dict) -> str:
    if not row:
        return "-"
    interval = f" [{row['low']}, {row['high']}]" if row["low"] else ""
    return f"{row['ours']}{interval}, {row['verdict']}"


def compare(committed: Path, here: Path, numbers: set[str]) -> list[Comparison]:
    """Quantities of the claims of some notebooks in two scorecards, matched by claim, words and data set.

    Raises:
        ValueError: If there is no committed scorecard to compare with.
    """
    if not committed.is_file():
        raise ValueError(f"{committed} is not there: there is no committed evidence to hold a result against")
    old, new = _rows(committed, numbers), _rows(here, numbers)
    return [Comparison(key[0], key[1], old.get(key, {}), new.get(key, {})) for key in dict.fromkeys([*old, *new])]


def _rows(card: Path, numbers: set[str]) -> dict[tuple, dict]:
    """Rows with a verdict by claim, words, data set (whatever its copy), and place among rows with the same."""
    import pandas as pd

    from spatialkit.claims import catalogue

    if not card.is_file():
        return {}
    rows: dict[tuple, dict] = {}
    seen: Counter = Counter()
    for row in pd.read_csv(card, dtype=str, keep_default_na=False).to_dict("records"):
        notebook = catalogue().get(row["claim"], {}).get("notebook")
        if notebook in numbers and row["verdict"] != "not run":
            key = (row["claim"], row["what"], row["dataset"].split(" (")[0])
            rows[*key, seen[key]] = row
            seen[key] += 1
    return rows


def _machines(made: list[dict]) -> str:
    """Processors and versions behind some records, each once, with the number of runs."""
    tally: Counter = Counter()
    for one in made:
        device = " ".join(dict.fromkeys(filter(None, [one.get("device"), one.get("processor")])))
        tally[f"{device or 'unknown'}, Python {one.get('python', '?')}, torch {one.get('torch', '?')}"] += 1
    return "; ".join(f"{name} ({report.count(n, 'run')})" for name, n in tally.most_common()) or "no runs"


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, its columns aligned so that it reads well in a terminal."""
    lines = [header, *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def _by_claim(comparisons: list[Comparison]) -> str:
    parts = defaultdict(list)
    for one in comparisons:
        parts[one.claim].append(one)
    parts["all"] = comparisons
    rows = []
    for claim, part in parts.items():
        kinds, verdicts = Counter(one.kind for one in part), Counter(one.verdicts for one in part)
        rows.append([claim, str(len(part)), *(str(kinds[kind]) for kind in _KINDS)])
        rows[-1] += [str(verdicts[name]) for name in ("different", "opposite")]
    return _table(["claim", "quantities", *_KINDS, "verdict differs", "opposite"], rows)


def _deviates(one: Comparison) -> bool:
    return one.kind in ("outside", "missing") or one.verdicts in ("different", "opposite")


def _holds(comparisons: list[Comparison]) -> bool:
    return bool(comparisons) and all(c.kind in ("equal", "inside") and c.verdicts != "opposite" for c in comparisons)


def _conclusion(comparisons: list[Comparison]) -> str:
    kinds = Counter(one.kind for one in comparisons)
    inside = f"{kinds['equal'] + kinds['inside']} of {report.count(len(comparisons), 'quantity').replace('ys', 'ies')}"
    verdicts = Counter(one.verdicts for one in comparisons)
    return (
        f"{'Reproduced' if _holds(comparisons) else 'Not reproduced'}: {inside} inside the committed interval, "
        f"{kinds['equal']} of them equal; {verdicts['different'] + verdicts['opposite']} verdicts differ, "
        f"{verdicts['opposite']} of them opposite."
    )


def _page(plan: Reproduction, comparisons: list[Comparison], machines: str, took: str) -> str:
    header = ["claim", "quantity", "committed", "here", "value", "verdict"]
    names = ", ".join(path.stem for path in select(plan.base, plan.only))
    rows = [one.cells for one in comparisons]
    parts = [
        f"# Reproduction of {names}, profile {plan.profile}",
        _conclusion(comparisons),
        f"{machines}\n{took}",
        _by_claim(comparisons),
        _LEGEND,
        "## Every quantity",
        _table(header, rows),
    ]
    return "\n\n".join(parts) + "\n"


def reproduce(plan: Reproduction, anew: bool = False) -> int:
    """Compute again, compare, print a table and write a page.

    Args:
        plan: What to compute.
        anew: Forget what an earlier reproduction computed, instead of going on with it.

    Returns:
        Exit status: 0 when every notebook passed, every quantity is equal or inside the committed interval, and no
        verdict is opposite.
    """
    notebooks = select(plan.base, plan.only)
    committed = plan.base / "figures" / "scorecard.csv"
    numbers = {number_of(path) for path in notebooks}
    compare(committed, committed, numbers)  # says before any work that there is nothing to compare with
    with alone(plan.base, "reproduce"):
        if anew:
            shutil.rmtree(plan.build, ignore_errors=True)
        check_writable(plan.build)
        remove_leftovers(plan.out)
        made = records_of(plan.base, plan.profile, notebooks)
        print(report.opening(made, plan, len(notebooks)), flush=True)
        outcomes = run_notebooks(plan)
        report.print_summary(outcomes)
        comparisons = compare(committed, plan.out / "figures" / "scorecard.csv", numbers)
        here = records_of(plan.out, plan.profile, notebooks)
        _tell(plan, comparisons, made, here)
    return 0 if all(outcome.status == "passed" for outcome in outcomes) and _holds(comparisons) else 1


def _tell(plan: Reproduction, comparisons: list[Comparison], made: list[dict], here: list[dict]) -> None:
    """Print the table and what deviates; write the page."""
    machines = f"Committed: {_machines(made)}.\nHere: {_machines(here)}, on {lab.processor()['processor']}."
    minutes = [sum(float(one.get("seconds") or 0) for one in records) / 60 for records in (made, here)]
    took = f"Time of all runs, summed: {minutes[0]:.1f} minutes as committed, {minutes[1]:.1f} here."
    plan.page.write_text(_page(plan, comparisons, machines, took), "utf-8")
    print(f"\n{_by_claim(comparisons)}\n\n{_LEGEND}")
    deviating = [one.cells for one in comparisons if _deviates(one)]
    if deviating:
        print("\n" + _table(["claim", "quantity", "committed", "here", "value", "verdict"], deviating))
    print(f"\n{machines}\n{took}\n{_conclusion(comparisons)}\npage to keep: {report.shown(plan.page)}", flush=True)

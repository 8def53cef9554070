"""What a run of the notebooks tells its reader: how long, what failed, what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from spatialkit import lab
from spatialkit.commands.execute import Outcome

if TYPE_CHECKING:
    from spatialkit.commands.plan import Plan

_SMOKE_SECONDS = 20  # rough time of one smoke notebook on one core
_PRINTED_TRACEBACK = 12  # lines; the log has all of them


def count(number: int, noun: str) -> str:
    """`1 notebook`, `2 notebooks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _words(seconds: float) -> str:
    """A duration as one would say it."""
    if seconds < 45:
        return "less than a minute"
    if seconds < 90 * 60:
        return f"about {count(max(1, round(seconds / 60)), 'minute')}"
    return f"about {count(round(seconds / 3600), 'hour')}"


def opening(records: list[dict], plan: Plan, n_notebooks: int) -> str:
    """The first line of a run: profile and why, how much, how long, and on what kind of processor."""
    takes = duration_words(records, plan, n_notebooks)
    notebooks = count(n_notebooks, "notebook")
    return f"profile {plan.profile} ({plan.reason}): {notebooks}, {takes}; processor {lab.bfloat16_words()}"


def duration_words(records: list[dict], plan: Plan, n_notebooks: int) -> str:
    """About what a run will take, from what the records of earlier runs took."""
    jobs = count(plan.jobs, "job")
    if plan.profile == "smoke":
        return f"{_words(n_notebooks * _SMOKE_SECONDS / plan.jobs)} with {jobs}; output in build/smoke"
    if not records:
        return f"how long is not known, since no results at this profile are here yet; {jobs}"
    if not plan.fresh:
        return f"seconds to minutes from committed results (FRESH=1 computes them again); {jobs}"
    total = sum(float(record.get("seconds") or 0) for record in records)
    going_on = ""
    if plan.marker.exists():
        begun = plan.marker.read_text("utf-8").strip()
        going_on = f"; going on with the run begun at {begun} (make clean forgets it)"
    return f"{_words(total / plan.jobs)} with {jobs}, everything computed again{going_on}"


def print_ending(plan: Plan) -> None:
    """Where the figures are, and which claims of these notebooks hold, by the scorecard."""
    card = plan.out / "figures" / "scorecard.csv"
    if not card.is_file():
        return
    n_figures = len(list((plan.out / "figures").glob("*.png")))
    print(f"\n{count(n_figures, 'figure')} as png and svg, each with its table as csv, in {shown(card.parent)}/")
    if plan.profile == "smoke":
        print("profile smoke proves that every line runs and is no evidence: no verdict follows from it", flush=True)
        return
    for verdict, names in claims_by_verdict(plan, card).items():
        print(f"  {verdict}: {len(names)} ({', '.join(names)})")
    print(
        f"every quantity with its interval and verdict: {shown(card)}; as a picture: {shown(card.with_suffix('.png'))}"
    )


def claims_by_verdict(plan: Plan, card: Path) -> dict[str, list[str]]:
    """Verdict -> ids of the claims of the plan's notebooks, in the scorecard's own words and order."""
    import pandas as pd

    from spatialkit import claims
    from spatialkit.commands.plan import number_of, select

    rows = pd.read_csv(card, dtype=str, keep_default_na=False)
    numbers = {number_of(path) for path in select(plan.base, plan.only)}
    found: dict[str, list[str]] = {verdict: [] for verdict in claims.VERDICTS}
    for claim, verdict in claims.verdicts(rows).items():
        if claims.catalogue()[claim]["notebook"] in numbers:
            found.setdefault(verdict, []).append(claim)
    return {verdict: names for verdict, names in found.items() if names}


def last_line(log: Path) -> str:
    """The last thing a notebook said; a progress bar redraws its line with carriage returns."""
    text = log.read_bytes()[-4000:].decode("utf-8", "replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:150] if lines else "nothing said yet"


def print_outcome(outcome: Outcome, log: Path) -> None:
    """One line as soon as a notebook ends, and the end of its traceback when it failed."""
    lines = [f"  {outcome.name}: {outcome.status} in {outcome.seconds:.0f} s"]
    if outcome.status != "passed":
        trace = outcome.traceback.splitlines() or [outcome.error]
        lines += [f"    {line}" for line in trace[-_PRINTED_TRACEBACK:]]
        lines += [f"    all of it in {shown(log)}"]
    print("\n".join(lines), flush=True)  # at once: notebooks end side by side


def shown(path: Path) -> str:
    """A path as short as it can be from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def print_summary(outcomes: list[Outcome]) -> None:
    """One row per notebook: status, seconds, the failing code cell and its error."""
    width = max([len("notebook"), *(len(outcome.name) for outcome in outcomes)])
    print(f"\n{'notebook':<{width}}  status  seconds  cell  error")
    for one in outcomes:
        cell = "" if one.cell is None else str(one.cell)
        row = f"{one.name:<{width}}  {one.status:<6}  {one.seconds:>7.0f}  {cell:>4}  {one.error[:100]}"
        print(row.rstrip(), flush=True)


def fingerprints(base: Path | None) -> dict[str, str]:
    """Content hash of every table, figure and written page under a folder; empty for None."""
    if base is None:
        return {}
    paths = [path for name in ("results", "figures") for path in sorted((base / name).rglob("*"))]
    paths = [path for path in paths if path.is_file() and path.suffix not in (".lock", ".part")]
    paths += [base / name for name in ("README.md", "docs/scorecard.md") if (base / name).is_file()]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return {path.relative_to(base).as_posix(): digest for path, digest in zip(paths, hashes, strict=True)}


def print_changes(before: dict[str, str], after: dict[str, str], plan: Plan) -> None:
    """The files that are new or differ, and how many stayed as they were."""
    differing = [name for name in after if before.get(name) != after[name]]
    changed = {name: "changed" if name in before else "new" for name in differing}
    folder = plan.out.relative_to(plan.base).as_posix()
    print(f"\nwrote {count(len(changed), 'file')} under {'this folder' if folder == '.' else folder}", end="")
    print(f", {len(after) - len(changed)} unchanged:" if changed else f", {len(after)} unchanged")
    for name, what in changed.items():
        print(f"  {name}{'' if what == 'new' and not before else f'  ({what})'}")
    executed = (plan.build / "notebooks").relative_to(plan.base).as_posix()
    print(f"executed notebooks: {executed}/", flush=True)

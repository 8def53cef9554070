"""Provenance: which code, data, machine and versions made a number."""

import datetime
import functools
import subprocess
from collections import Counter

from spatialkit.lab import ledger, places
from spatialkit.lab.origins import Tables, runs_behind

__all__ = ["code_behind", "describe", "now", "of_session", "summary"]


def now() -> str:
    """The time in UTC to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def of_session(profile: str, code: str) -> dict:
    """What a sweep knows before its runs start."""
    return {"profile": profile, "code": code, "commit": commit(), "date": now()}


@functools.cache
def commit() -> str:
    """Short hash of the bundle's commit, with "+" where files differ from it; "unknown" without git."""
    try:
        git = functools.partial(
            subprocess.run, cwd=places.root(), capture_output=True, encoding="utf-8", check=True, timeout=10
        )
        head = git(["git", "rev-parse", "--short=10", "HEAD"]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--untracked-files=no", "--", "spatialkit", "notebooks"])
        return head + ("+" if changed.stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def summary(runs: Tables) -> dict:
    """What the runs behind a table have in common, and how the code that made them stands to the present one.

    "other code" counts runs that other code made; "equal code" lists the bridges (`spatialkit.lab.ledger`) over which
    the present code was found to give the same.

    Args:
        runs: What ``lab.sweep`` returned, a part of it, or a list of such tables; the runs of its rows count.

    Raises:
        ValueError: If the rows belong to no sweep of this session, or could belong to two tasks.
    """
    behind = runs_behind(runs)
    copies = {f"{name.split('/')[0]} ({source['copy']})" for run in behind for name, source in run.made["data"].items()}
    codes = Counter((run.task, run.made["code"], run.code) for run in behind)
    paths = {which: ledger.path(*which) for which in codes}
    bridges = {bridge for path in paths.values() if path for bridge in path}
    return {
        "task": sorted({run.task for run in behind}),
        "profile": sorted({run.made["profile"] for run in behind}),
        "data": sorted(copies),
        "device": sorted({run.made["device"] for run in behind}),
        "other code": sum(n for which, n in codes.items() if paths[which] is None),
        "equal code": sorted([bridge.task, bridge.old, bridge.equal, bridge.of, bridge.within] for bridge in bridges),
        "runs": len(behind),
        "seeds": len({run.config["seed"] for run in behind if "seed" in run.config}),
    }


def code_behind(made: dict) -> str:
    """In words: "present", "equal by 9 of 9 reruns (within 1e-06)", or how many runs other code made."""
    if made["other code"]:
        return f"{made['other code']} of {made['runs']} runs by other code"
    bridges = made["equal code"]
    if not bridges:
        return "present"
    equal, of, within = (function(b[i] for b in bridges) for i, function in ((2, sum), (3, sum), (4, max)))
    return f"equal by {equal} of {of} reruns" + (f" (within {within:.0e})" if within else "")


def describe(runs: Tables) -> str:
    """One line on the runs behind a table: profile, data, device, how many runs and seeds.

    Args:
        runs: As for `summary`.
    """
    made = summary(runs)
    seeds = f", {made['seeds']} seed{'s' * (made['seeds'] != 1)}" if made["seeds"] else ""
    data = ", ".join(made["data"]) or "no data set"
    profile = " and ".join(made["profile"])
    other = f", {made['other code']} of them made by other code" if made["other code"] else ""
    return f"profile {profile}; {data}; {', '.join(made['device'])}; {made['runs']} runs{seeds}{other}"

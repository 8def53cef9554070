"""Audit: which committed numbers stand on the present code, and by what."""

import collections
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from spatialkit.lab import ledger, places
from spatialkit.lab.choice import choose
from spatialkit.lab.fingerprint import fingerprint
from spatialkit.lab.store import Store
from spatialkit.lab.tasks import Task
from spatialkit.lab.twin import definitions

__all__ = ["Standing", "current_code", "main", "notebooks", "present_tasks", "standings"]


def notebooks(root: Path) -> list[Path]:
    """The numbered notebooks."""
    return sorted((root / "notebooks").glob("[0-9]*.ipynb"))


def current_code(notebook: Path) -> dict[str, tuple[int, str]]:
    """Task name -> (version, fingerprint) of every task that a notebook defines.

    ``verify`` calls this function of other commits: its name, place and result stay what they are.
    """
    tasks = [value for value in definitions(notebook).values() if isinstance(value, Task)]
    return {task.name: (task.version, fingerprint(task.function)) for task in tasks}


def present_tasks(root: Path) -> dict[str, tuple[int, str, Path]]:
    """Task name -> version, fingerprint and the first notebook that defines it."""
    found: dict[str, tuple[int, str, Path]] = {}
    for notebook in notebooks(root):
        for name, (version, code) in current_code(notebook).items():
            found.setdefault(name, (version, code, notebook))
    return found


@dataclass
class Standing:
    """How the records of one task stand to the present code.

    Attributes:
        task: Its name.
        counts: "present", "equal by 9 of 9 reruns", ... -> number of records.
        problems: What is wrong, in words.
    """

    task: str
    counts: collections.Counter = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)


def standings(root: Path | None = None) -> list[Standing]:
    """One per file of results; those with problems are not evidence for the present code."""
    root = root or places.evidence()
    present = present_tasks(root)
    bridges = ledger.read(root)
    found = []
    for path in sorted((root / "results").glob("*.jsonl")):
        records = list(Store(path.parent, path.stem).read().values())
        standing = Standing(path.stem)
        found.append(standing)
        if path.stem not in present:
            standing.problems.append(f"{len(records)} records, but no notebook defines this task")
            continue
        version, code, _ = present[path.stem]
        current = [r for r in records if r["version"] == version]
        if len(current) < len(records):
            standing.problems.append(f"{len(records) - len(current)} of {len(records)} records of another version")
        _judge(standing, current, code, [b for b in bridges if b.task == path.stem], root)
    return found


def _judge(standing: Standing, records: list[dict], code: str, bridges: list[ledger.Bridge], root: Path) -> None:
    """Count records by how their code stands to the present one; refuse bridges that do not hold."""
    used: set[ledger.Bridge] = set()
    for made, n in collections.Counter(r["made"]["code"] for r in records).items():
        path = ledger.path(standing.task, made, code, bridges)
        if path is None:
            standing.problems.append(f"{n} of {len(records)} records made by other code ({made})")
            continue
        used |= set(path)
        standing.counts[_words(path)] += n
    for bridge in bridges:
        if bridge not in used:
            standing.problems.append(f"the bridge {bridge.old} - {bridge.new} leads from no record to the present code")
        standing.problems += _faults(bridge, records, bridges, root)


def _words(path: list[ledger.Bridge]) -> str:
    if not path:
        return "present"
    within = max(bridge.within for bridge in path)
    words = f"equal by {sum(b.equal for b in path)} of {sum(b.of for b in path)} reruns"
    return words + (f" (within {within:.0e})" if within else "")


def _faults(bridge: ledger.Bridge, records: list[dict], bridges: list[ledger.Bridge], root: Path) -> list[str]:
    """What is wrong with a bridge: other runs than the rule picks, an unknown commit."""
    name, faults = f"the bridge {bridge.old} - {bridge.new}", []
    behind = [r for r in records if ledger.path(bridge.task, r["made"]["code"], bridge.old, bridges) is not None]
    picked = choose(behind, bridge.old, bridge.new)
    if set(bridge.keys) != set(picked) or bridge.equal != len(picked):
        faults.append(f"{name} stands on other runs than the rule picks; run verify again")
    elif bridge.shrunk != {key: smaller for key, smaller in picked.items() if smaller}:
        faults.append(f"{name} shrank runs in another way than the rule")
    if _is_known(bridge.commit, root) is False:
        faults.append(f"{name} names the commit {bridge.commit}, which is not in the history")
    return faults


def _is_known(commit: str, root: Path) -> bool | None:
    """Whether a commit is an ancestor of the present one; None where git or the history is not here."""
    git = ["git", "-C", str(root)]
    try:
        if subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True).returncode:
            return None
        shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True)
        done = subprocess.run([*git, "merge-base", "--is-ancestor", commit, "HEAD"], capture_output=True)
    except OSError:
        return None
    return done.returncode == 0 or (None if shallow.stdout.strip() == b"true" else False)


def main(root: Path | None = None) -> int:
    """Print how the evidence stands, problems first. Exit status 0 when there are none."""
    found = standings(root)
    total: collections.Counter = collections.Counter()
    for standing in found:
        for problem in standing.problems:
            print(f"{standing.task}: {problem}")
        for words, n in standing.counts.items():
            total["present" if words == "present" else "found equal" if "within" not in words else "nearly equal"] += n
    words = ", ".join(f"{n} {what}" for what, n in sorted(total.items()))
    bad = sum(bool(standing.problems) for standing in found)
    print(f"records by present code or code that was found equal: {words or 'none'}; {bad} tasks with problems")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Verify: carry records over a change of code, by running old and new code side by side.

For each task whose records other code made, the newest commit is found whose code that was, by its own fingerprints.
Both codes then make the runs that `spatialkit.lab.choice` picks, as twins: on this machine, at the same time, one
thread each. Where all rows are equal, bit for bit, the ledger gets a line. Records are never rewritten, and never
compared with: another processor rounds in another way.
"""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from spatialkit.lab import ledger, twin
from spatialkit.lab.audit import present_tasks
from spatialkit.lab.choice import choose
from spatialkit.lab.executors import ENVIRONMENT
from spatialkit.lab.fingerprint import reached
from spatialkit.lab.machine import processor
from spatialkit.lab.nudge import verdicts_that_change
from spatialkit.lab.settings import environment
from spatialkit.lab.store import Store, atomic_write

__all__ = ["LARGEST", "compare", "verify"]

LARGEST = 1e-5  # difference, relative to the column's largest value, that a reason may excuse
_TRAINS = ("spatialkit.train.gradients", "spatialkit.train.hinge", "spatialkit.train.kept")
_KEEP_NETWORKS = ("spatialkit.train.kept", "spatialkit.train.classes", "spatialkit.train.scales")
_SEARCHED = 60  # commits


@dataclass
class _Claim:
    """That the present code of a task gives what an older one gave."""

    task: str
    old: str
    new: str
    notebook: Path
    records: list[dict]
    commit: str = ""
    old_notebook: str = ""
    differences: list[str] = field(default_factory=list)
    within: float = 0.0


def verify(root: Path, base: str | None = None, task: str | None = None, within: float = 0.0, because: str = "") -> int:
    """Compare codes and write the ledger; print what is done. Exit status 0 when nothing is left "other".

    Args:
        root: The bundle.
        base: Commit that holds the old code; by default the newest whose fingerprints are those of the records.
        task: Only this task.
        within: Largest difference to accept, relative to the largest value of its column; 0: none.
        because: The reason for such a difference.

    Raises:
        ValueError: If ``within`` is over 1e-5 or has no reason, or the base is unknown.
    """
    if not 0 <= within <= LARGEST or (within and not because):
        raise ValueError(f"within must be from 0 to {LARGEST:g}, and above 0 it needs a reason (--because)")
    claims = _claims(root, task)
    if not claims:
        print("every record was made by the present code, or by code that was found equal")
        return 0
    work = (root / "build" / "verify").resolve()
    left = _find_bases(claims, root, base, work)
    start, equal = time.monotonic(), []
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(_Twin(root, work / "new"))
        old: dict[str, _Twin] = {}
        for claim in claims:
            if claim.commit and claim.commit not in old:
                old[claim.commit] = stack.enter_context(_Twin(work / claim.commit, work / f"old-{claim.commit}"))
        for claim in (c for c in claims if c.commit):
            bridge = _bridge(claim, old[claim.commit], new, root, within, because)
            if bridge:
                equal.append(bridge)
                _write_down(equal, claims, root)
    minutes = (time.monotonic() - start) / 60
    records = sum(len(c.records) for c in claims if any(b.task == c.task and b.old == c.old for b in equal))
    different = [c.task for c in claims if c.differences]
    print(f"{len(equal)} of {len(claims)} codes found equal, {records} records carried over in {minutes:.0f} minutes")
    for name in different:
        print(f"{name} differs: raise its version, or make its runs again")
    return 1 if different or left else 0


def _claims(root: Path, only: str | None) -> list[_Claim]:
    """What is to be shown: one per task and code that the ledger does not join to the present one."""
    present = present_tasks(root)
    if only is not None and only not in present:
        raise ValueError(f"no notebook defines a task {only!r}; there are: {', '.join(sorted(present))}")
    claims = []
    for name, (version, code, notebook) in sorted(present.items()):
        by_code = defaultdict(list)
        for record in Store(root / "results", name).read().values():
            if record["version"] == version and only in (None, name):
                by_code[record["made"]["code"]].append(record)
        open_codes = [made for made in by_code if ledger.path(name, made, code, ledger.read(root)) is None]
        claims += [_Claim(name, made, code, notebook, by_code[made]) for made in open_codes]
    return claims


# ---------------------------------------------------------------- the base


def _find_bases(claims: list[_Claim], root: Path, base: str | None, work: Path) -> list[_Claim]:
    """Give every claim the newest commit that holds its old code; returns those without."""
    wanted = {claim.task for claim in claims}
    for commit in [_full(root, base)] if base else _history(root):
        if all(claim.commit for claim in claims):
            break
        codes = _codes_of(commit, root, work, wanted)
        for claim in claims:
            if not claim.commit and codes.get(claim.task, [None, None, ""])[1] == claim.old:
                claim.commit, claim.old_notebook = commit[:10], codes[claim.task][2]
    left = [claim for claim in claims if not claim.commit]
    for claim in left:
        print(f"{claim.task}: no commit looked at holds the code {claim.old} of {len(claim.records)} records")
    return left


def _git(root: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True)
    if done.returncode:
        raise ValueError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _full(root: Path, commit: str) -> str:
    return _git(root, "rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()


def _history(root: Path) -> list[str]:
    """Commits that changed code, newest first."""
    return _git(root, "rev-list", f"--max-count={_SEARCHED}", "HEAD", "--", "spatialkit", "notebooks").decode().split()


def _codes_of(commit: str, root: Path, work: Path, wanted: set[str]) -> dict:
    """Task -> [version, fingerprint, notebook] of a commit, by its own function; remembered."""
    known = work / "codes" / f"{commit}.json"
    if not known.exists():
        _check_out(commit, root, work / commit[:10])
        with _Twin(work / commit[:10], work / f"old-{commit[:10]}") as side:
            atomic_write(known, json.dumps(side.ask(what="codes")))
    return {task: code for task, code in json.loads(known.read_text("utf-8")).items() if task in wanted}


def _check_out(commit: str, root: Path, folder: Path) -> None:
    """The code of a commit, in a folder of its own; git's own list of worktrees is left alone."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        archive = _git(root, "archive", commit, "pyproject.toml", "spatialkit", "notebooks")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(part, filter="data")
        os.replace(part, folder)


# ---------------------------------------------------------------- the twins


class _Twin:
    """A process that runs tasks of one tree."""

    def __init__(self, tree: Path, out: Path):
        own = {"PYTHONPATH": str(tree), "SPATIALKIT_OUT": str(out)}
        env = environment(["SPATIALKIT_FRESH"], **ENVIRONMENT | own)
        command = [sys.executable, "-P", str(Path(twin.__file__).resolve()), str(tree)]
        self.tree = tree
        self._process = subprocess.Popen(
            command, env=env, cwd=tree, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> "_Twin":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.wait()

    def send(self, **asked) -> None:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(asked), file=self._process.stdin, flush=True)

    def receive(self):
        """The answer to what was sent first.

        Raises:
            ValueError: If there is none, or the run raised.
        """
        line = self._process.stdout.readline() if self._process.stdout else ""
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["answer"]

    def ask(self, **asked):
        self.send(**asked)
        return self.receive()


def _bridge(claim: _Claim, old: _Twin, new: _Twin, root: Path, within: float, because: str) -> ledger.Bridge | None:
    """Make the chosen runs by both codes; a bridge if all rows agree."""
    known = [r for r in Store(root / "results", claim.task).read().values()]
    behind = [r for r in known if ledger.path(claim.task, r["made"]["code"], claim.old) is not None]
    chosen = choose(behind, claim.old, claim.new)
    print(
        f"{claim.task}: {len(chosen)} of {len(behind)} runs, code {claim.old} of {claim.commit} - {claim.new}", end=""
    )
    start = time.monotonic()
    pairs = {}
    for key, smaller in chosen.items():
        config = json.loads(key.split(":", 1)[1]) | smaller
        old.send(what="rows", task=claim.task, notebook=claim.old_notebook, config=config)
        new.send(what="rows", task=claim.task, notebook=claim.notebook.name, config=config)
        pairs[key] = [_received(side, claim, key) for side in (old, new)]
        if claim.differences:
            break
    if not claim.differences:
        claim.within, claim.differences = compare(pairs, within)
    if claim.within and not claim.differences:
        claim.differences = _refusals(claim, root)
    print(f": {'differs' if claim.differences else 'equal'}, {time.monotonic() - start:.0f} s", flush=True)
    for line in claim.differences:
        print(f"  {line}")
    if claim.differences:
        return None
    shrunk = {key: smaller for key, smaller in chosen.items() if smaller}
    modules = _modules(claim, old, new)
    machine = ", ".join(processor().values())
    return ledger.Bridge(
        claim.task, claim.old, claim.new, len(chosen), len(chosen), tuple(chosen), shrunk, claim.within,
        because if claim.within else "", modules, machine, claim.commit,
    )  # fmt: skip


def _received(side: _Twin, claim: _Claim, key: str) -> list[dict]:
    try:
        return side.receive()
    except ValueError as error:
        claim.differences.append(f"{key}: {side.tree.name} raises {error}")
        return []


def _modules(claim: _Claim, old: _Twin, new: _Twin) -> dict:
    """Fingerprints, before and now, of the modules that keep networks, where the task trains by them."""
    names = sorted(set(_KEEP_NETWORKS) & _reached(claim))
    if "spatialkit.train.kept" not in names:
        return {}
    before, now = (side.ask(what="modules", names=names) for side in (old, new))
    return {name: [before[name], now[name]] for name in now if name in before}


def _reached(claim: _Claim) -> frozenset[str]:
    return reached(twin.definitions(claim.notebook)[claim.task].function)


def compare(pairs: dict[str, list[list[dict]]], within: float = 0.0) -> tuple[float, list[str]]:
    """The largest relative difference, and a line for each column that differs by more than is accepted.

    Rows must be equal in number, columns and types; numbers bit for bit, or by at most ``within`` times the largest
    value of their column; nan equals nan.
    """
    largest: dict[str, float] = defaultdict(float)
    cells = [
        (key, name, row[name], other.get(name))
        for key, (old, new) in pairs.items()
        for row, other in zip(old, new, strict=False)
        for name in row
    ]
    for _, name, value, _ in cells:
        if isinstance(value, float) and math.isfinite(value):
            largest[name] = max(largest[name], abs(value))
    worst, lines = 0.0, {}
    for key, (old, new) in pairs.items():
        if len(old) != len(new) or [list(row) for row in old] != [list(row) for row in new]:
            lines["rows"] = f"{key}: {len(old)} rows of other columns than the {len(new)} by the new code"
    for key, name, a, b in cells:
        by = _difference(a, b, largest[name])
        if by > within:
            lines.setdefault(name, f"{key}: {name} was {a!r}, is {b!r}")
        elif by:
            worst = max(worst, by)
    return worst, list(lines.values())


def _difference(a, b, largest: float) -> float:
    """0 for equal values of the same type, else relative to the largest of the column; infinite for other things."""
    if type(a) is type(b) and repr(a) == repr(b):  # nan equals nan, and -0.0 is not 0.0
        return 0.0
    if isinstance(a, float) and isinstance(b, float) and math.isfinite(a) and math.isfinite(b):
        return abs(a - b) / largest if largest else math.inf
    return math.inf


def _refusals(claim: _Claim, root: Path) -> list[str]:
    """Why a small difference is not accepted: a training, or a verdict that could change."""
    trained = sorted(set(_TRAINS) & _reached(claim))
    if trained:
        return [f"differs by {claim.within:.1e}, and trains ({', '.join(trained)}): small differences grow there"]
    return verdicts_that_change(root, claim.task, claim.within)


def _write_down(equal: list[ledger.Bridge], claims: list[_Claim], root: Path) -> None:
    """Add bridges, and drop those of their tasks that lie on no way from a record to the present code."""
    tasks = {bridge.task for bridge in equal}
    known = [bridge for bridge in ledger.read(root) if bridge not in equal] + equal
    needed: set[ledger.Bridge] = set()
    for claim in (c for c in claims if c.task in tasks):
        for record in Store(root / "results", claim.task).read().values():
            needed.update(ledger.path(claim.task, record["made"]["code"], claim.new, known) or [])
    ledger.write([bridge for bridge in known if bridge.task not in tasks or bridge in needed], root)

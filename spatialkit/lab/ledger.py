"""The ledger: which code was found to give the same numbers as older code, and by what.

``python -m spatialkit verify`` (`spatialkit.lab.verify`) runs chosen configurations of a task by old and new code side
by side and writes one line here when all rows are equal. Records keep the fingerprint of the code that made them;
whoever asks how that code stands to the present one follows these lines.
"""

import functools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from spatialkit.lab import places
from spatialkit.lab.store import atomic_write

__all__ = ["Bridge", "file", "path", "read", "same_module", "write"]


@dataclass(frozen=True)
class Bridge:
    """One line: ``equal`` of ``of`` reruns gave the same rows by both codes.

    Attributes:
        task: Name of the task.
        old, new: Fingerprints.
        equal, of: Numbers of reruns; a line is written only if they are the same number.
        keys: The runs that were made by both, as `spatialkit.lab.store.key_of` names them.
        shrunk: Key -> the arguments that were made smaller for the comparison.
        within: 0 where rows are equal bit for bit; else the largest difference, relative to its column's largest value.
        because: Why a difference was accepted.
        modules: Module -> [old, new] fingerprint of those that keep trained networks and were reached.
        machine: Processor and instruction set on which both ran.
        commit: The commit that holds the old code.
    """

    task: str
    old: str
    new: str
    equal: int
    of: int
    keys: tuple[str, ...] = field(hash=False)
    shrunk: dict = field(hash=False)
    within: float
    because: str
    modules: dict = field(hash=False)
    machine: str
    commit: str


def file(root: Path | None = None) -> Path:
    """Where the committed ledger is."""
    return (root or places.evidence()) / "results" / "verified" / "equal.jsonl"


def read(root: Path | None = None) -> list[Bridge]:
    """All lines.

    Raises:
        ValueError: If a line is none; names file and line.
    """
    found = file(root)
    return list(_read(found, found.stat().st_mtime_ns if found.exists() else 0))


@functools.lru_cache(maxsize=8)
def _read(found: Path, stamp: int) -> tuple[Bridge, ...]:
    bridges = []
    for number, line in enumerate(found.read_text("utf-8").splitlines() if stamp else [], start=1):
        try:
            entry = json.loads(line)
            bridges.append(Bridge(**{**entry, "keys": tuple(entry["keys"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{found}, line {number} is no bridge ({error}); restore the file with git") from None
    return tuple(bridges)


def write(bridges: list[Bridge], root: Path | None = None) -> None:
    """Replace the ledger, one line per bridge, sorted by task."""
    lines = sorted(json.dumps(asdict(bridge), separators=(", ", ": ")) for bridge in bridges)
    atomic_write(file(root), "".join(f"{line}\n" for line in lines))


def path(task: str, old: str, new: str, bridges: list[Bridge] | None = None) -> list[Bridge] | None:
    """The shortest chain of bridges of a task from one code to another; [] for the same code; None if there is none."""
    chains: dict[str, list[Bridge]] = {old: []}
    todo = [old]
    mine = [b for b in (read() if bridges is None else bridges) if b.task == task and b.equal == b.of > 0]
    while todo and new not in chains:
        code = todo.pop(0)
        for bridge in mine:
            if bridge.old == code and bridge.new not in chains:
                chains[bridge.new] = [*chains[code], bridge]
                todo.append(bridge.new)
    return chains.get(new)


def same_module(name: str, old: str, new: str) -> bool:
    """Whether networks that a module kept by old code count for new code: a bridge that reached it says so."""
    if old == new:
        return True
    steps = {tuple(b.modules[name]) for b in read() if name in b.modules and b.equal == b.of > 0 and not b.within}
    known = {old}
    while found := {after for before, after in steps if before in known} - known:
        known |= found
    return new in known

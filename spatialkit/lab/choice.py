"""Which runs are made again to find out whether new code gives the same: a rule, so that nobody can choose."""

import hashlib
import json

from spatialkit.lab.store import key_of

__all__ = ["choose"]

_DRAWN = 3
_LONGEST = 20.0  # seconds that the record took; longer runs are shrunk
_AIM = 4.0  # seconds, for those
_SMALLER = {  # what is shrunk, in this order, and to no less than this
    "epochs": 1,
    "steps": 82,
    "n_train": 256,
    "n_test": 200,
    "n_measured": 50,
    "n_images": 50,
}


def choose(records: list[dict], old: str, new: str) -> dict[str, dict]:
    """Key -> arguments to be shrunk, of the runs to make by both codes.

    First the cheapest cover, found greedily: every value of every argument, the seed apart, in at least one run; next
    is always the run with the most new values per second that its record took. Then three more, drawn by a hash of both
    fingerprints, which nobody knows before the new code is written. A run of over 20 s is shrunk to about 4 s: its
    epochs, then steps, then numbers of images; all else stays as recorded.

    Args:
        records: The records of one task that the old code stands for.
        old, new: Fingerprints.
    """
    runs = {key_of(r["version"], r["config"]): r for r in records}
    values = {key: _values(record["config"]) for key, record in runs.items()}
    cost = {key: 0.5 + _expected(record) for key, record in runs.items()}
    chosen: list[str] = []
    missing = set().union(*values.values()) if values else set()
    while missing:
        best = min(runs, key=lambda key: (-len(values[key] & missing) / cost[key], key))
        chosen.append(best)
        missing -= values[best]
    rest = sorted(set(runs) - set(chosen), key=lambda key: hashlib.sha256(f"{old} {new} {key}".encode()).hexdigest())
    return {key: _shrunk(runs[key]) for key in [*(chosen or rest[:1]), *rest[:_DRAWN]]}


def _values(config: dict) -> set[tuple[str, str]]:
    return {(name, json.dumps(value, sort_keys=True)) for name, value in config.items() if name != "seed"}


def _expected(record: dict) -> float:
    seconds = float(record["made"].get("seconds") or 0)
    return seconds if seconds <= _LONGEST else _AIM


def _shrunk(record: dict) -> dict:
    """Smaller values of the arguments that make a long run short; empty for a short run."""
    smaller: dict[str, int] = {}
    seconds = float(record["made"].get("seconds") or 0)
    if seconds <= _LONGEST:
        return smaller
    for name, least in _SMALLER.items():
        value = record["config"].get(name)
        if seconds > _AIM and isinstance(value, int) and value > least:
            smaller[name] = max(least, int(value * _AIM / seconds) // 2 * 2)  # even, as sets of pairs must be
            seconds *= smaller[name] / value
    return smaller

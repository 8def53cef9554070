"""The lab: how a number comes to be.

A *task* turns a configuration into numbers; a *sweep* runs it over a grid, keeps every finished run with its
provenance, and returns one tidy table.

Notebooks use `begin`, `pick`, `task`, `grid`, `sweep` and `describe`. The other rooms use the rest: what is noted about
the run under way (`next_checkpoint`, `note_precision`, `note_loaded`), where files are (`places`) and what the
environment says (`settings`), writing whole files (`atomic_write`), values as JSON (`canonical`), where runs come from
(`summary`, `code_behind`), and which code is which (`fingerprint_of_module`, `same_module`). The lab imports no other
room, and each name loads only what it needs: places and settings are there without torch.
"""

import importlib
from typing import Any

_WHERE = {
    "context": ("next_checkpoint", "note_precision"),
    "executors": ("Processes", "Serial"),
    "fingerprint": ("fingerprint_of_module",),
    "ledger": ("same_module",),
    "machine": ("bfloat16_words", "matrix_units", "processor"),
    "origins": ("Tables", "is_swept"),
    "profiles": ("begin", "pick"),
    "provenance": ("code_behind", "describe", "now", "summary"),
    "seen": ("note_loaded",),
    "store": ("Store", "atomic_write", "canonical"),
    "sweeps": ("SweepError", "grid", "sweep"),
    "tasks": ("Task", "task"),
    "twin": ("declared",),
}
_MODULES = ("places", "settings")
_PLACES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [*sorted(_PLACES), *_MODULES]


def __getattr__(name: str) -> Any:
    """What the lab shows, when it is asked for (PEP 562)."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"spatialkit.lab.{_PLACES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"spatialkit.lab.{name}")
    raise AttributeError(f"module 'spatialkit.lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

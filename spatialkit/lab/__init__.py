"""The lab: how a number comes to be.

A *task* turns a configuration into numbers; a *sweep* runs it over a grid, keeps every finished run with its
provenance, and returns one tidy table.

Notebooks use `begin`, `pick`, `task`, `grid`, `sweep` and `describe`. The other rooms use the rest: what is noted about
the run under way (`next_checkpoint`, `note_precision`, `note_loaded`), where files are (`places`) and what the
environment says (`settings`), writing whole files (`atomic_write`), values as JSON (`canonical`), where runs come from
(`summary`, `code_behind`), and which code is which (`fingerprint_of_module`, `same_module`). The lab imports no other
room.
"""

from spatialkit.lab import places, settings
from spatialkit.lab.context import next_checkpoint, note_precision
from spatialkit.lab.executors import Processes, Serial
from spatialkit.lab.fingerprint import fingerprint_of_module
from spatialkit.lab.ledger import same_module
from spatialkit.lab.origins import Tables, is_swept
from spatialkit.lab.profiles import begin, pick
from spatialkit.lab.provenance import code_behind, describe, now, summary
from spatialkit.lab.seen import note as note_loaded
from spatialkit.lab.store import atomic_write, canonical
from spatialkit.lab.sweeps import SweepError, grid, sweep
from spatialkit.lab.tasks import Task, task

__all__ = [
    "Processes", "Serial", "SweepError", "Tables", "Task", "atomic_write", "begin", "canonical", "code_behind",
    "describe", "fingerprint_of_module", "grid", "is_swept", "next_checkpoint", "note_loaded", "note_precision",
    "now", "pick", "places", "same_module", "settings", "summary", "sweep", "task",
]  # fmt: skip

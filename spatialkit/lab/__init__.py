"""The lab: how a number comes to be.

A *task* turns a configuration into numbers; a *sweep* runs it over a grid, keeps every
finished run with its provenance, and returns one tidy table.
"""

from spatialkit.lab.executors import Processes, Serial
from spatialkit.lab.profiles import pick
from spatialkit.lab.provenance import describe, joined
from spatialkit.lab.sweeps import SweepError, grid, sweep
from spatialkit.lab.tasks import Task, task

__all__ = ["Processes", "Serial", "SweepError", "Task", "describe", "grid", "joined", "pick", "sweep", "task"]

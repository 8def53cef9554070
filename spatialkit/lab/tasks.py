"""Tasks: one run of an experiment, configuration in, numbers out."""

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spatialkit.data import watch
from spatialkit.lab import context, provenance
from spatialkit.lab.store import canonical

__all__ = ["Task", "run", "task"]


@dataclass(frozen=True)
class Task:
    """A named, versioned function of plain arguments. Call it like the function itself.

    Attributes:
        function: Takes numbers, strings, booleans, None or lists of them; returns one row (a
            dict) or a list of rows. It builds what it needs from its arguments alone.
        version: Raise it when a change of code changes the numbers: older records then no
            longer count.
    """

    function: Callable
    version: int = 1

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    def config(self, arguments: Mapping) -> dict:
        """The full configuration of a call, defaults filled in, as plain JSON types.

        Raises:
            ValueError: If an argument is missing, unknown, or not a plain value.
        """
        try:
            bound = inspect.signature(self.function).bind(**arguments)
        except TypeError as error:
            raise ValueError(f"{self.name}: {error}") from None
        bound.apply_defaults()
        return {name: canonical(value) for name, value in bound.arguments.items()}


def task(function: Callable | None = None, *, version: int = 1):
    """Make a function a task: ``@lab.task(version=1)``.

    Raises:
        ValueError: If the function takes ``*args`` or ``**kwargs``, whose names a table needs.
    """
    if function is None:
        return functools.partial(task, version=version)
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise ValueError(f"{function.__name__}: name every argument of a task; * and ** have no column names")
    return Task(function, version)


def run(task: Task, config: dict, made: dict) -> dict:
    """Run a task once and return its record. This is what travels to a worker."""
    start = time.perf_counter()
    with watch() as seen, context.run_of(task.name, task.version, config):
        result = task.function(**config)
    rows = [result] if isinstance(result, Mapping) else list(result)
    made = {
        **made,
        **provenance.of_machine(),
        "data": dict(seen),
        "seconds": round(time.perf_counter() - start, 2),
    }
    rows = [{name: _number(task, name, value) for name, value in row.items()} for row in rows]
    return {"task": task.name, "version": task.version, "config": config, "rows": rows, "made": made}


def _number(task: Task, name: str, value):
    """One cell as JSON: undefined numbers become null, which a table shows as NaN."""
    if name in inspect.signature(task.function).parameters:
        raise ValueError(f"{task.name} returns a column {name!r} that is also an argument; rename one")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{task.name}: column {name!r} must hold a number or a string, got {type(value).__name__}")

"""Tasks: one run of an experiment, configuration in, numbers out."""

import ast
import contextlib
import functools
import inspect
import math
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from threadpoolctl import threadpool_limits

from spatialkit.lab import context
from spatialkit.lab.machine import of_machine
from spatialkit.lab.seen import watch
from spatialkit.lab.store import canonical, key_of

__all__ = ["Task", "run", "task"]


@dataclass(frozen=True)
class Task:
    """A named, versioned function of plain arguments. Call it like the function itself.

    Attributes:
        function: Takes numbers, strings, booleans, None or lists of them; returns one row (a
            dict) or a list of rows. It builds what it needs from its arguments alone.
        version: Raise it when a change of code changes the numbers: older records then no
            longer count.
        added: Arguments that came later, each with the value that means the old behaviour: a
            run with that value has the key it had before.
    """

    function: Callable
    version: int = 1
    added: Mapping = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)

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

    def kept(self, config: Mapping) -> dict:
        """A configuration as a record names it: without added arguments that have their old value."""
        return {k: v for k, v in config.items() if k not in self.added or v != self.added[k]}

    def key(self, config: Mapping) -> str:
        """The identity of a run: version and configuration as kept."""
        return key_of(self.version, self.kept(config))

    def filled(self, config: Mapping) -> dict:
        """The full configuration of a record, in the order of the arguments."""
        full = {**self.added, **config}
        return {name: full[name] for name in self.arguments if name in full} | full


def task(function: Callable | None = None, *, version: int = 1, added: Mapping | None = None):
    """Make a function a task: ``@lab.task(version=1)``.

    Args:
        function: Takes plain arguments; see `Task`.
        version: See `Task`.
        added: See `Task`: ``added={"precision": "float32"}``.

    Raises:
        ValueError: If the function takes ``*args`` or ``**kwargs``, whose names a table needs; if it returns nothing;
            or if an added argument is none of its own.
    """
    if function is None:
        return functools.partial(task, version=version, added=added)
    parameters = inspect.signature(function).parameters
    if {p.kind for p in parameters.values()} & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise ValueError(f"{function.__name__}: name every argument of a task; * and ** have no column names")
    if strangers := set(added or {}) - set(parameters):
        raise ValueError(f"{function.__name__} has no argument {', '.join(sorted(strangers))}, which added names")
    if not _returns(function):
        raise ValueError(f"{function.__name__} returns nothing: a task returns a row (a dict) or a list of rows")
    return Task(function, version, {name: canonical(value) for name, value in (added or {}).items()})


def _returns(function: Callable) -> bool:
    """Whether a return statement with a value is anywhere in a function; yes where there is no source to look at."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return True
    given = (ast.Return, ast.Lambda, ast.Raise)
    return any(isinstance(node, given) and getattr(node, "value", node) is not None for node in ast.walk(tree))


def run(task: Task, config: dict, made: dict) -> dict:
    """Run a task once, on one thread, and return its record. This is what travels to a worker."""
    start = time.perf_counter()
    kept = task.kept(config)
    with _one_thread(), watch() as seen, context.run_of(task.name, task.version, kept, made["code"]) as own:
        rows = _rows(task, task.function(**config))
        machine = of_machine()
    made = {
        **made,
        **machine,
        "precision": " and ".join(sorted(own.precisions)) or None,
        "data": dict(seen),
        "seconds": round(time.perf_counter() - start, 2),
    }
    return {"task": task.name, "version": task.version, "config": kept, "rows": rows, "made": made}


@contextlib.contextmanager
def _one_thread():
    """Sums on one thread, so that a run gives the same bits in this process as in a worker."""
    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _rows(task: Task, result) -> list[dict]:
    """What a task returned as rows of plain cells."""
    rows = [result] if isinstance(result, Mapping) else result
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        hint = "; a DataFrame as .to_dict('records')" if hasattr(result, "to_dict") else ""
        raise ValueError(f"{task.name} must return a row (a dict) or a list of rows, got {type(result).__name__}{hint}")
    return [{name: _cell(task, name, value) for name, value in row.items()} for row in rows]


def _cell(task: Task, name: str, value):
    """One cell as JSON: undefined numbers become null, which a table shows as NaN."""
    if name in task.arguments:
        raise ValueError(f"{task.name} returns a column {name!r} that is also an argument; rename one")
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{task.name}: column {name!r} must hold a number or a string, got {type(value).__name__}")

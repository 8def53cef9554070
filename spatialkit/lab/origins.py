"""Origins: which runs the rows of a table come from. Tables stay plain; the session remembers what it swept."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

__all__ = ["Run", "Tables", "is_swept", "remember", "runs_behind"]

Tables: TypeAlias = pd.DataFrame | Sequence[pd.DataFrame]


class Run(NamedTuple):
    """One run as a sweep returned it.

    Attributes:
        task: Name of the task.
        config: The record's configuration.
        made: The record's provenance.
        code: Fingerprint of the task at the time of the sweep.
        columns: What the run returned.
    """

    task: str
    config: dict
    made: dict
    code: str
    columns: frozenset[str]


# task -> the names of its arguments, and their values -> run
_known: dict[str, tuple[tuple[str, ...], dict[tuple, Run]]] = {}


def remember(arguments: tuple[str, ...], configs: Iterable[dict], runs: Iterable[Run]) -> None:
    """Keep the runs of one sweep, each under the full configuration that its rows show."""
    for config, run in zip(configs, runs, strict=True):
        if run.task not in _known or _known[run.task][0] != arguments:
            _known[run.task] = arguments, {}  # new, or defined anew
        _known[run.task][1][tuple(_plain(config[name]) for name in arguments)] = run


def runs_behind(tables: Tables) -> list[Run]:
    """The runs that the rows of tables belong to, each once.

    A row is found by the values of its arguments, among the runs of the task whose arguments and results are columns
    of the table; rows may be missing, in another order, or have more columns.

    Args:
        tables: What ``lab.sweep`` returned in this session, a part of it, or a list of such tables.

    Raises:
        ValueError: If the rows of a table belong to no sweep, or could belong to two tasks.
    """
    tables = [tables] if isinstance(tables, pd.DataFrame) else list(tables)
    if not tables or not all(isinstance(table, pd.DataFrame) for table in tables):
        raise ValueError("pass a table that lab.sweep returned, a part of it, or a list of such tables")
    found: dict[tuple, Run] = {}
    for table in tables:
        found |= _of(table)
    return list(found.values())


def is_swept(table: pd.DataFrame) -> bool:
    """Whether the rows of a table are a sweep's."""
    try:
        return bool(runs_behind(table))
    except ValueError:
        return False


def _of(table: pd.DataFrame) -> dict[tuple, Run]:
    """(task, values of the arguments) -> run, for one table."""
    fitting = [
        found
        for task, (names, runs) in _known.items()
        if set(names) <= set(table.columns) and (found := _matched(task, names, runs, table))
    ]
    if not fitting:
        raise ValueError(
            f"rows with the columns {', '.join(map(str, table.columns))} belong to no sweep of this session: pass the "
            "table that lab.sweep returned, or rows of it that keep its columns, as they are"
        )
    best = max(map(_width, fitting))
    widest = [found for found in fitting if _width(found) == best]
    if len(widest) > 1:
        names = " and ".join(sorted({task for found in widest for task, _ in found}))
        raise ValueError(f"the rows fit the tasks {names} alike: pass the table of the sweep that is meant")
    return widest[0]


def _matched(task: str, names: tuple[str, ...], runs: dict[tuple, Run], table: pd.DataFrame) -> dict[tuple, Run] | None:
    """The runs of all rows; None if one is unknown, or returned what the table does not show."""
    columns = [[_plain(value) for value in table[name].tolist()] for name in names]
    keys = dict.fromkeys(zip(*columns, strict=True)) if names else dict.fromkeys([()] * bool(len(table)))
    found = {(task, key): runs[key] for key in keys if key in runs}
    shown = set(table.columns)
    return found if len(found) == len(keys) and all(run.columns <= shown for run in found.values()) else None


def _width(found: dict[tuple, Run]) -> int:
    """How many columns of the table are the task's own."""
    return max(len(key) + len(run.columns) for (_, key), run in found.items())


def _plain(value) -> Any:
    """A value as a table may give it back: lists are tuples, gaps None, 2 is 2.0, but True is not 1."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if value is None or value != value:
        return None
    return repr(value) if isinstance(value, str) else repr(bool(value)) if isinstance(value, bool | np.bool_) else value

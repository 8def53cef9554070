"""Sweeps: a task over a grid, one tidy table out."""

import itertools
import queue
import traceback
from collections.abc import Iterable, Sequence

import pandas as pd
from tqdm import tqdm

from spatialkit.lab import executors, places, profiles, provenance, settings
from spatialkit.lab.fingerprint import fingerprint
from spatialkit.lab.origins import Run, remember
from spatialkit.lab.store import Store, writable
from spatialkit.lab.tasks import Task, run

__all__ = ["SweepError", "grid", "sweep"]


class SweepError(RuntimeError):
    """Some runs of a sweep failed. The others are finished and kept."""


def grid(**axes) -> list[dict]:
    """Every combination of the axes, the last one running fastest.

    A list, tuple, range or array is an axis; anything else is one value for all runs. An
    argument that is itself a list goes in as a list of lists.
    """
    values = [list(v) if isinstance(v, list | tuple | range) or hasattr(v, "__array__") else [v] for v in axes.values()]
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*values)]


def sweep(task: Task, configs: Sequence[dict] | None = None, /, *, executor=None, **axes) -> pd.DataFrame:
    """Run a task over ``grid(**axes)``, or over a list of configurations.

    Runs that the committed results or an earlier sweep hold are read, the others run, with one
    progress bar; each is kept as soon as it is finished. Kill it at any moment and call it
    again: nothing finished runs twice.

    Args:
        task: What ``lab.task`` made of a function.
        configs: Configurations, instead of axes, where the runs are no full grid.
        executor: Where runs take place; by default local processes (``lab.Processes``).
        **axes: Values per argument of the task.

    Returns:
        One row per run and row of it, in the order of the configurations: first the
        arguments, then what the task returned. ``lab.describe`` tells its provenance.

    Raises:
        ValueError: If ``task`` is no task, a configuration does not fit its arguments, or results could not be kept.
        SweepError: If runs failed, after all others have finished.
    """
    if not isinstance(task, Task):
        raise ValueError(f"sweep takes a task: put @lab.task above {getattr(task, '__name__', task)!r}")
    if configs is not None and axes:
        raise ValueError("sweep takes a list of configurations or axes, not both")
    wanted = [task.config(c) for c in (grid(**axes) if configs is None else configs)]
    if not wanted:
        raise ValueError("nothing to sweep: an axis is empty")
    code = fingerprint(task.function)
    done = _finished(task)
    missing = {task.key(c): c for c in wanted if task.key(c) not in done}
    if missing:
        done.update(_run_all(task, list(missing.values()), code, executor))
    return _table(task, [done[task.key(c)] for c in wanted], code)


def _finished(task: Task) -> dict[str, dict]:
    """Records to be read: the committed ones, then those of this output folder."""
    since = settings.fresh_since()
    smoke = profiles.current() == "smoke"
    folders = [places.out()] if smoke else [places.evidence(), places.out()]
    records: dict[str, dict] = {}
    for folder in folders:
        records.update(Store(folder / "results", task.name).read())
    return {k: r for k, r in records.items() if r["version"] == task.version and r["made"]["date"] >= since}


def _run_all(task: Task, configs: list[dict], code: str, executor) -> dict[str, dict]:
    """Run what is missing; every record is stored as it comes."""
    writable(places.out() / "results")
    own = executor is None
    executor = executors.default(len(configs)) if own else executor
    keeper = _Keeper(Store(places.out() / "results", task.name))
    made = provenance.of_session(profiles.current(), code)
    failures = []
    try:
        for config, future in _as_finished(executor, task, configs, made):
            try:
                record = future.result()
            except Exception as error:
                failures.append((config, error))
                continue
            record["made"]["date"] = provenance.now()
            keeper.keep(task.key(config), record)
        keeper.end()
    finally:
        if own:
            executor.shutdown()
    if failures:
        raise SweepError(_report(task, failures, len(configs))) from failures[0][1]
    return keeper.records


class _Keeper:
    """Stores records as they come; what a full disk or a damaged file refuses is tried again with the next."""

    def __init__(self, store: Store):
        self.store = store
        self.records: dict[str, dict] = {}
        self._waiting: list[dict] = []

    def keep(self, key: str, record: dict) -> None:
        self.records[key] = record
        self._waiting.append(record)
        try:
            self.store.add(self._waiting)
            self._waiting = []
        except (OSError, ValueError):
            pass  # somebody may free space or mend the file meanwhile

    def end(self) -> None:
        """Try once more.

        Raises:
            OSError: If the last records cannot be stored.
            ValueError: If the file is damaged; they wait beside it.
        """
        if self._waiting:
            try:
                self.store.add(self._waiting)
            except OSError as error:
                raise OSError(error.errno, f"{len(self._waiting)} finished runs are lost: {error.strerror}") from error


def _as_finished(executor, task: Task, configs: list[dict], made: dict) -> Iterable[tuple]:
    """Submit all runs; yield each when it is finished, under one progress bar."""
    finished: queue.SimpleQueue = queue.SimpleQueue()
    with tqdm(total=len(configs), desc=task.name, unit="run", mininterval=settings.progress_interval()) as bar:
        waiting = 0
        for config in configs:
            future = executor.submit(run, task, config, made)
            future.add_done_callback(lambda f, c=config: finished.put((c, f)))
            waiting += 1
            while not finished.empty():
                yield finished.get()
                bar.update()
                waiting -= 1
        for _ in range(waiting):
            yield finished.get()
            bar.update()


def _report(task: Task, failures: list[tuple], total: int) -> str:
    config, error = failures[0]
    trace = "".join(traceback.format_exception(error))
    return f"{len(failures)} of {total} runs of {task.name} failed; the first with {config}:\n{trace}"


def _table(task: Task, records: list[dict], code: str) -> pd.DataFrame:
    """The rows of records, whose runs the session remembers from here on."""
    configs = [task.filled(record["config"]) for record in records]
    columns = [frozenset(name for row in record["rows"] for name in row) for record in records]
    runs = [Run(task.name, r["config"], r["made"], code, names) for r, names in zip(records, columns, strict=True)]
    remember(task.arguments, configs, runs)
    rows = [{**config, **row} for config, record in zip(configs, records, strict=True) for row in record["rows"]]
    return pd.DataFrame(rows)

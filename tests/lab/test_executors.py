"""Where runs take place: what a worker has before any run begins, and what happens when it dies."""

import os
import threading
from concurrent.futures import BrokenExecutor, Future

import pytest
import torch

from spatialkit.lab import executors


def _found(names):
    """In a worker: threads of torch and of the libraries, and whether one waits for the end of the parent."""
    waits = any("_end_with" in thread.name for thread in threading.enumerate())
    return torch.get_num_threads(), [os.environ[name] for name in names], waits


def test_a_worker_begins_with_one_thread_and_watches_its_parent(monkeypatch):
    names = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS")]
    for name in names:
        monkeypatch.setenv(name, "2")  # of this process
    workers = executors.Processes(1)
    try:
        assert workers.submit(_found, names).result() == (1, ["1", "1", "1"], True)
    finally:
        workers.shutdown()


def test_a_worker_ends_when_its_parent_is_another(monkeypatch):
    parents, done = iter([7, 7, 7, 1]), []
    monkeypatch.setattr(executors.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(executors.time, "sleep", done.append)
    monkeypatch.setattr(executors.os, "_exit", lambda status: done.append(f"exit {status}"))
    executors._end_with(7)
    assert done == [1, 1, 1, "exit 1"]


@pytest.mark.parametrize(
    ("jobs", "cores", "gpu", "runs", "processes"),
    [
        pytest.param("", 4, False, 9, 4, id="one-per-core"),
        pytest.param("", 4, False, 3, 3, id="no-more-than-runs"),
        pytest.param("", 4, True, 9, None, id="a-gpu-is-not-shared"),
        pytest.param("2", 4, True, 9, 2, id="as-many-as-set"),
        pytest.param("", 1, False, 9, None, id="one-core"),
        pytest.param("", 4, False, 0, None, id="nothing-to-do"),
    ],
)
def test_an_executor_by_default_has_one_process_per_core_and_none_of_its_own_for_one(
    monkeypatch, jobs, cores, gpu, runs, processes
):
    monkeypatch.setenv("SPATIALKIT_JOBS", jobs)
    monkeypatch.setattr(executors, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    made = []
    monkeypatch.setattr(executors, "Processes", lambda count: made.append(count))
    assert isinstance(executors.default(runs), executors.Serial) == (processes is None)
    assert made == ([processes] if processes else [])


class _Mortal:
    """A pool of one worker, which dies at each of its first ``deaths`` runs, whatever worker it is."""

    deaths = 0

    def __init__(self, *_, **__):
        pass

    def submit(self, function, *arguments):
        future = Future()
        if type(self).deaths > 0:
            type(self).deaths -= 1
            future.set_exception(BrokenExecutor("it died"))
        else:
            future.set_result(function(*arguments))
        return future

    def shutdown(self, **_):
        pass


def test_a_run_whose_worker_died_is_tried_once_more(monkeypatch):
    monkeypatch.setattr(executors, "ProcessPoolExecutor", _Mortal)
    workers = executors.Processes(1)
    monkeypatch.setattr(_Mortal, "deaths", 1)
    assert workers.submit(int, "7").result() == 7 and len(workers._pools) == 2
    monkeypatch.setattr(_Mortal, "deaths", 2)
    with pytest.raises(RuntimeError, match="died twice"):
        workers.submit(int, "7").result()
    workers.shutdown()

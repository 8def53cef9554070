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

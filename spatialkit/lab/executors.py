"""Executors: where the runs of a sweep take place.

An executor is anything with ``submit(function, *arguments) -> future``, the future having
``add_done_callback`` and ``result``. ``Serial`` and ``Processes`` serve one machine; a
``dask.distributed.Client`` has the same interface and serves many.
"""

import copyreg
import importlib
import os
import threading
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor

import torch
from loky import ProcessPoolExecutor, cpu_count

from spatialkit.lab import settings

__all__ = ["ENVIRONMENT", "Processes", "Serial", "default"]

# Of a process that runs tasks.
ENVIRONMENT = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
ENVIRONMENT["LOKY_MAX_MEMORY_LEAK_SIZE"] = "1e15"  # bytes; else loky takes a loaded data set for a leak
# glibc gives freed feature maps back to the system, and takes them anew a moment later, page by page: kept instead,
# training is 1.4 times as fast. PyTorch asks for huge pages.
ENVIRONMENT |= {f"MALLOC_{name}_THRESHOLD_": str(2**30) for name in ("TRIM", "MMAP")}
ENVIRONMENT["THP_MEM_ALLOC_ENABLE"] = "1"


# A task that says both "torch" and "x.classes" takes torch.classes along (cloudpickle guesses submodules from
# names), a module that cannot be pickled unless it is told how.
def _by_name(module) -> tuple:
    return importlib.import_module, (module.__name__,)


copyreg.pickle(type(torch.classes), _by_name)


class Serial:
    """Runs in this process, one after another."""

    def submit(self, function, *arguments) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        """Nothing to end."""


class Processes:
    """Several local processes with one thread each.

    Two of them train small networks about 1.5 times as fast as one process with two threads.
    Functions travel by value (cloudpickle), so a task may be defined in a notebook. A process
    that dies takes only its own run along, which is tried once more in a new one.
    """

    def __init__(self, count: int):
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self._threads = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._pools: list[ProcessPoolExecutor] = []

    def submit(self, function, *arguments) -> Future:
        return self._threads.submit(self._run, function, arguments)

    def _run(self, function, arguments):
        for _ in range(2):
            try:
                return self._pool().submit(function, *arguments).result()
            except BrokenExecutor:
                self._own.pool = None
        raise RuntimeError("the process of this run died twice; it may need more memory than there is")

    def _pool(self) -> ProcessPoolExecutor:
        if getattr(self._own, "pool", None) is None:
            self._own.pool = ProcessPoolExecutor(1, env=ENVIRONMENT, initializer=_begin, initargs=(os.getpid(),))
            self._pools.append(self._own.pool)
        return self._own.pool

    def shutdown(self) -> None:
        """End the processes at once; runs under way are lost, their checkpoints are not."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.shutdown(kill_workers=True)


def _begin(parent: int) -> None:
    """What a worker does first: one thread for the sums, and one that ends the worker with its parent."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def default(runs: int) -> Serial | Processes:
    """An executor for so many runs: SPATIALKIT_JOBS processes, by default one per usable core.

    One process on a machine with a GPU, whose memory and time several would only share. A run uses one thread wherever
    it takes place, so that its bits do not depend on how many others are missing.
    """
    count = min(settings.jobs() or (1 if torch.cuda.is_available() else cpu_count()), runs)
    return Processes(count) if count > 1 else Serial()

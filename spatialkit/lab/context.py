"""The run that this process is in: where its trainings keep their checkpoints, and in which precision they ran."""

import contextlib
import hashlib
import shutil
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from spatialkit.lab import places, settings
from spatialkit.lab.store import key_of

__all__ = ["next_checkpoint", "note_precision", "run_of"]


@dataclass
class _Run:
    folder: Path
    given: int = 0
    precisions: set[str] = field(default_factory=set)


_run: ContextVar[_Run | None] = ContextVar("run", default=None)


@contextlib.contextmanager
def run_of(task: str, version: int, config: dict, code: str):
    """Mark a run as under way, and yield what is noted about it.

    Its checkpoints belong to its key, its code and the start of a fresh run. They survive a kill and a full disk, from
    which the run can go on. When it is finished, or raised, they go, with those that other code left for the same key.
    """
    digest = hashlib.sha256(key_of(version, config).encode()).hexdigest()[:16]
    since = settings.fresh_since()
    owner = hashlib.sha256(f"{code} {since}".encode()).hexdigest()[:8]
    run = _Run(places.out() / "checkpoints" / f"{task}-{digest}-{owner}")
    for other in run.folder.parent.glob(f"{task}-{digest}*"):
        if other != run.folder:
            shutil.rmtree(other, ignore_errors=True)
    token = _run.set(run)
    try:
        yield run
    except OSError:
        raise  # of the machine, not of the code
    except Exception:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    finally:
        _run.reset(token)
    shutil.rmtree(run.folder, ignore_errors=True)


def next_checkpoint() -> Path | None:
    """A file for the next training of this run (the first is 0, ...); None outside a run."""
    run = _run.get()
    if run is None:
        return None
    run.given += 1
    return run.folder / f"{run.given - 1}.safetensors"


def note_precision(name: str) -> None:
    """Tell the run under way, if any, in which precision a network was trained."""
    if (run := _run.get()) is not None:
        run.precisions.add(name)

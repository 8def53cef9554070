"""The run that this process is in: where a training inside it keeps its checkpoints."""

import contextlib
import hashlib
import shutil
from contextvars import ContextVar
from pathlib import Path

from spatialkit import places
from spatialkit.lab.store import key_of

__all__ = ["next_checkpoint", "run_of"]

_run: ContextVar[tuple[Path, list] | None] = ContextVar("run", default=None)


@contextlib.contextmanager
def run_of(task: str, version: int, config: dict):
    """Mark a run as under way. Its checkpoints live until it is finished, not if it is killed."""
    digest = hashlib.sha256(key_of(version, config).encode()).hexdigest()[:16]
    folder = places.out() / "checkpoints" / f"{task}-{digest}"
    token = _run.set((folder, []))
    try:
        yield folder
    finally:
        _run.reset(token)
    shutil.rmtree(folder, ignore_errors=True)


def next_checkpoint() -> Path | None:
    """A file for the next training of this run (the first is 0, ...); None outside a run."""
    current = _run.get()
    if current is None:
        return None
    folder, given = current
    given.append(None)
    return folder / f"{len(given) - 1}.safetensors"

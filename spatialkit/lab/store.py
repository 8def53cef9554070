"""The store: finished runs of one task in one text file, one line per run."""

import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

__all__ = ["Store", "atomic_write", "canonical", "key_of"]


def canonical(value):
    """A configuration value as plain JSON types, so that equal settings have equal keys.

    Raises:
        ValueError: If the value is no number, string, boolean, None, or list of them.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # NumPy and torch scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a configuration takes finite numbers, got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    raise ValueError(
        f"a configuration takes numbers, strings, booleans, None and lists of them, got {value!r}; "
        "pass a name or a number and build the object inside the task"
    )


def key_of(version: int, config: dict) -> str:
    """The identity of a run within its task: version and canonical configuration."""
    return f"{version}:{json.dumps(config, sort_keys=True, separators=(',', ':'))}"


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: temporary file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Store:
    """Records of one task in ``folder/<task>.jsonl``, sorted by key.

    A record is ``{"task", "version", "config", "rows", "made"}``. Every ``add`` rewrites the
    file atomically under a lock: two sweeps at once, a kill or a full disk lose nothing that
    was finished. Reading parses JSON and never executes anything.
    """

    def __init__(self, folder: Path, task: str):
        self.path = Path(folder) / f"{task}.jsonl"

    def read(self) -> dict[str, dict]:
        """Key -> record of every finished run; empty if there is no file yet.

        Raises:
            ValueError: If a line is no record, naming file and line.
        """
        if not self.path.exists():
            return {}
        records = {}
        for number, line in enumerate(self.path.read_text("utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
                records[key_of(record["version"], record["config"])] = record
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}, line {number} is not a record ({error}); restore the file with git, "
                    "or delete that line to run it again"
                ) from None
        return records

    def add(self, records: Iterable[dict]) -> None:
        """Add records; one with the same key replaces the older one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            merged = self.read()
            merged.update({key_of(record["version"], record["config"]): record for record in records})
            lines = [json.dumps(merged[key], allow_nan=False, separators=(", ", ": ")) for key in sorted(merged)]
            atomic_write(self.path, "\n".join(lines) + "\n")

"""The store: finished runs of one task in one text file, one line per run."""

import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

__all__ = ["Store", "atomic_write", "canonical", "key_of", "writable"]

_FIELDS = {"task": str, "version": int, "config": dict, "rows": list, "made": dict}
_OF_MADE = {"profile": str, "code": str, "commit": str, "date": str, "data": dict, "device": str}


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
    """Write a whole file or nothing: temporary file beside it, fsync, rename.

    What a killed process left half-written beside it is removed.

    Raises:
        OSError: If it cannot be written; the message names the file.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        ours = f".{path.name}.{platform.node()}-{os.getpid()}."
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=ours, suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Temporary files of this path whose process on this machine has ended."""
    node = platform.node()
    for part in path.parent.glob(f".{path.name}.{node}-*.part"):
        process = part.name.removeprefix(f".{path.name}.{node}-").split(".")[0]
        if process.isdigit() and not _lives(int(process)):
            part.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def writable(folder: Path) -> None:
    """Find out, before any work, whether results can be kept.

    Raises:
        ValueError: If nothing can be written there; says what to do.
    """
    try:
        atomic_write(folder / ".writable", b"")
        (folder / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"results could not be kept in {folder} ({error.strerror}): free space there or make it writable, or set "
            "SPATIALKIT_OUT to a folder that is"
        ) from error


class Store:
    """Records of one task in ``folder/<task>.jsonl``, sorted by key.

    A record is ``{"task", "version", "config", "rows", "made"}``. Every ``add`` rewrites the
    file atomically under a lock: two sweeps at once, a kill or a full disk lose nothing that
    was finished. Reading parses JSON and never executes anything.
    """

    def __init__(self, folder: Path, task: str):
        self.path = Path(folder) / f"{task}.jsonl"

    @property
    def saved_apart(self) -> Path:
        """Where records wait that came when the file itself could not be read; the next reading takes them in."""
        return self.path.with_suffix(".jsonl.waiting")

    def read(self) -> dict[str, dict]:
        """Key -> record of every finished run; empty if there is no file yet.

        Raises:
            ValueError: If a line is no record, or repeats another's key; names file and line.
        """
        records = _records(self.path)
        for key, record in _records(self.saved_apart).items():
            records.setdefault(key, record)
        return records

    def add(self, records: Iterable[dict]) -> None:
        """Add records; one with the same key replaces the older one.

        Raises:
            ValueError: If one is no record; or if the file was damaged since it was read, and then the new ones are
                kept beside it.
            OSError: If it cannot be written.
        """
        new = {key_of(record["version"], record["config"]): _checked(record) for record in records}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            try:
                merged = self.read()
            except ValueError as error:
                _write(self.saved_apart, _readable(self.saved_apart) | new)
                raise ValueError(f"{error}. The new runs wait in {self.saved_apart} and are taken in then") from None
            _write(self.path, merged | new)
            self.saved_apart.unlink(missing_ok=True)


def _write(path: Path, records: dict[str, dict]) -> None:
    lines = [json.dumps(records[key], allow_nan=False, separators=(", ", ": ")) for key in sorted(records)]
    atomic_write(path, "\n".join(lines) + "\n")


def _readable(path: Path) -> dict[str, dict]:
    try:
        return _records(path)
    except ValueError:
        os.replace(path, path.with_suffix(".damaged"))
        return {}


def _records(path: Path) -> dict[str, dict]:
    """Key -> record, every line checked."""
    if not path.exists():
        return {}
    records: dict[str, dict] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = _checked(json.loads(line.decode(), parse_constant=_refuse, object_pairs_hook=_once))
            key = key_of(record["version"], record["config"])
            if key in records:
                raise ValueError("it repeats the run of an earlier line")
        except (ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, no record
            raise ValueError(
                f"{path}, line {number} is not a record ({error}); restore the file with git, "
                "or delete that line to run it again"
            ) from None
        records[key] = record
    return records


def _refuse(word: str):
    raise ValueError(f"{word} is no number of JSON; undefined is null")


def _once(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in it")
    return found


def _checked(record) -> dict:
    """The record itself, if it has all fields of the right type and no number beyond all bounds."""
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    for fields, place, name in ((_FIELDS, record, ""), (_OF_MADE, record.get("made"), "made.")):
        for field, kind in fields.items():
            if not isinstance(place, dict) or not isinstance(place.get(field), kind):
                raise ValueError(f"{name}{field} must be there, of type {kind.__name__}")
    if not all(isinstance(row, dict) for row in record["rows"]):
        raise ValueError("rows must hold objects")
    cells = [cell for row in (record["config"], *record["rows"]) for cell in row.values()]
    while cells:
        cell = cells.pop()
        if isinstance(cell, list):
            cells += cell
        elif isinstance(cell, dict) or (isinstance(cell, float) and not math.isfinite(cell)):
            raise ValueError(f"a cell must be a finite number, a string, a boolean or null, got {cell!r}")
    return record

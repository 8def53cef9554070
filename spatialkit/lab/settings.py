"""Settings: everything that the package reads from its environment, one function each; no other module reads it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

__all__ = [
    "cache", "data", "environment", "fresh_since", "home", "jobs", "lend_home", "offline", "output", "parent",
    "progress_interval", "threads", "weights",
]  # fmt: skip


def output() -> Path | None:
    """``SPATIALKIT_OUT``: the folder under which results/ and figures/ are written."""
    return _folder("SPATIALKIT_OUT")


def data() -> Path | None:
    """``SPATIALKIT_DATA``: a folder that holds the data sets."""
    return _folder("SPATIALKIT_DATA")


def weights() -> Path | None:
    """``SPATIALKIT_WEIGHTS``: a folder that holds weights of trained networks."""
    return _folder("SPATIALKIT_WEIGHTS")


def offline() -> bool:
    """``SPATIALKIT_OFFLINE``: whether nothing may be downloaded; "0" and nothing mean no."""
    return os.environ.get("SPATIALKIT_OFFLINE", "0") not in ("", "0")


def fresh_since() -> str:
    """``SPATIALKIT_FRESH``: the start of a fresh run in ISO 8601; older results do not count. Empty: all count."""
    return os.environ.get("SPATIALKIT_FRESH", "")


def jobs() -> int | None:
    """``SPATIALKIT_JOBS``: how many processes a sweep uses.

    Raises:
        ValueError: If it is no whole number above 0.
    """
    named = os.environ.get("SPATIALKIT_JOBS")
    if named and not (named.isdecimal() and int(named)):
        raise ValueError(f"SPATIALKIT_JOBS must be a whole number above 0, got {named!r}")
    return int(named) if named else None


def progress_interval() -> float:
    """``SPATIALKIT_TQDM_INTERVAL``: seconds between two drawings of a progress bar, 0.5 by default.

    Raises:
        ValueError: If it is no number.
    """
    named = os.environ.get("SPATIALKIT_TQDM_INTERVAL") or "0.5"
    try:
        return float(named)
    except ValueError:
        raise ValueError(f"SPATIALKIT_TQDM_INTERVAL must be a number of seconds, got {named!r}") from None


def parent() -> int:
    """``SPATIALKIT_PARENT``: the process whose end ends this one; by default the one that started it."""
    return int(os.environ.get("SPATIALKIT_PARENT") or os.getppid())


def threads() -> str:
    """``OMP_NUM_THREADS``, in words."""
    return os.environ.get("OMP_NUM_THREADS", "not set")


def cache() -> Path | None:
    """``XDG_CACHE_HOME``: where downloads are kept; None also where it lies in a home that is not there."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return None if named.startswith("~") and home() is None else _folder("XDG_CACHE_HOME")


def home() -> Path | None:
    """The user's home folder; None where there is neither HOME nor an entry for the user, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def lend_home(folder: Path) -> None:
    """Make a folder the home of this process and of all that it starts."""
    os.environ["HOME"] = str(folder)


def environment(without: Collection[str] = (), **changes: str) -> dict[str, str]:
    """The environment of a process to be started: this one's, without some variables, with others set."""
    return {name: value for name, value in os.environ.items() if name not in without} | changes


def _folder(name: str) -> Path | None:
    named = os.environ.get(name)
    return Path(named).expanduser().resolve() if named else None

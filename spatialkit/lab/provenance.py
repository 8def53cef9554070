"""Provenance: which code, data, machine and versions made a number."""

import datetime
import functools
import platform
import subprocess
from importlib import metadata

import pandas as pd
import torch

from spatialkit import places

__all__ = ["describe", "joined", "now", "of_machine", "of_session", "summary"]


def now() -> str:
    """The time in UTC to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def of_session(profile: str, code: str) -> dict:
    """What a sweep knows before its runs start."""
    return {"profile": profile, "code": code, "commit": commit(), "date": now()}


@functools.cache
def of_machine() -> dict:
    """What the process that runs knows: device and versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"device": device, "python": platform.python_version(), **versions}


@functools.cache
def commit() -> str:
    """Short hash of the bundle's commit, with "+" where files differ from it; "unknown" without git."""
    try:
        git = functools.partial(
            subprocess.run, cwd=places.root(), capture_output=True, encoding="utf-8", check=True, timeout=10
        )
        head = git(["git", "rev-parse", "--short=10", "HEAD"]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--untracked-files=no", "--", "spatialkit", "notebooks"])
        return head + ("+" if changed.stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def summary(records: list[dict], code: str) -> dict:
    """What all records of a table have in common, and how many other code than ``code`` made."""
    made = [record["made"] for record in records]
    copies = {f"{name.split('/')[0]} ({source['copy']})" for m in made for name, source in m["data"].items()}
    seeds = {record["config"]["seed"] for record in records if "seed" in record["config"]}
    return {
        "task": sorted({record["task"] for record in records}),
        "profile": sorted({m["profile"] for m in made}),
        "data": sorted(copies),
        "device": sorted({m["device"] for m in made}),
        "other code": sum(m["code"] != code for m in made),
        "runs": len(records),
        "seeds": len(seeds),
    }


def describe(table: pd.DataFrame) -> str:
    """One line on where a sweep's table comes from: profile, data, device, runs, seeds."""
    made = table.attrs["made"]
    seeds = f", {made['seeds']} seed{'s' * (made['seeds'] != 1)}" if made["seeds"] else ""
    data = ", ".join(made["data"]) or "no data set"
    profile = " and ".join(made["profile"])
    other = f", {made['other code']} of them made by other code" if made["other code"] else ""
    return f"profile {profile}; {data}; {', '.join(made['device'])}; {made['runs']} runs{seeds}{other}"


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    """Tables of sweeps below each other, with the provenance of all; parts of one sweep's table count once.

    Raises:
        ValueError: If there is no table, or one has no provenance.
    """
    if not tables or not all("made" in table.attrs for table in tables):
        raise ValueError("need tables as sweep() returns them; after concat or merge, set attrs from the original")
    made: list[dict] = []
    for table in tables:
        if table.attrs["made"] not in made:
            made.append(table.attrs["made"])
    together = pd.concat(tables, ignore_index=True)
    lists = {key: sorted({item for m in made for item in m[key]}) for key in ("task", "profile", "data", "device")}
    sums = {key: sum(m[key] for m in made) for key in ("other code", "runs")}
    together.attrs = {"made": lists | sums | {"seeds": max(m["seeds"] for m in made)}}
    return together

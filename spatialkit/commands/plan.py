"""What a run consists of: which notebooks, at which profile, in which environment, into which folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from spatialkit import places

__all__ = [
    "DATA_SETS",
    "Plan",
    "choose_profile",
    "environment",
    "environment_of",
    "records_of",
    "select",
    "usable_cores",
]

DATA_SETS = ("mnist", "fashion_mnist", "cifar10")


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Plan:
    """What one call of `figures` runs, and where. `base` is the folder that holds notebooks/."""

    profile: str
    reason: str = "as asked"
    only: tuple[str, ...] = ()
    jobs: int = field(default_factory=usable_cores)
    fresh: bool = False
    base: Path = field(default_factory=places.root)

    @property
    def build(self) -> Path:
        return self.base / "build" / self.profile

    @property
    def out(self) -> Path:
        """Smoke output is no evidence: it stays in the ignored build folder."""
        return self.build if self.profile == "smoke" else self.base

    @property
    def marker(self) -> Path:
        """Holds the start of a fresh run, so that a killed one goes on where it stopped."""
        return self.base / "build" / "-".join(("fresh", self.profile, *self.only))

    def output(self, notebook: Path) -> Path:
        return self.build / "notebooks" / notebook.name

    def log(self, notebook: Path) -> Path:
        return self.build / "logs" / f"{notebook.stem}.log"


def choose_profile() -> tuple[str, str]:
    """Laptop where its data are here or can be had, else smoke; and why."""
    from spatialkit import data

    states = {name: data.available(name) for name in DATA_SETS}
    absent = [name for name, state in states.items() if state not in ("here", "downloadable")]
    if absent:
        names = ", ".join(absent)
        return "smoke", f"{names} neither here nor downloadable, `python -m spatialkit doctor` says more"
    if all(state == "here" for state in states.values()):
        return "laptop", "the data sets are here"
    return "laptop", "the data sets can be downloaded"


def select(base: Path, only: tuple[str, ...] = ()) -> list[Path]:
    """The numbered notebooks in the order in which they run: 00 last, because it shows the scorecard.

    Raises:
        ValueError: If a wanted number has no notebook.
    """
    found = sorted((base / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    wanted = {number.zfill(2) for number in only}
    missing = wanted - {path.name[:2] for path in found}
    if missing:
        there = ", ".join(path.name[:2] for path in found) or "none"
        raise ValueError(f"no notebook numbered {', '.join(sorted(missing))}; there are: {there}")
    chosen = [path for path in found if not wanted or path.name[:2] in wanted]
    return sorted(chosen, key=lambda path: (path.name.startswith("00"), path.name))


def environment(out: Path | None = None, **more: str) -> dict[str, str]:
    """The environment of a notebook: one thread per process, one output folder, this very package."""
    env = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "SPATIALKIT_FRESH")}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    package = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else a remark of the debugger in every log
    if env.get("SPATIALKIT_DATA"):  # notebooks run in another folder than this process
        env["SPATIALKIT_DATA"] = str(Path(env["SPATIALKIT_DATA"]).expanduser().resolve())
    if out is not None:
        env["SPATIALKIT_OUT"] = str(out)
    return env | more


def environment_of(plan: Plan) -> dict[str, str]:
    """For smoke, notebooks run side by side and sweeps in one process; else the other way round."""
    jobs = 1 if plan.profile == "smoke" else plan.jobs
    more = {"SPATIALKIT_JOBS": str(jobs), "SPATIALKIT_TQDM_INTERVAL": "10"}
    if plan.fresh and plan.profile != "smoke":
        more["SPATIALKIT_FRESH"] = _fresh_since(plan.marker)
    return environment(plan.out, **more)


def _fresh_since(marker: Path) -> str:
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(datetime.now(UTC).isoformat(timespec="seconds"))
    return marker.read_text().strip()


def records_of(base: Path, profile: str, notebooks: list[Path]) -> list[dict]:
    """How the committed results of the tasks that these notebooks define, at this profile, were made."""
    from spatialkit.lab.store import Store

    code = "\n".join(path.read_text("utf-8") for path in notebooks)
    made = []
    for task in re.findall(r"def (\w+)\(", code):
        made += [record["made"] for record in Store(base / "results", task).read().values()]
    return [m for m in made if m["profile"] == profile]

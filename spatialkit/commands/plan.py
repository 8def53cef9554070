"""What a run consists of: which notebooks, at which profile, in which environment, into which folders."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from loky import cpu_count

from spatialkit.lab import Store, declared, places, settings

__all__ = [
    "Plan",
    "choose_profile",
    "data_of",
    "data_sets",
    "environment",
    "environment_of",
    "number_of",
    "records_of",
    "results_suffice",
    "select",
]

_NUMBER = re.compile(r"\d\d[a-z]?_.+")


def data_sets() -> tuple[str, ...]:
    """The data sets that the notebooks' own profile needs."""
    from spatialkit.data.sets import SETS

    return tuple(name for name, known in SETS.items() if known.needed)


@dataclass(frozen=True)
class Plan:
    """What one call of `figures` runs, and where. `base` is the folder that holds notebooks/."""

    profile: str
    reason: str = "as asked"
    only: tuple[str, ...] = ()
    jobs: int = field(default_factory=cpu_count)
    fresh: bool = False
    base: Path = field(default_factory=places.root)

    @property
    def build(self) -> Path:
        return self.base / "build" / self.profile

    @property
    def out(self) -> Path:
        """Smoke output is no evidence: it stays in the ignored build folder."""
        return self.build if self.profile == "smoke" else self.base

    @functools.cached_property
    def width(self) -> int:
        """How many notebooks run at once: several where they mostly read, one where its sweeps take all cores."""
        notebooks = select(self.base, self.only)
        reads = self.profile == "laptop" and not self.fresh and results_suffice(self.base, notebooks)
        return min(self.jobs, max(1, len(notebooks))) if reads or self.profile == "smoke" else 1

    @property
    def marker(self) -> Path:
        """Holds the start of a fresh run, so that a killed one goes on where it stopped."""
        return self.base / "build" / "-".join(("fresh", self.profile, *self.only))

    def output(self, notebook: Path) -> Path:
        return self.build / "notebooks" / notebook.name

    def log(self, notebook: Path) -> Path:
        return self.build / "logs" / f"{notebook.stem}.log"


def choose_profile(base: Path | None = None, only: tuple[str, ...] = (), fresh: bool = False) -> tuple[str, str]:
    """Laptop where its results are committed, or else its data are here or can be had; else smoke; and why.

    Raises:
        ValueError: If everything is to be computed again (``fresh``) and a data set cannot be had.
    """
    from spatialkit import data

    notebooks = select(base or places.root(), only)
    if not fresh and results_suffice(base or places.root(), notebooks):
        return "laptop", "the committed results suffice"
    needed = data_of(base or places.root(), notebooks)
    states = {name: data.available(name) for name in needed}
    absent = [name for name, state in states.items() if state not in ("here", "downloadable")]
    if absent:
        names = ", ".join(absent)
        if fresh:
            raise ValueError(
                f"to compute everything again takes {names}: set SPATIALKIT_DATA to a folder that holds them, or run "
                "once with network access, and they are downloaded. PROFILE=smoke needs no data"
            )
        return "smoke", f"{names} neither here nor downloadable, `python -m spatialkit doctor` says more"
    if all(state == "here" for state in states.values()):
        return "laptop", "the data sets are here" if needed else "no data set is needed"
    return "laptop", "the data sets can be downloaded"


def results_suffice(base: Path, notebooks: list[Path]) -> bool:
    """Whether the notebooks can be expected to read all of their runs at profile laptop.

    Each that has tasks must have committed records, and each recorded task some of its present version; a task
    without any record may be one that the defaults of the notebook's parameters leave out.
    """
    return bool(notebooks) and all(_reads(base, declared(notebook)) for notebook in notebooks)


def _reads(base: Path, tasks: dict[str, int]) -> bool:
    recorded = {name: Store(base / "results", name).read().values() for name in tasks}
    versions = {
        name: {record["version"] for record in records if record["made"]["profile"] == "laptop"}
        for name, records in recorded.items()
        if records
    }
    return all(tasks[name] in found for name, found in versions.items()) and bool(versions or not tasks)


def data_of(base: Path, notebooks: list[Path]) -> tuple[str, ...]:
    """The data sets of profile laptop that the committed runs of these notebooks loaded; without any runs, all."""
    names: set[str] = set()
    for notebook in notebooks:
        made = records_of(base, "laptop", [notebook])
        if declared(notebook) and not made:
            return data_sets()
        names |= {loaded.split("/")[0] for one in made for loaded in one.get("data", {})}
    return tuple(name for name in data_sets() if name in names)


def number_of(notebook: Path) -> str:
    """``12`` of ``12_name``, ``12b`` of ``12b_name``: the second notebook of one number has a letter."""
    return notebook.name.split("_")[0]


def _matches(wanted: str, number: str) -> bool:
    """``12`` wants every notebook of that number, ``12b`` that one alone."""
    return wanted == number or (wanted.isdigit() and wanted == number[:2])


def select(base: Path, only: tuple[str, ...] = ()) -> list[Path]:
    """The numbered notebooks in the order in which they run: 00 last, because it shows the scorecard.

    Raises:
        ValueError: If a wanted number has no notebook.
    """
    found = [path for path in sorted((base / "notebooks").glob("[0-9][0-9]*_*.ipynb")) if _NUMBER.fullmatch(path.stem)]
    numbers = [number_of(path) for path in found]
    wanted = {number.zfill(2 + len(number.lstrip("0123456789"))) for number in only}  # 1 is 01, 2b is 02b
    missing = [one for one in sorted(wanted) if not any(_matches(one, number) for number in numbers)]
    if missing:
        there = ", ".join(numbers) or "none"
        raise ValueError(f"no notebook numbered {', '.join(missing)}; there are: {there}")
    chosen = [path for path in found if not wanted or any(_matches(one, number_of(path)) for one in wanted)]
    return sorted(chosen, key=lambda path: (path.name.startswith("00"), path.name))


def environment(out: Path | None = None, **more: str) -> dict[str, str]:
    """The environment of a notebook: one thread per process, one output folder, this very package."""
    env = settings.environment(["MPLBACKEND", "SPATIALKIT_FRESH"])
    env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    package = str(Path(__file__).resolve().parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (package, env.get("PYTHONPATH"))))
    env["PYTHONUTF8"] = "1"  # text files and logs are UTF-8 whatever the locale
    env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else a remark of the debugger in every log
    if folder := settings.data():  # notebooks run in another folder than this process
        env["SPATIALKIT_DATA"] = str(folder)
    if out is not None:
        env["SPATIALKIT_OUT"] = str(out)
    return env | more


def environment_of(plan: Plan) -> dict[str, str]:
    """Notebooks side by side share the cores with their sweeps; a notebook that computes alone has them all."""
    jobs = 1 if plan.profile == "smoke" else max(1, plan.jobs // plan.width)
    more = {"SPATIALKIT_JOBS": str(jobs), "SPATIALKIT_TQDM_INTERVAL": "10"}
    if plan.fresh and plan.profile != "smoke":
        more["SPATIALKIT_FRESH"] = _fresh_since(plan.marker)
    return environment(plan.out, **more)


def _fresh_since(marker: Path) -> str:
    if not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(datetime.now(UTC).isoformat(timespec="seconds"), "utf-8")
    return marker.read_text("utf-8").strip()


def records_of(base: Path, profile: str, notebooks: list[Path]) -> list[dict]:
    """How the committed results of the tasks that these notebooks define, at this profile, were made."""
    tasks = {name for path in notebooks for name in declared(path)}
    records = [record for task in sorted(tasks) for record in Store(base / "results", task).read().values()]
    return [record["made"] for record in records if record["made"]["profile"] == profile]

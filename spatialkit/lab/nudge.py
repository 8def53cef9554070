"""Whether a verdict could change if every number of a task moved by so much."""

import csv
import random
import shutil
import subprocess
import sys
from pathlib import Path

from spatialkit.lab.audit import current_code, notebooks
from spatialkit.lab.settings import environment
from spatialkit.lab.store import Store

__all__ = ["verdicts_that_change"]

_SEEDS = (0, 1)


def verdicts_that_change(root: Path, task: str, within: float) -> list[str]:
    """Judge again in a copy of the bundle where the task's floats are moved at random by up to ``within``, twice.

    Returns:
        One line per row of the scorecard whose verdict is another one; empty if none is.
    """
    users = [path for path in notebooks(root) if task in current_code(path)]
    before, lines = _verdicts(root / "figures" / "scorecard.csv"), []
    for seed in _SEEDS:
        folder = root / "build" / "verify" / "nudged"
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("spatialkit", "notebooks", "results", "figures"):
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.lock"))
        shutil.copy(root / "pyproject.toml", folder)
        _nudge(Store(folder / "results", task), within, random.Random(seed))
        env = environment(SPATIALKIT_OUT=str(folder), PYTHONPATH=str(folder), OMP_NUM_THREADS="1")
        for notebook in users:
            words = ["_execute", str(folder / "notebooks" / notebook.name), str(folder / "executed.ipynb")]
            done = subprocess.run(
                [sys.executable, "-m", "spatialkit", *words], env=env, cwd=folder, capture_output=True
            )
            if done.returncode:
                return [f"{notebook.name} fails with numbers moved by {within:.1e}"]
        after = _verdicts(folder / "figures" / "scorecard.csv")
        lines += [
            f"{' '.join(row)}: {before[row]} -> {after.get(row)}" for row in before if after.get(row) != before[row]
        ]
    return sorted(set(lines))


def _verdicts(scorecard: Path) -> dict[tuple[str, str, str], str]:
    with scorecard.open(newline="", encoding="utf-8") as stream:
        return {(row["claim"], row["what"], row["dataset"]): row["verdict"] for row in csv.DictReader(stream)}


def _nudge(store: Store, within: float, source: random.Random) -> None:
    records = list(store.read().values())
    for record in records:
        for row in record["rows"]:
            for name, value in row.items():
                if isinstance(value, float):
                    row[name] = value * (1 + within * source.uniform(-1, 1))
    store.add(records)

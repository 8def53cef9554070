"""`figures`: run every notebook in a process of its own, and say what it took, what failed, what it wrote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from spatialkit.commands import report
from spatialkit.commands.execute import Outcome, failed_path, part_path, read_outcome
from spatialkit.commands.plan import Plan, environment_of, records_of, select
from spatialkit.lab import places

__all__ = ["Workers", "alone", "check_writable", "figures", "remove_leftovers", "run_notebooks"]

_ABANDONED = 600  # seconds after which a file is not being written any more
_HEARTBEAT = 60  # seconds between two lines on a notebook that takes long


class Workers:
    """Executes notebooks, `width` at a time, each in its own process: the crash of one is nobody else's.

    Use it in a `with` block: on the way out, also by Ctrl-C, it ends what still runs.
    """

    def __init__(self, width: int, env: dict[str, str], profile: str | None = None):
        self._pool = ThreadPoolExecutor(width)
        self._env = env
        self._parameters = ["--profile", profile] if profile else []
        self._live: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_):
        with self._lock:
            self._stopped = True
            for process in self._live:
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def run(self, tasks: list[tuple[Path, Path, Path]]) -> list[Outcome]:
        """Execute each (notebook, output, log) and return the outcomes in the same order."""
        return list(self._pool.map(lambda task: self._run_one(*task), tasks))

    def _run_one(self, notebook: Path, output: Path, log: Path) -> Outcome:
        for stale in (output, part_path(output), failed_path(output)):
            stale.unlink(missing_ok=True)
        for folder in (output.parent, log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "spatialkit", "_execute", str(notebook), str(output)]
        start = time.monotonic()
        with log.open("wb") as stream:
            returncode = self._run_process([*command, *self._parameters], stream, log)
        outcome = read_outcome(output, returncode, time.monotonic() - start)
        report.print_outcome(outcome, log)
        return outcome

    def _run_process(self, command: list[str], stream, log: Path) -> int:
        with self._lock:
            if self._stopped:
                return 1
            env = self._env | {"SPATIALKIT_PARENT": str(os.getpid())}
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=env)
            self._live.add(process)
        start = time.monotonic()
        while True:
            try:
                returncode = process.wait(_HEARTBEAT)
            except subprocess.TimeoutExpired:
                minutes = (time.monotonic() - start) / 60
                print(f"  {log.stem}: {minutes:.0f} min, {report.last_line(log)}", flush=True)
                continue
            with self._lock:
                self._live.discard(process)
            return returncode


def _refresh_scorecard(env: dict[str, str]) -> list[Outcome]:
    """Bring the scorecard's picture and page and the README's totals up to date; an outcome only when that fails."""
    command = [sys.executable, "-m", "spatialkit", "_scorecard"]
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode == 0:
        return []
    lines = done.stderr.strip().splitlines() or ["no message"]
    print(done.stderr, file=sys.stderr, flush=True)
    return [Outcome("scorecard", "failed", error=lines[-1], traceback=done.stderr)]


def run_notebooks(plan: Plan) -> list[Outcome]:
    """Execute the notebooks of a plan and return one outcome for each, in their order.

    Number 00 shows the scorecard, so it runs when the others have ended and the scorecard is drawn.
    """
    notebooks = select(plan.base, plan.only)
    tasks = [(path, plan.output(path), plan.log(path)) for path in notebooks]
    smoke = plan.profile == "smoke"
    if smoke:
        shutil.rmtree(plan.build, ignore_errors=True)
    env = environment_of(plan)
    with Workers(plan.width, env, plan.profile) as workers:
        outcomes = workers.run([task for task in tasks if not task[0].name.startswith("00")])
        if plan.out == places.root():
            outcomes += _refresh_scorecard(env)
        outcomes += workers.run([task for task in tasks if task[0].name.startswith("00")])
    return outcomes


@contextmanager
def alone(base: Path, what: str):
    """Hold the lock of a kind of run, whose files in build/ two runs must not share.

    Raises:
        ValueError: If another process holds it.
    """
    from filelock import FileLock, Timeout

    check_writable(base / "build")
    try:
        lock = FileLock(base / "build" / f"{what}.lock").acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another run of {what} is under way here: wait for its end") from None
    with lock:
        yield


def check_writable(*folders: Path) -> None:
    """Make the folders and write a byte into each, before any work whose result would be lost.

    Raises:
        ValueError: If one cannot be written; says which, why, and what to do.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
        except OSError as error:
            raise ValueError(
                f"cannot write in {folder} ({error.strerror}): make room or set its permissions, or work in a copy of "
                "the bundle in a folder of your own (git clone). To only read: a notebook opened by hand writes where "
                "SPATIALKIT_OUT says"
            ) from None


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill in the middle of a write left: `.part` files that nobody has written for ten minutes."""
    for name in ("results", "figures"):
        for part in (folder / name).glob(".*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()


def figures(plan: Plan) -> int:
    """Run the plan and report. Exit status 0 when every notebook passed."""
    notebooks = select(plan.base, plan.only)
    made = records_of(plan.base, plan.profile, notebooks)
    print(report.opening(made, plan, len(notebooks)), flush=True)
    check_writable(plan.build, plan.out / "results", plan.out / "figures")
    with alone(plan.base, plan.profile):
        remove_leftovers(plan.out)
        before = report.fingerprints(None if plan.profile == "smoke" else plan.base)
        outcomes = run_notebooks(plan)
        if plan.fresh and all(outcome.status == "passed" for outcome in outcomes):
            plan.marker.unlink(missing_ok=True)
        report.print_summary(outcomes)
        report.print_changes(before, report.fingerprints(plan.out), plan)
        report.print_ending(plan)
    return 0 if all(outcome.status == "passed" for outcome in outcomes) else 1

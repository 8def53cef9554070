"""`test`: notebooks at profile smoke, unit tests with what they cover, stored outputs, tables behind figures, style and
types; all parts, always."""

from __future__ import annotations

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from spatialkit.commands import report
from spatialkit.commands.plan import Plan, environment, select
from spatialkit.commands.runner import alone, check_writable, run_notebooks

__all__ = ["Part", "check_all", "pytest_part", "table_differs"]

_CELL_TIMEOUT = 900  # seconds; a slow machine is no failure
_NBVAL_WORKERS_PAY_FROM = 10  # notebooks


@dataclass(frozen=True)
class Part:
    """One part of the tests, with what it counted."""

    name: str
    passed: int
    failed: int
    note: str = ""


def _python(*words: str, base: Path, env: dict[str, str] | None = None) -> int:
    return subprocess.run([sys.executable, *words], cwd=base, env=env).returncode


def _counts(junit: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a pytest run, from its report."""
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def pytest_part(
    name: str, words: list[str], base: Path, env: dict[str, str] | None = None, covered: bool = False
) -> Part:
    """Run pytest and count; a run that ends badly without a failing test counts as one failure.

    Args:
        name: Of the part.
        words: Arguments of pytest.
        base: Folder to run in.
        env: Environment, by default this one.
        covered: Whether to note which lines run, as `[tool.coverage]` of pyproject.toml says.
    """
    junit = base / "build" / "test" / f"{name.replace(' ', '-')}.xml"
    junit.parent.mkdir(parents=True, exist_ok=True)
    junit.unlink(missing_ok=True)
    noting = ["-m", "coverage", "run"] if covered else []
    status = _python(*noting, "-m", "pytest", "-q", f"--junitxml={junit}", *words, base=base, env=env)
    passed, failed, skipped = _counts(junit) if junit.exists() else (0, 0, 0)
    if status != 0 and failed == 0:
        return Part(name, passed, 1, f"pytest ended with {status}")
    return Part(name, passed, failed, f"{skipped} skipped" if skipped else "")


def _unit_tests(base: Path, jobs: int) -> Part:
    """After the smoke notebooks, whose results the tests of other parameters begin with."""
    spread = ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    env = environment(base / "build" / "unit", SPATIALKIT_SMOKE=str(base / "build" / "smoke"))
    if sys.version_info >= (3, 12):
        env["COVERAGE_CORE"] = "sysmon"  # cheaper than a trace function
    _coverage_of(base, "erase")
    return pytest_part("unit tests", ["tests", *spread], base, env, covered=True)


def _coverage_of(base: Path, *words: str) -> tuple[int, str]:
    """Exit status and output of a command of coverage."""
    command = [sys.executable, "-m", "coverage", *words]
    done = subprocess.run(command, cwd=base, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    return done.returncode, done.stdout.strip()


def _coverage(base: Path, jobs: int) -> Part:
    """Lines of the package that ran in the unit tests and in what they started, against the floor (`fail_under`)."""
    _coverage_of(base, "combine", "--quiet")
    status, percent = _coverage_of(base, "report", "--format=total")
    if status == 0:
        return Part("coverage", 1, 0, f"{percent.split()[-1]} % of the package's lines")
    print(_coverage_of(base, "report", "--skip-covered", "--sort=cover")[1])
    return Part("coverage", 0, 1, "too few lines of the package ran in the unit tests, or none were noted")


def _smoke(base: Path, jobs: int) -> Part:
    with alone(base, "smoke"):
        outcomes = run_notebooks(Plan("smoke", jobs=jobs, base=base))
    report.print_summary(outcomes)
    passed = sum(outcome.status == "passed" for outcome in outcomes)
    return Part("notebooks at profile smoke", passed, len(outcomes) - passed)


def _stored_outputs(base: Path, jobs: int) -> Part:
    """Rerun the committed notebooks with their defaults and compare; evidence is read, never written."""
    name, scratch = "stored outputs", base / "build" / "nbval"
    notebooks = select(base)
    if not notebooks:
        return Part(name, 0, 0, "no notebooks")
    shutil.rmtree(scratch, ignore_errors=True)
    words = ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={_CELL_TIMEOUT}"]
    words += ["--nbval-kernel-startup-timeout=180", *(str(path.relative_to(base)) for path in notebooks)]
    if jobs > 1 and len(notebooks) >= _NBVAL_WORKERS_PAY_FROM:
        words += ["-n", str(jobs), "--dist", "loadfile"]
    env = environment(scratch, SPATIALKIT_JOBS="1", SPATIALKIT_TQDM_INTERVAL="10")
    return pytest_part(name, words, base, env)


def _tables_behind_figures(base: Path, jobs: int) -> Part:
    """Compare the tables that the rerun notebooks wrote with the committed ones; no picture is compared."""
    fresh = sorted((base / "build" / "nbval" / "figures").glob("*.csv"))
    wrong = [problem for path in fresh if (problem := table_differs(path, base / "figures" / path.name))]
    for problem in wrong:
        print(problem)
    return Part("tables behind figures", len(fresh) - len(wrong), len(wrong))


def table_differs(fresh: Path, committed: Path) -> str:
    """What is wrong with a committed table; empty when it equals the fresh one to seven digits."""
    import pandas as pd

    if not committed.exists():
        return f"{committed.name} is not committed"
    try:
        pd.testing.assert_frame_equal(pd.read_csv(fresh), pd.read_csv(committed), rtol=1e-6)
    except AssertionError as error:
        return f"{committed.name} differs: {str(error).splitlines()[0]}; make figures writes it anew"
    return ""


def _style_and_types(base: Path, jobs: int) -> Part:
    """Ruff on all code, its layout too, and mypy on the package: one failure for each that complains."""
    commands = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))
    failed = sum(_python("-m", *words, base=base) != 0 for words in commands)
    return Part("style and types", len(commands) - failed, failed)


def check_all(base: Path, jobs: int) -> int:
    """Run every part, print one line for each, and end with `N passed, N failed` alone on a line.

    Raises:
        ValueError: If build/ cannot be written.
    """
    check_writable(base / "build")
    parts = []
    for run in (_smoke, _unit_tests, _coverage, _stored_outputs, _tables_behind_figures, _style_and_types):
        print(f"\n== {run.__name__.strip('_').replace('_', ' ')}", flush=True)
        parts.append(run(base, jobs))
    print()
    for part in parts:
        note = f" ({part.note})" if part.note else ""
        print(f"{part.name}: {part.passed} passed, {part.failed} failed{note}")
    failed = sum(part.failed for part in parts)
    print(f"{sum(part.passed for part in parts)} passed, {failed} failed", flush=True)
    return 1 if failed else 0

"""The environment is read in one module, and what it says means something."""

import ast
import os
from pathlib import Path

import pytest

from spatialkit.lab import executors, places, settings

PACKAGE = Path(settings.__file__).parents[1]


def reads_environment(text):
    """Whether code touches ``os.environ`` or ``os.getenv``, however it imports them."""
    names = {n.attr for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)}
    names |= {a.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom) for a in n.names}
    return bool(names & {"environ", "getenv", "environb", "putenv"})


def test_no_other_module_reads_the_environment():
    reading = [
        p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if reads_environment(p.read_text("utf-8"))
    ]
    assert reading == ["lab/settings.py"]


@pytest.mark.parametrize("name", ["OUT", "DATA", "WEIGHTS"])
def test_folders_are_absolute_and_none_by_default(name, monkeypatch, tmp_path):
    read = {"OUT": settings.output, "DATA": settings.data, "WEIGHTS": settings.weights}[name]
    monkeypatch.chdir(tmp_path)
    for said, meant in (("", None), ("a/../b", tmp_path / "b"), ("~/c", Path.home() / "c")):
        monkeypatch.setenv(f"SPATIALKIT_{name}", said)
        assert read() == (meant and meant.resolve())
    monkeypatch.delenv(f"SPATIALKIT_{name}")
    assert read() is None
    assert places.out() == (places.root() / "build" / "own" if name == "OUT" else places.out())


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5"])
def test_settings_that_mean_nothing_are_refused(monkeypatch, jobs):
    monkeypatch.setenv("SPATIALKIT_JOBS", jobs)
    with pytest.raises(ValueError, match=f"SPATIALKIT_JOBS must be a whole number above 0, got '{jobs}'"):
        executors.default(4)
    monkeypatch.setenv("SPATIALKIT_TQDM_INTERVAL", "often")
    with pytest.raises(ValueError, match="SPATIALKIT_TQDM_INTERVAL must be a number of seconds, got 'often'"):
        settings.progress_interval()


def test_a_process_inherits_what_is_not_taken_away(monkeypatch):
    monkeypatch.setenv("SPATIALKIT_FRESH", "2026")
    monkeypatch.setenv("SPATIALKIT_JOBS", "3")
    env = settings.environment(["SPATIALKIT_FRESH"], SPATIALKIT_OUT="x")
    assert "SPATIALKIT_FRESH" not in env and (env["SPATIALKIT_JOBS"], env["SPATIALKIT_OUT"]) == ("3", "x")
    assert os.environ["SPATIALKIT_FRESH"] == "2026" and settings.jobs() == 3

"""Every test of the lab writes to a folder of its own, and sweeps in this process unless it names an executor."""

import pytest

from spatialkit import lab
from spatialkit.lab import origins, places, profiles


@pytest.fixture(autouse=True)
def own_session(tmp_path, monkeypatch):
    """An empty bundle: no committed results, an output folder, and a session that was just begun."""
    monkeypatch.setattr(places, "evidence", lambda: tmp_path / "evidence")
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("SPATIALKIT_JOBS", "1")  # two workers load torch for longer than these tests take
    monkeypatch.delenv("SPATIALKIT_FRESH", raising=False)
    monkeypatch.setattr(origins, "_known", {})
    monkeypatch.setattr(profiles, "_begun", None)
    lab.begin("laptop")
    return tmp_path

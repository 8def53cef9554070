"""Every test of the lab writes to a folder of its own."""

import pytest

from spatialkit.lab import places


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """An empty bundle: no committed results, and an output folder."""
    monkeypatch.setattr(places, "evidence", lambda: tmp_path / "evidence")
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path / "out"))
    monkeypatch.delenv("SPATIALKIT_FRESH", raising=False)
    return tmp_path

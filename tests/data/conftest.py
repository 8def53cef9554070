"""Data for the tests: real sets where they are here, empty folders where nothing may be found."""

import pytest

from spatialkit import data


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test asks the network."""
    monkeypatch.setenv("SPATIALKIT_OFFLINE", "1")


@pytest.fixture
def real():
    """Loads a real data set, or skips the test and says what it lacks."""

    def load(name, split="train"):
        if data.available(name) != "here":
            pytest.skip(f"{name} is not here: set SPATIALKIT_DATA to a folder that holds it")
        return data.load(name, split)

    return load


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no other: nothing of this machine is found."""
    monkeypatch.delenv("SPATIALKIT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spatialkit"

"""Every test of training writes to a folder of its own, and runs on one thread, for which bits are promised."""

import pytest
import torch

from spatialkit.lab import places


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """An empty bundle: no committed results, and an output folder."""
    monkeypatch.setattr(places, "evidence", lambda: tmp_path / "evidence")
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path / "out"))
    monkeypatch.delenv("SPATIALKIT_FRESH", raising=False)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

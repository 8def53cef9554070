"""README's code runs as it stands, one block after the other, as a reader would type it."""

import re

import pytest

import spatialkit as sk
from spatialkit.lab import places

BLOCKS = re.findall(r"```python\n(.*?)```", (places.root() / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.fixture
def session(monkeypatch, tmp_path):
    """A reader's session with a small network, and with a small training in place of an hour's."""
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small = {"n_train": 64, "n_validation": 32, "n_test": 32}
    monkeypatch.setattr(sk, "classification", lambda name: sk.train.classification("photographs", **small), False)
    images = sk.load("photographs").images[:8] / 255
    return {"model": sk.models.PlainCNN(images.shape[1:], 10, 2).eval(), "images": images}


def test_every_block_runs(session, capsys):
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        exec(block.replace("epochs=25", "epochs=1").replace("vgg11_bn", "lenet"), session)
    printed = capsys.readouterr().out
    assert "blocks.0" in printed and "D / G" in printed
    assert session["table"]["value"].notna().any()
    assert not session["model"].training

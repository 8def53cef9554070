"""The texture album: pixels against the files, splits without overlap."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from spatialkit import data
from spatialkit.data import brodatz
from spatialkit.lab.seen import watch


@pytest.fixture
def small(tmp_path, cache, monkeypatch):
    """Nine textures of 8 x 8 in the place of the album; the pixels of each by its number."""
    rng, truth, archive = np.random.default_rng(0), {}, io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for i in range(1, 10):
            truth[i] = rng.integers(256, size=(8, 8), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(truth[i]).save(file, "PNG")
            packed.writestr(f"D{i}.png", file.getvalue())
    path = tmp_path / brodatz._FILE
    path.parent.mkdir()
    path.write_bytes(archive.getvalue())
    monkeypatch.setattr(brodatz, "_SUM", f"sha256:{hashlib.sha256(archive.getvalue()).hexdigest()}")
    monkeypatch.setattr(brodatz, "_NUMBER", 9)
    monkeypatch.setattr(brodatz, "_SIDE", 8)
    return tmp_path, truth


def test_textures_are_the_files(small):
    folder, truth = small
    for split, numbers in (("train", [1, 2, 3, 5, 6, 7, 9]), ("test", [4, 8])):
        found = data.brodatz_textures(split, folder=folder)
        expected = torch.from_numpy(np.stack([truth[i] for i in numbers])) / 255
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_blocks_are_means(small):
    folder, truth = small
    found = data.brodatz_textures("test", block=4, folder=folder)
    assert found.shape == (2, 2, 2)
    assert float(found[1, 0, 1]) == pytest.approx(truth[8][:4, 4:].mean() / 255)


def test_what_was_read_is_noted(small):
    with watch() as seen:
        data.brodatz_textures("test", block=2, folder=small[0])
    assert seen["brodatz/test"]["copy"] == "scans of 640 px, means of 2 x 2"


def test_refuses_bad_input(small, tmp_path):
    folder, _ = small
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        data.brodatz_textures("val", folder=folder)
    for block in (0, 3):
        with pytest.raises(ValueError, match=f"block must be a divisor of 8 px, got {block}"):
            data.brodatz_textures(block=block, folder=folder)
    with pytest.raises(data.DataMissing, match=r"brodatz_640\.zip is not in"):
        data.brodatz_textures(folder=tmp_path / "nowhere")
    (folder / brodatz._FILE).write_bytes(b"half")
    with pytest.raises(ValueError, match="truncated or altered"):
        data.brodatz_textures(folder=folder)


def test_the_album_fills_blobs():
    try:
        textures = data.brodatz_textures("test", block=4)
    except data.DataMissing as missing:
        pytest.skip(str(missing))
    assert textures.shape == (28, 160, 160) and 0 <= textures.min() < textures.max() <= 1
    images, targets = data.BlobOutlines("III", textures=textures).draw(2)
    assert images.shape == (2, 1, 64, 64) and targets.any()

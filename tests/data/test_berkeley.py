"""The Berkeley segmentation data: what it holds, that damage is found, that nothing is substituted."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from spatialkit import data
from spatialkit.data import berkeley
from spatialkit.lab.seen import watch


@pytest.fixture
def small(tmp_path, cache, monkeypatch):
    """A data set of three images of two sizes, whose sums take the place of the published ones."""
    rng = np.random.default_rng(0)
    truth, arrays, archive = {}, {"ids": np.array(["7", "12", "3"]), "sizes": [], "n_annotators": []}, io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, (H, W), n in (("7", (16, 21), 4), ("12", (21, 16), 5), ("3", (16, 21), 4)):
            maps = rng.random((n, H, W)) < 0.2
            pixels = np.full((H, W, 3), [200, 100, 10 * n], np.uint8)  # constant: JPEG keeps it to a level or two
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=95)
            packed.writestr(f"val/{name}.jpg", file.getvalue())
            arrays[f"b_{name}"] = np.packbits(maps, axis=-1)
            arrays["sizes"].append((H, W))
            arrays["n_annotators"].append(n)
            truth[name] = (pixels, maps)
    folder = tmp_path / "here/BSDS500"
    folder.mkdir(parents=True)
    (folder / "images.zip").write_bytes(archive.getvalue())
    np.savez(folder / "boundaries_val.npz", **arrays)
    for file in ("images.zip", "boundaries_val.npz"):
        total = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        monkeypatch.setitem(berkeley._SUMS, f"BSDS500/{file}", f"sha256:{total}")
    berkeley._read.cache_clear()
    yield folder.parent, truth
    berkeley._read.cache_clear()


def test_images_and_maps_are_those_of_the_files(small):
    folder, truth = small
    found = data.boundary_images("val", folder=folder)
    assert found.names == ("7", "12", "3") and len(found) == 3 and found.split == "val"
    for name, image, maps in zip(found.names, found.images, found.annotations, strict=True):
        pixels, expected = truth[name]
        assert image.dtype == torch.uint8 and maps.dtype == torch.bool
        assert (maps.numpy() == expected).all()
        assert image.shape == (3, *expected.shape[1:])
        assert (image.permute(1, 2, 0).numpy().astype(int) - pixels).__abs__().max() <= 3


def test_the_first_images_are_the_same(small):
    folder, _ = small
    every, two = data.boundary_images("val", folder=folder), data.boundary_images("val", 2, folder=folder)
    assert two.names == every.names[:2] and all(a.equal(b) for a, b in zip(two.images, every.images, strict=False))
    assert two.content != every.content and two.sha256 == every.sha256


def test_what_was_read_is_noted(small):
    folder, _ = small
    for _ in range(2):  # also when it is remembered
        with watch() as seen:
            found = data.boundary_images("val", folder=folder)
        assert seen["bsds500/val"]["content"] == found.content[:16]


def test_damage_is_found(small):
    folder, _ = small
    path = folder / "BSDS500/images.zip"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"images\.zip is truncated or altered: expected sha256"):
        data.boundary_images("val", folder=folder)


def test_a_missing_file_is_named(small, tmp_path):
    folder, _ = small
    with pytest.raises(data.DataMissing, match=r"(?s)BSDS500/boundaries_test\.npz is not in .*Set SPATIALKIT_DATA"):
        data.boundary_images("test", folder=folder)
    with pytest.raises(data.DataMissing, match="boundaries_val"):
        data.boundary_images("val", folder=tmp_path / "nowhere")


@pytest.mark.parametrize("arguments, match", [
    (("valid",), "split must be one of train, val, test; got 'valid'"),
    (("val", 0), "n must be at least 1, got 0"),
    (("val", 4), "n must be at most 3, the number of val images; got 4"),
])  # fmt: skip
def test_refuses_bad_input(small, arguments, match):
    with pytest.raises(ValueError, match=match):
        data.boundary_images(*arguments, folder=small[0])


@pytest.mark.parametrize("split, n, annotations, share, content", [
    ("train", 200, 1087, 0.0178, "becf17312fc5e45d"),
    ("val", 100, 546, 0.0175, "b70c28bd9efff591"),
    ("test", 200, 1063, 0.0187, "c9bb4dc0f2b2e533"),
])  # fmt: skip
def test_the_published_numbers(split, n, annotations, share, content):
    try:
        found = data.boundary_images(split)
    except data.DataMissing as missing:
        pytest.skip(str(missing))
    maps = found.annotations
    assert len(found) == n and sum(map(len, maps)) == annotations
    assert {len(m) for m in maps} <= set(range(4, 10))
    assert {m.shape[1:] for m in maps} == {(321, 481), (481, 321)}
    assert all(image.shape[1:] == m.shape[1:] for image, m in zip(found.images, maps, strict=True))
    assert sum(float(m.double().mean()) for m in maps) / n == pytest.approx(share, abs=5e-5)  # printed to 0.01 %
    assert found.content[:16] == content

"""Photographs for ImageNet's networks: against torchvision's own transforms, from a zip and from folders."""

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spatialkit import data
from spatialkit.data import imagenet
from spatialkit.data.imagenet import imagenet_images
from spatialkit.lab.seen import watch


def picture(path, width, height, mode="RGB", seed=0):
    """A file of blurred noise, so that a resize has something to average."""
    rng = np.random.default_rng(seed)
    shape = (height // 4 + 1, width // 4 + 1, {"RGB": 3, "RGBA": 4}.get(mode, 1))
    coarse = rng.integers(256, size=shape, dtype=np.uint8).squeeze()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height)).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Images of odd sizes, one of them grey, one transparent, in folders of classes."""
    picture(tmp_path / "own/b/one.jpg", 300, 411, seed=1)
    picture(tmp_path / "own/b/grey.png", 260, 256, "L", seed=2)
    picture(tmp_path / "own/a/small.PNG", 131, 97, "RGBA", seed=3)
    picture(tmp_path / "own/c.jpeg", 640, 427, seed=4)
    return tmp_path / "own"


@pytest.mark.parametrize("size", [224, 97])
def test_agrees_with_torchvision_s_transforms(folder, size):
    from spatialkit._torchvision import torchvision

    transform = torchvision.models.VGG11_Weights.IMAGENET1K_V1.transforms(crop_size=size)
    names = ("a/small.PNG", "b/grey.png", "b/one.jpg", "c.jpeg")
    expected = torch.stack([transform(Image.open(folder / name).convert("RGB")) for name in names])
    images = imagenet_images(folder=folder, size=size)
    assert images.shape == (4, 3, size, size) and images.dtype == torch.float32
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)  # the same sums in float32


def test_a_constant_image_shows_mean_and_deviation(tmp_path):
    Image.new("RGB", (300, 280), (255, 128, 0)).save(tmp_path / "plain.png")
    (values,) = imagenet_images(folder=tmp_path, size=5)
    levels = torch.tensor([1.0, 128 / 255, 0.0], dtype=torch.float64)
    expected = (levels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(values.double(), expected.view(3, 1, 1).expand(3, 5, 5), rtol=0, atol=1e-6)


def test_takes_images_at_equal_steps_through_the_names(tmp_path):
    for i in range(7):
        Image.new("RGB", (256, 256), (36 * i, 0, 0)).save(tmp_path / f"{i}.png")
    red = (imagenet_images(folder=tmp_path, size=1)[:, 0, 0, 0] * 0.229 + 0.485) * 255 / 36
    assert red.round().tolist() == [0, 1, 2, 3, 4, 5, 6]
    red = (imagenet_images(3, folder=tmp_path, size=1)[:, 0, 0, 0] * 0.229 + 0.485) * 255 / 36
    assert red.round().tolist() == [0, 2, 4]


def test_zip_and_folder_give_the_same(folder, tmp_path, cache, monkeypatch):
    path = tmp_path / imagenet._SAMPLE
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*"), reverse=True):  # the order inside does not count
            archive.write(file, file.relative_to(folder).as_posix())
        archive.writestr("labels.csv", "file,class_index\n")
    monkeypatch.setattr(imagenet, "_SUM", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("SPATIALKIT_DATA", str(tmp_path))
    notes = []
    for source in (None, folder):
        with watch() as seen:
            images = imagenet_images(folder=source)
        notes.append((images, seen["imagenet/images"]))
    assert torch.equal(notes[0][0], notes[1][0])
    assert notes[0][1]["sha256"] == notes[1][1]["sha256"]
    assert [note["copy"] for _, note in notes] == [imagenet._WORDS, "4 files of a folder"]


def test_the_note_changes_with_the_files(folder):
    sums = set()
    for n in (3, 4, 4):
        with watch() as seen:
            imagenet_images(n, folder=folder, size=3)
        sums.add(seen["imagenet/images"]["sha256"])
    assert len(sums) == 2


def test_other_files_and_hidden_ones_do_not_count(folder):
    before = imagenet_images(folder=folder, size=9)
    (folder / "notes.txt").write_text("no image")
    picture(folder / ".hidden/x.jpg", 256, 256)
    (folder / "b/._one.jpg").write_bytes(b"left by another system")
    (folder / "folder.jpg").mkdir()
    assert torch.equal(imagenet_images(folder=str(folder), size=9), before)


def test_missing_images_say_what_to_do(tmp_path, cache, monkeypatch):
    with pytest.raises(data.DataMissing, match=r"(?s)images_200\.zip is not in .*SPATIALKIT_DATA.*folder=\.\.\."):
        imagenet_images()
    monkeypatch.setenv("SPATIALKIT_DATA", str(tmp_path))
    with pytest.raises(data.DataMissing, match="set SPATIALKIT_DATA to a folder"):
        imagenet_images(3)
    with pytest.raises(data.DataMissing, match="no JPEG or PNG file is in"):
        imagenet_images(folder=tmp_path)
    with pytest.raises(data.DataMissing, match="name a folder that holds some"):
        imagenet_images(folder=tmp_path / "none")


def test_damaged_files_are_found(folder, tmp_path, cache, monkeypatch):
    whole = (folder / "b/one.jpg").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no image at all"):
        (folder / "b/one.jpg").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b/one\.jpg is truncated or no image"):
            imagenet_images(folder=folder)
    bomb = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"  # what a format that runs programs would take
    (folder / "b/one.jpg").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"b/one\.jpg is truncated or no image"):
        imagenet_images(folder=folder)
    (tmp_path / "imagenet_sample").mkdir()
    (tmp_path / imagenet._SAMPLE).write_bytes(b"half a zip")
    monkeypatch.setenv("SPATIALKIT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"images_200\.zip is truncated or altered: expected sha256 c7e61f32.*delete"):
        imagenet_images()


def test_an_image_of_endless_size_is_refused(folder, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 3)
    with pytest.raises(ValueError, match=r"is truncated or no image .*could be decompression bomb"):
        imagenet_images(folder=folder)


@pytest.mark.parametrize(("arguments", "match"), [
    ({"size": 0}, "size must be from 1 to 256 px, got 0"),
    ({"size": 257}, "size must be from 1 to 256 px"),
    ({"n": 0}, "n must be from 1 to 4, the number of images there are; got 0"),
    ({"n": 5}, "got 5"),
])  # fmt: skip
def test_refuses_bad_input(folder, arguments, match):
    with pytest.raises(ValueError, match=match):
        imagenet_images(folder=folder, **arguments)


def test_the_sample_looks_like_imagenet():
    if not (Path(os.environ.get("SPATIALKIT_DATA", "")) / imagenet._SAMPLE).is_file():
        pytest.skip(f"{imagenet._SAMPLE} is not here: set SPATIALKIT_DATA to a folder that holds it")
    with watch() as seen:
        images = imagenet_images(50)
    assert images.shape == (50, 3, 224, 224) and images.isfinite().all()
    assert seen["imagenet/images"]["copy"] == imagenet._WORDS
    # Normalised by the mean of 1.2 million images; those of 50 vary by about 0.6, their mean so by 0.1.
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.4
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.4

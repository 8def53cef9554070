"""Photographs as networks trained on ImageNet want them."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spatialkit.data import fetch
from spatialkit.lab import note_loaded

__all__ = ["imagenet_images"]

_SAMPLE = "imagenet_sample/images_200.zip"
_SUM = "c7e61f3299e2de37bc459724639092e2bcda0558e042e126a6a44baac7e8e021"  # SHA-256 of the sample
_WORDS = "one image of each of 200 classes, resized, JPEG again"
_ENDINGS = (".jpg", ".jpeg", ".png")
_SHORTER = 256  # px, of the shorter side before the crop
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # red, green, blue of ImageNet, in [0, 1]


def imagenet_images(n: int | None = None, folder: str | os.PathLike | None = None, size: int = 224) -> Tensor:
    """Photographs, cropped and normalised as torchvision does it to evaluate its networks; N x 3 x size x size.

    The shorter side is brought to 256 px (bilinear, smoothed first where it shrinks) and the centre cut out; ImageNet's
    mean is subtracted and its standard deviation divided by, per channel; float32. Grey images become three equal
    channels.

    Args:
        n: How many, at equal steps through the sorted names, so that every class of a folder of folders has its turn;
            by default all.
        folder: JPEG and PNG files, searched with the folders inside it. By default the sample
            ``imagenet_sample/images_200.zip`` in the folder that ``SPATIALKIT_DATA`` names, or in the cache folder.
        size: Side of the crop, in px, at most 256.

    Raises:
        ValueError: If n or the size is out of range, or a file is truncated or altered.
        DataMissing: If there are no images; says what to do.
    """
    if not 1 <= size <= _SHORTER:
        raise ValueError(f"size must be from 1 to {_SHORTER} px, got {size}")
    names, read, copy = _files_of(Path(folder).expanduser()) if folder else _sample()
    total = len(names)
    n = total if n is None else n
    if not 1 <= n <= total:
        raise ValueError(f"n must be from 1 to {total}, the number of images there are; got {n}")
    images, digest = torch.empty(n, 3, size, size), hashlib.sha256()
    for i in range(n):
        name = names[i * total // n]
        content = read(name)
        digest.update(content)
        images[i] = _evaluated(name, content, size)
    pixels = hashlib.sha256(images.numpy().data).hexdigest()
    note_loaded("imagenet/images", copy, digest.hexdigest(), pixels)
    mean, deviation = (torch.tensor(moment).view(3, 1, 1) for moment in (_MEAN, _DEVIATION))
    return images.sub_(mean).div_(deviation)


def _sample() -> tuple[list[str], Callable[[str], bytes], str]:
    """Names in the sample, how to read one, and which copy it is."""
    folders = fetch.folders(None)
    path = next((each / _SAMPLE for each in folders if (each / _SAMPLE).is_file()), None)
    if path is None:
        raise fetch.DataMissing(
            f"{_SAMPLE} is not in {' or '.join(map(str, folders))}. Either set SPATIALKIT_DATA to a folder that holds "
            "it, or name a folder of JPEG or PNG files of your own: imagenet_images(folder=...)"
        )
    stored = path.read_bytes()
    found = hashlib.sha256(stored).hexdigest()
    if found != _SUM:
        raise ValueError(
            f"{path} is truncated or altered: expected sha256 {_SUM}, found {found}; delete this file and get it again"
        )
    archive = zipfile.ZipFile(io.BytesIO(stored))
    return sorted(name for name in archive.namelist() if name.lower().endswith(_ENDINGS)), archive.read, _WORDS


def _files_of(folder: Path) -> tuple[list[str], Callable[[str], bytes], str]:
    """The same for a folder; hidden files do not count."""
    files = (
        path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file()
    )
    names = sorted(path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts))
    if not names:
        raise fetch.DataMissing(f"no JPEG or PNG file is in {folder}; name a folder that holds some")
    return names, lambda name: (folder / name).read_bytes(), f"{len(names)} files of a folder"


def _evaluated(name: str, content: bytes, size: int) -> Tensor:
    """One image file as the centre of the resized image, 3 x size x size, from 0 to 1."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG", "PNG"]) as stored:
            image = stored.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: of a damaged PNG
        raise ValueError(f"{name} is truncated or no image ({error}); delete this file or get it again") from error
    width, height = (int(_SHORTER * side / min(image.size)) for side in image.size)
    left, top = (round((side - size) / 2) for side in (width, height))
    image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)

"""Photographs of textures from Brodatz's album: one of each, so that cut-outs make the samples."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile

import numpy as np
import torch
from torch import Tensor

from spatialkit.data import fetch, files
from spatialkit.lab import note_loaded

__all__ = ["brodatz_textures"]

_FILE = "textures/brodatz_640.zip"
_SUM = "sha256:8cce0b0bce1541038096c5b3f28b4a1f5175c49f73ee7428f1a135ad24981edc"
_NUMBER, _SIDE = 112, 640  # D1 to D112, px
_WORDS = "scans of 640 px"


def brodatz_textures(split: str = "train", block: int = 1, folder: str | os.PathLike | None = None) -> Tensor:
    """The textures D1 to D112 of Brodatz's album, grey; every fourth is for test.

    Args:
        split: ``"train"`` (84 textures) or ``"test"`` (28: D4, D8, ..., D112).
        block: Side of the averaged blocks, px, a divisor of 640.
        folder: Folder that holds ``textures``; by default as `spatialkit.data.load`.

    Returns:
        ``(T, 640 / block, 640 / block)``, float32, from 0 to 1.

    Raises:
        ValueError: If there is no such split, the block is no divisor, or the file is truncated or altered.
        DataMissing: If the file is in no folder.

    References:
        P. Brodatz, "Textures: a photographic album for artists and designers" (1966).
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if block < 1 or _SIDE % block:
        raise ValueError(f"block must be a divisor of {_SIDE} px, got {block}")
    archive = files.required(_FILE, _SUM, fetch.folders(folder))
    numbers = [i for i in range(1, _NUMBER + 1) if (i % 4 == 0) == (split == "test")]
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        textures = torch.stack([_pixels(packed.read(f"D{i}.png"), block) for i in numbers])
    sums = (hashlib.sha256(content).hexdigest() for content in (archive, textures.numpy().data))
    note_loaded(f"brodatz/{split}", _WORDS if block == 1 else f"{_WORDS}, means of {block} x {block}", *sums)
    return textures


def _pixels(png: bytes, block: int) -> Tensor:
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        grey = np.asarray(image.convert("L"), dtype=np.float64) / 255
    side = _SIDE // block
    return torch.from_numpy(grey.reshape(side, block, side, block).mean((1, 3)).astype(np.float32))

"""The Berkeley segmentation data: photographs with the boundaries that several people drew in each."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spatialkit.data import fetch, files
from spatialkit.lab import note_loaded

__all__ = ["BoundaryImages", "boundary_images"]

_IMAGES = "BSDS500/images.zip"
_SUMS = {
    _IMAGES: "sha256:70f9c1fed610bbff821d5381ceba2733ecebd2641cac5307c1b818ca19832ac2",
    "BSDS500/boundaries_train.npz": "sha256:6d966c8f9180d9038662698e0492673a2f752cc55f748853dea8a8d325addeb6",
    "BSDS500/boundaries_val.npz": "sha256:4142a9a6fb7b1b9ca245e43be736bb730b6a448f7cf55740867f76e177c55b2c",
    "BSDS500/boundaries_test.npz": "sha256:ddfa841228b65933346b6114f241ca1248099d22ee062c9d3d7eab67fb3dfd76",
}
_SPLITS = ("train", "val", "test")
_WORDS = "BSDS500, JPEG files of the source and packed boundary maps"


@dataclass(frozen=True, eq=False)
class BoundaryImages:
    """One split, in memory; images differ in size. Every caller gets the same tensors: do not change them in place."""

    images: tuple[Tensor, ...] = field(repr=False)  # each (3, H, W), uint8
    annotations: tuple[Tensor, ...] = field(repr=False)  # each (A, H, W), bool: one map for each of 4 to 9 annotators
    names: tuple[str, ...] = field(repr=False)  # of the files
    split: str
    sha256: str  # of the files laid end to end
    content: str  # SHA-256 of the tensors above

    def __len__(self) -> int:
        return len(self.images)


def boundary_images(
    split: str = "train", n: int | None = None, folder: str | os.PathLike | None = None
) -> BoundaryImages:
    """Images of the Berkeley segmentation data set (BSDS500) and the boundary maps of all their annotators.

    Images are 321 x 481 or 481 x 321 px; a map is True at boundary pixels, about 1.8 % of all. Files are looked for in
    ``folder``, or else in the folder that ``SPATIALKIT_DATA`` names, then in the cache folder, and checked against
    their sums.

    Args:
        split: ``"train"`` (200 images), ``"val"`` (100) or ``"test"`` (200).
        n: How many, the first ones; by default all.
        folder: Folder that holds ``BSDS500``.

    Raises:
        ValueError: If there is no such split, n is out of range, or a file is truncated or altered.
        DataMissing: If a file is in no folder; says which.

    References:
        P. Arbelaez, M. Maire, C. Fowlkes and J. Malik, "Contour detection and hierarchical image segmentation", IEEE
        TPAMI 33 (2011).
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}; got {split!r}")
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    found = _read(split, n, fetch.folders(folder))
    note_loaded(f"bsds500/{split}", _WORDS, found.sha256, found.content)
    return found


@functools.lru_cache(maxsize=4)
def _read(split: str, n: int | None, folders: tuple[Path, ...]) -> BoundaryImages:
    maps, archive = (
        files.required(file, _SUMS[file], folders) for file in (f"BSDS500/boundaries_{split}.npz", _IMAGES)
    )
    with np.load(io.BytesIO(maps), allow_pickle=False) as stored, zipfile.ZipFile(io.BytesIO(archive)) as packed:
        names = tuple(str(name) for name in stored["ids"])
        if n is not None and n > len(names):
            raise ValueError(f"n must be at most {len(names)}, the number of {split} images; got {n}")
        names = names[:n]
        images = tuple(_pixels(packed.read(f"{split}/{name}.jpg")) for name in names)
        annotations = tuple(
            torch.from_numpy(np.unpackbits(stored[f"b_{name}"], axis=-1)[..., :width].astype(bool))
            for name, (_, width) in zip(names, stored["sizes"], strict=False)
        )
    digest = hashlib.sha256()
    for tensor in (*images, *annotations):
        digest.update(tensor.numpy().data)
    return BoundaryImages(
        images, annotations, names, split, hashlib.sha256(maps + archive).hexdigest(), digest.hexdigest()
    )


def _pixels(jpeg: bytes) -> Tensor:
    from PIL import Image

    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        return torch.from_numpy(np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1)))

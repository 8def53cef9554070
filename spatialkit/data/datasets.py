"""Image data sets by name: where each comes from, and which copy of it was found."""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spatialkit.data import embedded, fetch, files
from spatialkit.data.sets import SETS, Copy
from spatialkit.lab import note_loaded

__all__ = ["NAMES", "Dataset", "available", "load", "photographs"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, in memory. Every caller gets the same tensors: do not change them in place."""

    images: Tensor = field(repr=False)  # (N, C, H, W), uint8
    labels: Tensor = field(repr=False)  # (N,), int64
    classes: tuple[str, ...] = field(repr=False)  # name of each label
    name: str
    split: str
    copy: str  # which copy this is, in short words: the original, a re-encode, a part
    sha256: str  # of the files of this split laid end to end, uncompressed; of the pixels of an embedded set
    content: str  # SHA-256 of the tensors below and above: what the reader made of the files
    index: Tensor = field(repr=False)  # (N,), int64: place of each image in the original split

    def __len__(self) -> int:
        return len(self.labels)


NAMES = tuple(SETS)


def load(name: str, split: str = "train", folder: str | os.PathLike | None = None) -> Dataset:
    """One split of a data set, checked against its published sums.

    Files are looked for in ``folder``, or else in the folder that ``SPATIALKIT_DATA`` names, if either is
    given; then in the cache folder; then they are downloaded into the cache folder. Each set is checked and
    read once per process: later calls return the same tensors, which callers must not change in place.

    Args:
        name: One of ``NAMES``. ``digits`` (8 x 8, values 0..16 stretched to 0..255) and ``photographs``
            (32 x 32 crops of two photographs, in reading order; every fifth is for test) need no files.
        split: ``"train"`` or ``"test"``.
        folder: Folder in torchvision's layout, or with the npz files that hold CIFAR-10.

    Raises:
        ValueError: If there is no such set or split, or a file is truncated, altered or incomplete.
        DataMissing: If the set is in no folder and cannot be downloaded; says what to do.
    """
    _check(name)
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    with _one_at_a_time:  # threads that ask together share one copy
        dataset = _load(name, split, fetch.folders(folder))
    note_loaded(f"{name}/{split}", dataset.copy, dataset.sha256, dataset.content)
    return dataset


def available(name: str, folder: str | os.PathLike | None = None) -> str:
    """Whether both splits of a data set are ``"here"``, ``"downloadable"`` or ``"missing"``.

    Looks where ``load`` would look, without reading the files. The network is asked only if files lack, for
    about five seconds at most, and never under ``SPATIALKIT_OFFLINE=1``.

    Raises:
        ValueError: If there is no such set.
    """
    _check(name)
    if SETS[name].embedded:
        return "here"
    try:
        if all(_locate(name, split, fetch.folders(folder)) for split in ("train", "test")):
            return "here"
    except ValueError:  # incomplete: load says which files lack
        return "missing"
    return "downloadable" if fetch.reachable(_downloaded(name).url) else "missing"


def photographs() -> dict[str, Tensor]:
    """The two whole photographs embedded in scikit-learn, each ``(3, H, W)`` uint8, by name."""
    arrays = embedded.whole_photographs()
    digest = _sha256([array.data for array in arrays])
    note_loaded("photographs/whole", embedded.WORDS, digest, digest)
    return {name: _tensor(array) for name, array in zip(embedded.PHOTOGRAPHS, arrays, strict=True)}


_one_at_a_time = threading.Lock()


def _check(name: str) -> None:
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no data set is called {name!r}.{hint} There are: {', '.join(NAMES)}")


@functools.cache
def _load(name: str, split: str, folders: tuple[Path, ...]) -> Dataset:
    """``load`` without its checks of the arguments; remembers what it returned."""
    known = SETS[name]
    if known.embedded:
        content, sha256 = known.embedded(split)
        copy = embedded.WORDS
    else:
        folder, stored = _locate(name, split, folders) or _fetched(name, split, folders)
        contents = [files.read_checked(folder, file, published) for file, published in stored.files(split).items()]
        content, copy = stored.read(contents, split), stored.words
        sha256 = _sha256(contents)
    places = np.arange(len(content.labels)) if content.index is None else content.index
    first = slice(known.keep.get(split))
    images, labels, index = (_tensor(part[first]) for part in (content.images, content.labels, places))
    labels, index, classes = labels.long(), index.long(), content.classes or known.classes
    digest = _sha256([part.numpy().data for part in (images, labels, index)])
    return Dataset(images, labels, classes, name, split, copy, sha256, digest, index)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))  # copies only if it must


def _sha256(contents: Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _downloaded(name: str) -> Copy:
    """The copy that a download brings."""
    return next(copy for copy in SETS[name].copies if copy.source)


def _locate(name: str, split: str, folders: tuple[Path, ...]) -> tuple[Path, Copy] | None:
    """First folder, and best copy in it, with all files of the split; None if there is none.

    Raises:
        ValueError: If a copy is only partly there, unless in the cache folder, where a download mends it.
    """
    for folder in folders:
        for copy in SETS[name].copies:
            lacking = [file for file in copy.files(split) if files.find(folder, file) is None]
            if not lacking:
                return folder, copy
            if len(lacking) < len(copy.files(split)) and folder != fetch.cache_folder():
                raise ValueError(f"{name} is incomplete in {folder}: add {', '.join(lacking)}, or remove the rest")
    return None


def _fetched(name: str, split: str, folders: tuple[Path, ...]) -> tuple[Path, Copy]:
    """Cache folder and copy after a download; DataMissing says both ways to get the data if there is none."""
    copy = _downloaded(name)
    same = [other for known in SETS.values() for other in known.copies if other.source == copy.source]
    try:
        fetch.download(copy.source, copy.url, sorted({file for c in same for file in (*c.train, *c.test)}))
    except fetch.DataMissing as error:
        layouts = " or ".join(", ".join(c.files(split)) for c in SETS[name].copies)
        raise fetch.DataMissing(
            f"{name} ({split}) is not in {' or '.join(map(str, folders))}, "
            f"and cannot be downloaded: {error}. "
            f"Either set SPATIALKIT_DATA to a folder that holds {layouts} (each may be gzipped, NAME.gz); "
            f"or run once with network access, and it is downloaded into {fetch.cache_folder()}."
        ) from error
    return fetch.cache_folder(), copy

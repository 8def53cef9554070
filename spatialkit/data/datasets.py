"""Image data sets by name: where each comes from, and which copy of it was found."""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spatialkit.data import embedded, fetch, files
from spatialkit.data.files import Content
from spatialkit.data.seen import note

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
    index: Tensor = field(repr=False)  # (N,), int64: place of each image in the original split

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Copy:
    """One way in which a data set is stored: what to call it, its files, how to read them."""

    words: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[Sequence[bytes], str], Content]
    source: str = ""  # torchvision's class that downloads this copy; none by default

    def files(self, split: str) -> tuple[str, ...]:
        return self.train if split == "train" else self.test


def _idx_copy(folder: str) -> _Copy:
    train, test = (
        tuple(f"{folder}/raw/{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
        for part in ("train", "t10k")
    )
    return _Copy("original files", train, test, files.read_idx, source=folder)


_BATCHES, _100 = "cifar-10-batches-py/", "cifar-100-python/"
_COPIES = {  # in order of preference
    "mnist": (_idx_copy("MNIST"),),
    "fashion_mnist": (_idx_copy("FashionMNIST"),),
    "cifar10": (
        _Copy(
            "original files",
            tuple(f"{_BATCHES}data_batch_{i}" for i in range(1, 6)),
            (_BATCHES + "test_batch",),
            files.read_batches,
            source="CIFAR10",
        ),
        _Copy("JPEG re-encode, quality 75", ("cifar10_jpeg.npz",), ("cifar10_jpeg.npz",), files.read_jpeg),
    ),
    "cifar100": (
        _Copy(
            "original files",
            (_100 + "train", _100 + "meta"),
            (_100 + "test", _100 + "meta"),
            files.read_batches,
            source="CIFAR100",
        ),
    ),
    "cifar10_lossless": (
        _Copy(
            "lossless part",
            ("cifar10_lossless_4000.npz",),
            ("cifar10_lossless_test_1000.npz",),
            files.read_npz,
        ),
        _Copy(
            "first images of the original files",
            (_BATCHES + "data_batch_1",),
            (_BATCHES + "test_batch",),
            files.read_batches,
            source="CIFAR10",
        ),
    ),
}
_EMBEDDED = {"digits": embedded.read_digits, "photographs": embedded.read_crops}
_KEEP = {("cifar10_lossless", "train"): 4000, ("cifar10_lossless", "test"): 1000}  # else all images
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": tuple(_FASHION.split(",")),
    "cifar10": tuple(_CIFAR10.split()),
    "cifar10_lossless": tuple(_CIFAR10.split()),
    "digits": tuple("0123456789"),
    "photographs": embedded.PHOTOGRAPHS,
}

NAMES = (*_COPIES, *_EMBEDDED)


def load(name: str, split: str = "train", root: str | os.PathLike | None = None) -> Dataset:
    """One split of a data set, checked against its published sums.

    Files are looked for in ``root``, or else in the folder that ``SPATIALKIT_DATA`` names, if either is
    given; then in the cache folder; then they are downloaded into the cache folder. Each set is checked and
    read once per process: later calls return the same tensors, which callers must not change in place.

    Args:
        name: One of ``NAMES``. ``digits`` (8 x 8, values 0..16 stretched to 0..255) and ``photographs``
            (32 x 32 crops of two photographs, in reading order; every fifth is for test) need no files.
        split: ``"train"`` or ``"test"``.
        root: Folder in torchvision's layout, or with the npz files that hold CIFAR-10.

    Raises:
        ValueError: If there is no such set or split, or a file is truncated, altered or incomplete.
        DataMissing: If the set is in no folder and cannot be downloaded; says what to do.
    """
    _check(name)
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    with _one_at_a_time:  # threads that ask together share one copy
        dataset = _load(name, split, fetch.folders(root))
    note(f"{name}/{split}", dataset.copy, dataset.sha256)
    return dataset


def available(name: str, root: str | os.PathLike | None = None) -> str:
    """Whether both splits of a data set are ``"here"``, ``"downloadable"`` or ``"missing"``.

    Looks where ``load`` would look, without reading the files. The network is asked only if files lack, for
    about five seconds at most, and never under ``SPATIALKIT_OFFLINE=1``.

    Raises:
        ValueError: If there is no such set.
    """
    _check(name)
    if name in _EMBEDDED:
        return "here"
    try:
        if all(_locate(name, split, fetch.folders(root)) for split in ("train", "test")):
            return "here"
    except ValueError:  # incomplete: load says which files lack
        return "missing"
    return "downloadable" if fetch.reachable(fetch.URLS[_downloaded(name).source]) else "missing"


def photographs() -> dict[str, Tensor]:
    """The two whole photographs embedded in scikit-learn, each ``(3, H, W)`` uint8, by name."""
    arrays = embedded.whole_photographs()
    note("photographs/whole", embedded.WORDS, _sha256([array.data for array in arrays]))
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
    if name in _EMBEDDED:
        content, sha256 = _EMBEDDED[name](split)
        copy = embedded.WORDS
    else:
        folder, stored = _locate(name, split, folders) or _fetched(name, split, folders)
        contents = [files.read_checked(folder, file) for file in stored.files(split)]
        content, copy = stored.read(contents, split), stored.words
        sha256 = _sha256(contents)
    places = np.arange(len(content.labels)) if content.index is None else content.index
    first = slice(_KEEP.get((name, split)))
    images, labels, index = (_tensor(part[first]) for part in (content.images, content.labels, places))
    classes = content.classes or _CLASSES[name]
    return Dataset(images, labels.long(), classes, name, split, copy, sha256, index.long())


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))  # copies only if it must


def _sha256(contents: Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _downloaded(name: str) -> _Copy:
    """The copy that a download brings."""
    return next(copy for copy in _COPIES[name] if copy.source)


def _locate(name: str, split: str, folders: tuple[Path, ...]) -> tuple[Path, _Copy] | None:
    """First folder, and best copy in it, with all files of the split; None if there is none.

    Raises:
        ValueError: If a copy is only partly there, unless in the cache folder, where a download mends it.
    """
    for folder in folders:
        for copy in _COPIES[name]:
            lacking = [file for file in copy.files(split) if files.find(folder, file) is None]
            if not lacking:
                return folder, copy
            if len(lacking) < len(copy.files(split)) and folder != fetch.cache_folder():
                raise ValueError(f"{name} is incomplete in {folder}: add {', '.join(lacking)}, or remove the rest")
    return None


def _fetched(name: str, split: str, folders: tuple[Path, ...]) -> tuple[Path, _Copy]:
    """Cache folder and copy after a download; DataMissing says both ways to get the data if there is none."""
    copy = _downloaded(name)
    archive = copy.train[0].split("/")[0] + "/"
    try:
        fetch.download(copy.source, [file for file in files.SUMS if file.startswith(archive)])
    except fetch.DataMissing as error:
        layouts = " or ".join(", ".join(c.files(split)) for c in _COPIES[name])
        raise fetch.DataMissing(
            f"{name} ({split}) is not in {' or '.join(map(str, folders))}, "
            f"and cannot be downloaded: {error}. "
            f"Either set SPATIALKIT_DATA to a folder that holds {layouts} (each may be gzipped, NAME.gz); "
            f"or run once with network access, and it is downloaded into {fetch.cache_folder()}."
        ) from error
    return fetch.cache_folder(), copy

"""Data files: found, checked against their published sums, and read without ever running code from them."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialkit.data import fetch

__all__ = ["Content", "find", "read_batches", "read_checked", "read_idx", "read_jpeg", "read_npz", "required"]

_LARGEST = 1 << 28  # bytes of an unpacked file; the largest of a data set has a quarter of it


@dataclass(frozen=True, eq=False)
class Content:
    """What the files of one split hold."""

    images: np.ndarray  # (N, C, H, W), uint8
    labels: np.ndarray  # (N,)
    index: np.ndarray | None = None  # (N,), place in the original set; None: 0, 1, 2, ...
    classes: tuple[str, ...] | None = None  # None: the files do not name them


def find(folder: Path, file: str) -> Path | None:
    """Path of ``file`` in ``folder``, as it is or with ``.gz`` added; None if it is not there."""
    paths = [folder / file, folder / f"{file}.gz"]
    return next((path for path in paths if path.is_file()), None)


def read_checked(folder: Path, file: str, published: str) -> bytes:
    """Uncompressed content of ``file`` in ``folder``, after its sum was found to be the published one.

    Args:
        folder: Where to look.
        file: Its name; ``file.gz`` is read when ``file`` itself is not there.
        published: Algorithm and sum of the content, as in ``md5:6bbc9a...``.

    Raises:
        FileNotFoundError: If neither is there.
        ValueError: If the content is truncated or altered.
    """
    path = find(folder, file)
    if path is None:
        raise FileNotFoundError(f"{file} is not in {folder}")
    packed = path.suffix == ".gz"
    algorithm, expected = published.split(":")
    try:
        content = _unpacked(path) if packed else path.read_bytes()
        found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        content, found = b"", f"no complete gzip content ({error})"
    if found != expected:
        raise ValueError(
            f"{path} is truncated or altered: expected {algorithm} {expected}{' once unpacked' * packed}, "
            f"found {found}; delete this file and get it again"
        )
    return content


def required(file: str, published: str, folders: Sequence[Path]) -> bytes:
    """``read_checked`` from the first folder that holds the file, for sets that nothing downloads.

    Raises:
        DataMissing: If none does; says what to do.
        ValueError: As `read_checked`.
    """
    folder = next((folder for folder in folders if find(folder, file)), None)
    if folder is None:
        raise fetch.DataMissing(
            f"{file} is not in {' or '.join(map(str, folders))}. Set SPATIALKIT_DATA to a folder that holds it; there "
            "is no download"
        )
    return read_checked(folder, file, published)


def _unpacked(path: Path) -> bytes:
    """The content of a gzip file, but never more than any data set has."""
    with gzip.open(path) as stream:
        content = stream.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise gzip.BadGzipFile(f"over {_LARGEST >> 20} MiB")
    return content


def read_idx(contents: Sequence[bytes], split: str) -> Content:
    """Images and labels of two idx files (MNIST and its relatives)."""
    images, labels = (_idx(content) for content in contents)
    return Content(images[:, None], labels)  # (N, H, W) -> (N, 1, H, W)


def _idx(content: bytes) -> np.ndarray:
    """One idx file: two zero bytes, type (8: uint8), number of axes, big-endian lengths, then the values."""
    ndim = content[3]
    shape = np.frombuffer(content, ">i4", count=ndim, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def read_batches(contents: Sequence[bytes], split: str) -> Content:
    """Images and labels of CIFAR's pickled batches; class names too, where a file of names is among them."""
    entries = [_ArraysOnly(io.BytesIO(content), encoding="bytes").load() for content in contents]
    batches = [entry for entry in entries if b"data" in entry]
    names = next((entry[b"fine_label_names"] for entry in entries if b"fine_label_names" in entry), None)
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch.get(b"labels", batch.get(b"fine_labels")) for batch in batches])
    return Content(images, labels, classes=names and tuple(name.decode() for name in names))


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of plain values and NumPy arrays; any other callable is refused before it is imported."""

    allowed = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.allowed:
            raise ValueError(f"refused: this pickle asks for {module}.{name}; data hold only arrays and names")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_npz(contents: Sequence[bytes], split: str) -> Content:
    """Images, labels and index of one npz file of whole pixels."""
    with np.load(io.BytesIO(contents[0]), allow_pickle=False) as arrays:
        return Content(arrays["images"].transpose(0, 3, 1, 2), arrays["labels"], arrays["index"])


def read_jpeg(contents: Sequence[bytes], split: str) -> Content:
    """Images and labels of one npz file of JPEG files laid end to end; decoded once per machine (10 s)."""
    key = f"{hashlib.sha256(contents[0]).hexdigest()}-{split}"
    with np.load(io.BytesIO(contents[0]), allow_pickle=False) as arrays:
        images = fetch.kept(key, lambda: _decode(arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"]))
        return Content(images, arrays[f"{split}_labels"])


def _decode(jpeg: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Pixels, (N, 3, 32, 32); image i is ``jpeg[offsets[i]:offsets[i + 1]]``."""
    from PIL import Image

    stream = jpeg.tobytes()
    images = np.empty((len(offsets) - 1, 3, 32, 32), np.uint8)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        with Image.open(io.BytesIO(stream[start:stop]), formats=["JPEG"]) as image:
            images[i] = np.asarray(image).transpose(2, 0, 1)
    return images

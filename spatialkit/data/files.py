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

__all__ = ["SUMS", "Content", "find", "read_batches", "read_checked", "read_idx", "read_jpeg", "read_npz"]

SUMS = {  # of the uncompressed content of each file, so that idx files may be stored with or without gzip
    "MNIST/raw/train-images-idx3-ubyte": "md5:6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "md5:a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "md5:2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "md5:27ae3e4e09519cfbb04c329615203637",
    "FashionMNIST/raw/train-images-idx3-ubyte": "md5:f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "md5:9018921c3c673c538a1fc5bad174d6f9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "md5:8181f5470baa50b63fa0f6fddb340f0a",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "md5:15d484375f8d13e6eb1aabb0c3f46965",
    "cifar-10-batches-py/data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "md5:40351d587109b95175f43aff81a1287e",
    "cifar-100-python/train": "md5:16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
    "cifar-100-python/meta": "md5:7973b15100ade9c7d40fb424638fde48",
    "cifar10_jpeg.npz": "sha256:cb6fe2a3cddca4b8c088824be221ecf79ed3094e5cdb305051739bed11b7ad2c",
    "cifar10_lossless_4000.npz": "sha256:02164c90d330f0883fd13ab95006ca503eadbdcd7ead7ca1eb4360c35bc1f4c0",
    "cifar10_lossless_test_1000.npz": "sha256:91b99608be9bea14a42e11af27ef1ab45c74274975520d84e74074eaf299b6f3",
}


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


def read_checked(folder: Path, file: str) -> bytes:
    """Uncompressed content of ``file`` in ``folder``, after its sum was found to be the published one.

    Args:
        folder: Where to look.
        file: A key of ``SUMS``; ``file.gz`` is read when ``file`` itself is not there.

    Raises:
        FileNotFoundError: If neither is there.
        ValueError: If the content is truncated or altered.
    """
    path = find(folder, file)
    if path is None:
        raise FileNotFoundError(f"{file} is not in {folder}")
    packed = path.suffix == ".gz"
    algorithm, expected = SUMS[file].split(":")
    try:
        stored = path.read_bytes()
        content = gzip.decompress(stored) if packed else stored
        found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        content, found = b"", f"no complete gzip content ({error})"
    if found != expected:
        raise ValueError(
            f"{path} is truncated or altered: expected {algorithm} {expected}{' once unpacked' * packed}, "
            f"found {found}; delete this file and get it again"
        )
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
        with Image.open(io.BytesIO(stream[start:stop])) as image:
            images[i] = np.asarray(image).transpose(2, 0, 1)
    return images

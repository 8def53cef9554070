"""Where data come from: a named folder, the cache folder or the network; and what the cache folder keeps."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

__all__ = ["DataMissing", "cache_folder", "download", "folders", "kept", "reachable"]


class DataMissing(FileNotFoundError):
    """The data set is in no folder, and could not be downloaded."""


def cache_folder() -> Path:
    """Folder for downloads and decoded images: ``spatialkit`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "spatialkit"


def folders(root: str | os.PathLike | None) -> tuple[Path, ...]:
    """Where to look, in order: ``root``, or else ``SPATIALKIT_DATA``, if given; then the cache folder."""
    named = root or os.environ.get("SPATIALKIT_DATA")
    first = [Path(named).expanduser().resolve()] if named else []
    return tuple(dict.fromkeys([*first, cache_folder()]))


def reachable(url: str, timeout: float = 5.0) -> bool:
    """Whether the network holds ``url``. ``SPATIALKIT_OFFLINE=1``: no, without asking."""
    if os.environ.get("SPATIALKIT_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout):
            return True
    except (OSError, http.client.HTTPException):
        return False


def download(source: str, url: str, files: Sequence[str]) -> None:
    """Bring ``files`` into the cache folder with torchvision, which checks the sums of its archives.

    Several processes may ask at once: one downloads, the others wait. Files appear complete or not at all.

    Args:
        source: Name of torchvision's class.
        url: What must answer before the download is begun.
        files: What is wanted, relative to the cache folder.

    Raises:
        DataMissing: If there is no network, or the download fails; says why.
    """
    if not reachable(url):
        raise DataMissing(f"{url} does not answer, or SPATIALKIT_OFFLINE is set")
    cache = cache_folder()
    part = cache / f"{source}.part"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{source}.lock"):
            if all((cache / file).is_file() for file in files):
                return  # another process was quicker
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            try:
                _download_with_torchvision(source, part)
                for file in files:
                    (cache / file).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(part / file, cache / file)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (OSError, RuntimeError, ImportError, http.client.HTTPException) as error:
        raise DataMissing(f"the download failed: {error}") from error


def _download_with_torchvision(source: str, folder: Path) -> None:
    """Download and unpack; for CIFAR without torchvision's reader, which would unpickle the files."""
    from spatialkit._torchvision import torchvision

    dataset = getattr(torchvision.datasets, source)
    if issubclass(dataset, torchvision.datasets.CIFAR10):
        torchvision.datasets.utils.download_and_extract_archive(dataset.url, folder, md5=dataset.tgz_md5)
    else:
        dataset(folder, download=True)


def kept(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that ``make()`` returns, kept in the cache folder under ``key`` for later processes.

    Several processes may ask at once: one makes it, the others wait. A damaged file is made again; a cache
    folder that cannot be written is done without.
    """
    path = cache_folder() / "decoded" / f"{key}.npz"
    array = _read_kept(path)
    if array is not None:
        return array
    lock = FileLock(f"{path}.lock", timeout=120)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except (OSError, NotImplementedError):  # read-only, full, or a file system without locks
        return make()
    with held:
        array = _read_kept(path)
        if array is None:
            array = make()
            _write_kept(path, array)
    return array


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _read_kept(path: Path) -> np.ndarray | None:
    """The array in ``path``; None if there is none, or if it does not have the sum stored beside it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            array, digest = stored["array"], str(stored["sha256"])
    except OSError:
        return None
    except (EOFError, ValueError, KeyError, zipfile.BadZipFile):
        array, digest = np.empty(0), "unreadable"
    if _digest(array) == digest:
        return array
    warnings.warn(f"{path} is damaged; made again", stacklevel=2)
    return None


def _write_kept(path: Path, array: np.ndarray) -> None:
    """Write whole or not at all: into a temporary file, then renamed."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, array=array, sha256=np.array(_digest(array)))
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)

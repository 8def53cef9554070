"""Where data come from: a named folder, the cache folder or the network; and what the cache folder keeps."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import shutil
import ssl
import urllib.error
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from spatialkit.lab import atomic_write, places, settings

__all__ = ["DataMissing", "cache_folder", "download", "folders", "kept", "obstacle", "reachable"]


class DataMissing(FileNotFoundError):
    """The data set is in no folder, and could not be downloaded."""


def cache_folder() -> Path:
    """Folder for downloads and decoded images: ``spatialkit`` in ``XDG_CACHE_HOME``, else in ``~/.cache``.

    Without a home folder, as in some containers: ``build/cache`` of the bundle.
    """
    named, home = settings.cache(), settings.home()
    if named:
        return named / "spatialkit"
    return home.resolve() / ".cache" / "spatialkit" if home else places.root() / "build" / "cache"


def folders(folder: str | os.PathLike | None) -> tuple[Path, ...]:
    """Where to look, in order: ``folder``, or else ``SPATIALKIT_DATA``, if given; then the cache folder."""
    first = Path(folder).expanduser().resolve() if folder else settings.data()
    return tuple(dict.fromkeys([*([first] if first else []), cache_folder()]))


def reachable(url: str, timeout: float = 5.0) -> bool:
    """Whether the network holds ``url``. ``SPATIALKIT_OFFLINE=1``: no, without asking."""
    return obstacle(url, timeout) == ""


def obstacle(url: str, timeout: float = 5.0) -> str:
    """Why ``url`` cannot be had, and what to do about it, in words; empty if it can.

    Asks for the head alone; a server that refuses that is asked for the file, of which nothing is read.
    """
    if settings.offline():
        return "SPATIALKIT_OFFLINE is set: unset it to download"
    found = _asked(url, "HEAD", timeout)
    if isinstance(found, urllib.error.HTTPError) and found.code in (400, 403, 405, 501):
        found = _asked(url, "GET", timeout)
    return "" if found is None else _in_words(url, found)


def _asked(url: str, method: str, timeout: float) -> Exception | None:
    """The error that a request meets; None if it is answered."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=timeout):
            return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return error


def _in_words(url: str, error: Exception) -> str:
    host = urllib.parse.urlsplit(url).hostname
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (401, 403, 407, 451):
            return f"{url} refuses this machine ({error.code} {error.reason}): a proxy or firewall may forbid it"
        if error.code in (404, 410):
            return f"{url} is not there any more ({error.code} {error.reason}): get the files elsewhere"
        return f"{url} answers {error.code} {error.reason}: try again later"
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        why = reason.verify_message
        return f"the certificate of {host} is not trusted ({why}): set SSL_CERT_FILE to your network's certificates"
    return f"{host} does not answer ({reason}): check the network, and HTTPS_PROXY if there is a proxy"


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
        raise DataMissing(obstacle(url))
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
    packed = io.BytesIO()
    np.savez(packed, array=array, sha256=np.array(_digest(array)))
    with contextlib.suppress(OSError):  # a full or read-only folder is done without
        atomic_write(path, packed.getvalue())

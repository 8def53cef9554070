"""`doctor`: which device, data and versions were found here, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from loky import cpu_count

from spatialkit.commands.plan import choose_profile, data_sets, select
from spatialkit.lab import bfloat16_words, settings

__all__ = ["doctor"]

_INSTALL = "pip install -c constraints.txt -e '.[all]'"
_BASE = ("torchvision", "numpy", "pandas", "matplotlib")
_TOOLS = ("papermill", "jupyterlab", "nbval", "ruff", "mypy", "coverage", "dask")
_GET_DATA = "set SPATIALKIT_DATA to a folder that holds it, or go online: it is then downloaded"


def _say(mark: str, what: str, found: str) -> None:
    print(f"{mark:<8} {what:<17} {found}", flush=True)


def _versions(names: tuple[str, ...]) -> None:
    for name in names:
        try:
            _say("found", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            _say("missing", name, f"get it with {_INSTALL}")


def _python() -> None:
    _say("found", "python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    _say("found", "cores", f"{cpu_count()} usable; OMP_NUM_THREADS {settings.threads()}")
    _say("found", "processor", bfloat16_words())


def _device() -> None:
    try:
        import torch
    except ImportError as error:
        return _say("missing", "torch", f"{error}; get it with {_INSTALL}")
    _say("found", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return _say("found", "device", f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    why = "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA device answers"
    return _say("found", "device", f"CPU ({why}; only profile paper needs a GPU)")


def _data() -> None:
    try:
        from spatialkit import data
    except ImportError as error:
        return _say("missing", "data", f"{error}; get what it needs with {_INSTALL}")
    folder = settings.data()
    _say("found" if folder else "not set", "SPATIALKIT_DATA", str(folder or "optional: a folder with the data sets"))
    for name in data.NAMES:
        state = data.available(name)
        if state == "here":
            _say(*_opened(data, name))
        elif state == "downloadable":
            _say("online", name, "downloaded with checksums at the first use")
        else:
            _say("missing", name, _GET_DATA if name in data_sets() else f"optional; {_GET_DATA}")
    return None


def _opened(data, name: str) -> tuple[str, str, str]:
    """Read the test part: the files may be there and yet be cut short or altered."""
    try:
        return "found", name, data.load(name, split="test").copy
    except (OSError, ValueError) as error:
        return "damaged", name, str(error)


def _places(base: Path) -> None:
    free = shutil.disk_usage(base).free / 2**30
    writable = os.access(base, os.W_OK)
    _say(
        "found" if writable else "missing",
        "results/",
        f"{free:.0f} GiB free{'' if writable else ', read-only'}",
    )
    numbered = len(select(base))
    if numbered:
        _say("found", "notebooks/", str(numbered))
    else:
        _say("missing", "notebooks/", "get the whole bundle with git clone, and work in its folder")


def _commit(base: Path) -> None:
    try:
        command = ["git", "rev-parse", "--short=10", "HEAD"]
        done = subprocess.run(command, cwd=base, capture_output=True, encoding="utf-8", timeout=10)
    except (OSError, subprocess.SubprocessError):
        return _say("missing", "commit", "no git here; records will say so: install git")
    if done.returncode != 0:
        return _say("missing", "commit", "no commit known here; records will say so: get the bundle with git clone")
    return _say("found", "commit", done.stdout.strip())


def _profile(base: Path) -> None:
    try:
        profile, reason = choose_profile(base)
    except ImportError:
        return
    print(f"\nmake figures would run profile {profile} ({reason})", flush=True)


def doctor(base: Path) -> int:
    """Print one line per thing looked for. Exit status 0, also when optional things are missing."""
    _python()
    _versions(_BASE)
    _device()
    _versions(_TOOLS)
    _places(base)
    _commit(base)
    _data()
    _profile(base)
    return 0

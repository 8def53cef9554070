"""Execute one notebook with papermill, and say afterwards what became of it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spatialkit.lab import settings

__all__ = ["Outcome", "execute", "failed_path", "part_path", "read_outcome"]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FOLDER = "spatialkit-"
_LONGEST_SOCKET_PATH = 90  # bytes; systems allow 104 or more


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook; `cell` counts code cells from 1, as `In [ ]` of the committed file."""

    name: str
    status: str  # passed, failed
    seconds: float = 0.0
    cell: int | None = None
    error: str = ""
    traceback: str = ""


def part_path(output: Path) -> Path:
    """Where a notebook grows while it runs; renamed to `output` once every cell has passed."""
    return output.with_name(output.name + ".part")


def failed_path(output: Path) -> Path:
    """Where a notebook that stopped is kept, so that it can be opened and looked at."""
    return output.with_suffix(".failed.ipynb")


@contextmanager
def _private_folder():
    """A folder for the kernel's sockets and connection file, named by this process; it also removes stale ones.

    In the temporary folder, because the path of a socket must be short.
    """
    for stale in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        owner = stale.name.removeprefix(_FOLDER).split("-")[0]
        with suppress(OSError):
            if owner.isdigit() and not _runs(int(owner)) and stale.stat().st_uid == os.getuid():
                shutil.rmtree(stale)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-") as folder:
        tempfile.tempdir = folder  # where jupyter_client puts the connection file
        try:
            yield Path(folder).resolve()
        finally:
            tempfile.tempdir = before


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _kernel_config(folder: Path):
    """Kernel messages through sockets in a private folder, where the platform has them.

    They cannot collide with the ports of another notebook, and nobody else on the machine can listen.
    """
    from traitlets.config import Config

    config, path = Config(), str(folder / "k")
    if hasattr(socket, "AF_UNIX") and len(os.fsencode(path)) < _LONGEST_SOCKET_PATH:
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = path
    return config


def _end_with_parent(folder: Path) -> None:
    """End this process within a second of the one that started it, however that ended; the kernel then ends itself."""
    parent = settings.parent()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _log_to_stdout() -> None:
    """Show cell starts, printed output and tracebacks; papermill's remark on the file ending is no news."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    warnings.filterwarnings("ignore", message=".*does not end in one of")
    for chatty in ("traitlets", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def execute(notebook: Path, output: Path, parameters: dict | None = None) -> int:
    """Run every cell of `notebook` in its own folder; write `output` only when all of them passed.

    Returns:
        Exit status: 0, or 1 after a failing cell or a killed kernel (the traceback is on stdout).
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    _log_to_stdout()
    output.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(output)
    try:
        with _private_folder() as folder:
            _end_with_parent(folder)
            papermill.execute_notebook(
                notebook.resolve(),
                part.resolve(),
                parameters=parameters or {},
                kernel_name="python3",
                language="python",
                cwd=notebook.resolve().parent,
                progress_bar=False,
                log_output=True,
                config=_kernel_config(folder),
            )
    except (PapermillExecutionError, DeadKernelError) as error:
        print(_ANSI.sub("", f"{type(error).__name__}: {error}"), flush=True)
        return 1
    os.replace(part, output)
    return 0


def _last_started(cells: list[dict]) -> tuple[int, dict] | None:
    """The code cell that failed, or that was running when the kernel or the process died."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    own = [cell for cell in code if "injected-parameters" not in cell["metadata"].get("tags", [])]
    statuses = [cell["metadata"].get("papermill", {}).get("status", "pending") for cell in own]
    started = [number for number, status in enumerate(statuses, start=1) if status != "pending"]
    return (started[-1], own[started[-1] - 1]) if started else None


def _error_output(cell: dict) -> dict:
    return next((out for out in cell.get("outputs", []) if out["output_type"] == "error"), {})


def read_outcome(output: Path, returncode: int, seconds: float) -> Outcome:
    """Judge a run by the exit status of its process and by what papermill wrote into the notebook.

    A notebook that did not pass is moved to `*.failed.ipynb`, so that nothing unfinished has a final name.
    """
    name, part = output.stem, part_path(output)
    if returncode == 0 and output.exists():
        return Outcome(name, "passed", seconds)
    how = f"process ended by signal {-returncode}" if returncode < 0 else f"process ended with {returncode}"
    if not part.exists():
        return Outcome(name, "failed", seconds, error=f"{how} before the first cell")
    os.replace(part, failed_path(output))
    try:
        found = _last_started(json.loads(failed_path(output).read_text("utf-8"))["cells"])
    except ValueError:  # killed in the middle of a write
        found = None
    if found is None:
        return Outcome(name, "failed", seconds, error=how)
    number, cell = found
    error = _error_output(cell)
    if not error:
        return Outcome(name, "failed", seconds, number, how if returncode < 0 else "the kernel died")
    message = _ANSI.sub("", f"{error['ename']}: {error['evalue']}").strip()
    trace = _ANSI.sub("", "\n".join(error["traceback"]))
    return Outcome(name, "failed", seconds, number, message.splitlines()[0], trace)

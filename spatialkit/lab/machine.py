"""The machine: what its processor is, which rounds in its own way, and the versions of what computes."""

import functools
import platform
import re
from importlib import metadata
from pathlib import Path

__all__ = ["matrix_units", "of_machine", "processor"]


def of_machine() -> dict:
    """What the process that runs knows: device, processor, threads and versions."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    threads = torch.get_num_threads()
    return {"device": device, **processor(), "threads": threads, "python": platform.python_version(), **versions}


@functools.cache
def processor() -> dict:
    """Model of the processor, and the instruction set that torch uses: others round sums differently."""
    import torch

    named = re.search(r"^model name\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    matrix = " with AMX" if matrix_units() else ""
    model = named[1].strip() if named else platform.processor() or platform.machine()
    return {"processor": model, "instructions": torch.backends.cpu.get_cpu_capability() + matrix}


def matrix_units() -> bool:
    """Whether the processor has units for products of bfloat16 matrices (AMX), which make training in it pay.

    Others, such as those of Arm, are not looked for.
    """
    return re.search(r"\bamx_bf16\b", _cpuinfo()) is not None


def _cpuinfo() -> str:
    """What Linux says about the processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text("utf-8", "replace") if info.exists() else ""

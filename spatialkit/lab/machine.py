"""The machine: what its processor is, which rounds in its own way, and the versions of what computes."""

import functools
import platform
import re
from importlib import metadata
from pathlib import Path

__all__ = ["bfloat16_units", "bfloat16_words", "matrix_units", "of_machine", "processor"]

_FLAGS = {"AMX": "amx_bf16", "AVX512_BF16": "avx512_bf16"}  # from the fastest; as Linux names them
_WORDS = {
    "AMX": "with matrix units for bfloat16 (AMX)",
    "AVX512_BF16": "with AVX512_BF16 alone, no matrix units for bfloat16: training in it may be slower than in float32",
    "none": "without matrix units for bfloat16: training in it is slower than in float32",
    "unknown": "with unknown units for bfloat16: benchmarks/precision.py measures whether training in it pays",
}


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
    return bfloat16_units() == "AMX"


def bfloat16_units() -> str:
    """What the processor multiplies bfloat16 with.

    Returns:
        "AMX": products of matrices; "AVX512_BF16": of vectors alone; "none"; "unknown" where Linux lists no flags of
        an x86 processor.
    """
    listed = re.search(r"^flags\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    if listed is None:
        return "unknown"
    flags = set(listed[1].split())
    return next((name for name, flag in _FLAGS.items() if flag in flags), "none")


def bfloat16_words() -> str:
    """The same as the end of a sentence on the processor, with what it means for training."""
    return _WORDS[bfloat16_units()]


def _cpuinfo() -> str:
    """What Linux says about the processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text("utf-8", "replace") if info.exists() else ""

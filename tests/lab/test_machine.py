"""The machine: what its processor multiplies bfloat16 with, by what Linux says about it."""

import pytest
import torch

from spatialkit import lab
from spatialkit.lab import machine

FLAGS = {  # of real processors, shortened
    "AMX": "fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8",
    "AVX512_BF16": "fpu avx2 avx512f avx512_bf16 avx512_vnni",
    "none": "fpu avx avx2 fma",
}
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"
PAYS = {"AMX": "matrix units for bfloat16 (AMX)", "AVX512_BF16": "may be slower", "none": "is slower"}


@pytest.fixture
def cpuinfo(monkeypatch):
    """Let Linux say something else about the processor."""

    def says(text):
        monkeypatch.setattr(machine, "_cpuinfo", lambda: text)
        machine.processor.cache_clear()

    yield says
    monkeypatch.undo()
    machine.processor.cache_clear()


@pytest.mark.parametrize("units", FLAGS)
def test_units_for_bfloat16_are_read_from_the_flags(cpuinfo, units):
    cpuinfo(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {FLAGS[units]}\n")
    assert machine.bfloat16_units() == units and PAYS[units] in lab.bfloat16_words()
    assert lab.matrix_units() == (units == "AMX")
    instructions = torch.backends.cpu.get_cpu_capability()
    assert lab.processor() == {
        "processor": "Some CPU", "instructions": instructions + (" with AMX" if units == "AMX" else "")
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", ARM])
def test_a_processor_without_such_a_list_is_unknown(cpuinfo, text):
    cpuinfo(text)
    assert machine.bfloat16_units() == "unknown" and not lab.matrix_units()
    assert "benchmarks/precision.py" in lab.bfloat16_words()

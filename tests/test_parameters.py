"""Every parameter that a notebook offers can be changed: the notebook adapts, or says the rule in a sentence."""

import ast
import builtins
import json
import linecache
import os
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import pytest

from spatialkit.commands.execute import part_path, read_outcome
from spatialkit.commands.plan import environment, number_of, select
from spatialkit.lab import places, profiles

NOTEBOOKS = {number_of(path): path for path in select(places.root())}

# Per notebook, another value for each of its parameters; all of them are changed in one run.
CHANGED = {
    "01": {"swaps": [0, 5, 12], "folds": 2},
    "02": {"n_train": 100, "swaps": [0, 15], "depths": [1, 2, 3]},
    "03": {"epochs": 4, "optimizers": ["momentum"]},
    "04": {"epochs": 2, "swaps": [0, 50]},
    "05": {"cutoffs": [2, 5], "sizes": [24, 48]},
    "06": {"max_shift": 1.0},
    "07": {"sigmas": [0.5, 1.0], "strengths": [1.0, 3.0]},
    "08": {"displacement": 0.5, "cutoff": 5, "use_imagenet": True},
    "09": {"shown_kernel": 3, "largest_kernel": 4},
    "10": {"factor": 1.5, "amount": 0.8},
    "11": {"digit": 7},
    "15": {"photograph": 200},
    "12": {"sigma": 1.5, "angle": 50.0},
    "13": {"sigma": 0.9, "degrees": 45.0},
    "16": {"epsilon": 0.01},
}

# Values that cannot be had, and the beginning of the sentence that says so.
REFUSED = [
    ("01", {"swaps": [10, 20]}, "swaps: begin with 0"),
    ("01", {"swaps": [0]}, "swaps: begin with 0"),
    ("01", {"folds": 1}, "folds: an interval needs at least 2"),
    ("02", {"swaps": [0, 30, 10]}, "swaps: begin with 0"),
    ("02", {"depths": [0, 1, 2]}, "depths: 0 or 1, and every number up to 3"),
    ("02", {"depths": [1, 3]}, "depths: 0 or 1, and every number up to 3"),
    ("02", {"depths": []}, "depths: 0 or 1, and every number up to 3"),
    ("03", {"epochs": 1}, "epochs: 3 or more"),
    ("03", {"optimizers": ["sgd"]}, 'optimizers: "adam", "momentum" or both'),
    ("03", {"optimizers": []}, 'optimizers: "adam", "momentum" or both'),
    ("04", {"swaps": [50]}, "swaps: at least two rising numbers"),
    ("05", {"sizes": [32]}, "sizes: a small and a large side"),
    ("05", {"sizes": [8, 16]}, "sizes: a small and a large side"),
    ("05", {"cutoffs": [1, 3]}, "cutoffs: rising numbers from 2 on"),
    ("05", {"cutoffs": [3, 40]}, "cutoffs: rising numbers from 2 on"),
    ("06", {"max_shift": 0.0}, "max_shift: above 0"),
    ("07", {"sigmas": [1.0]}, "sigmas: at least two rising values"),
    ("07", {"strengths": [3.0, 1.0]}, "strengths: at least two rising values"),
    ("08", {"displacement": 0.0}, "displacement: above 0"),
    ("08", {"cutoff": 40}, "cutoff: a whole number from 2 to 31"),
    ("09", {"shown_kernel": 1}, "shown_kernel: a whole number from 2 to 20"),
    ("09", {"largest_kernel": 2}, "shown_kernel: a whole number from 2 to 20; largest_kernel: 3 or more"),
    ("10", {"factor": 1.0}, "factor: above 1"),
    ("10", {"amount": 0.0}, "factor: above 1; amount: not 0"),
    ("11", {"digit": 1}, "digit: one of 2, 3, 4, 5, 7"),
    ("15", {"photograph": 1000}, "photograph: a number from 0 to"),
    ("12", {"sigma": 3.0}, "sigma: from 1 to 2 px"),
    ("12", {"angle": 90.0}, "angle: no multiple of 90 degrees"),
    ("13", {"sigma": 5.0}, "sigma: from 0.3 to 1.5 px"),
    ("13", {"degrees": 360.0}, "sigma: from 0.3 to 1.5 px, or 3 x 3 px show nothing of it; degrees: no full turns"),
    ("16", {"epsilon": 1e-5}, "epsilon: above 1e-5"),
    ("16", {"epsilon": 2.0}, "epsilon: above 1e-5"),
]


def code_cells(number):
    return [cell for cell in nbformat.read(NOTEBOOKS[number], as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_every_parameter_that_is_offered_is_changed(number):
    (cell,) = [cell for cell in code_cells(number) if "parameters" in cell.metadata.get("tags", [])]
    offered = {one.targets[0].id: ast.literal_eval(one.value) for one in ast.parse(cell.source).body}
    changed = CHANGED.get(number, {})
    assert set(offered) - {"profile"} == set(changed)
    assert not [name for name, value in changed.items() if offered[name] == value]


@pytest.mark.slow
@pytest.mark.parametrize("number", CHANGED)
def test_a_notebook_adapts_to_other_parameters(number, tmp_path):
    output, smoke = tmp_path / NOTEBOOKS[number].name, os.environ.get("SPATIALKIT_SMOKE")
    if smoke and os.path.isdir(f"{smoke}/results"):  # of `make test`: only what the change touches runs again
        shutil.copytree(f"{smoke}/results", tmp_path / "results")
    code = "import json, sys; from pathlib import Path; from spatialkit.commands.execute import execute; "
    code += "sys.exit(execute(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))"
    parameters = json.dumps({"profile": "smoke"} | CHANGED[number])
    env = environment(tmp_path, SPATIALKIT_JOBS="1", SPATIALKIT_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", code, NOTEBOOKS[number], output, parameters], env=env)
    outcome = read_outcome(output, done.returncode, 0)
    assert outcome.status == "passed", f"cell {outcome.cell}: {outcome.error}\n{outcome.traceback}"
    assert not part_path(output).exists()


@pytest.mark.parametrize(("number", "changed", "sentence"), REFUSED)
def test_a_value_that_cannot_be_had_is_refused_in_a_sentence(number, changed, sentence, tmp_path, monkeypatch):
    # The rule stands in one of the first cells, so that nothing has been computed yet.
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path))
    monkeypatch.setattr(profiles, "_begun", None)
    monkeypatch.setattr(builtins, "display", print, raising=False)
    plt.switch_backend("agg")
    namespace = {"__name__": f"notebook_{number}"}
    with pytest.raises(ValueError) as raised:
        for place, cell in enumerate(code_cells(number)[:5]):
            name = f"<{number} cell {place}>"
            linecache.cache[name] = (len(cell.source), None, cell.source.splitlines(keepends=True), name)
            exec(compile(cell.source, name, "exec"), namespace)
            if "parameters" in cell.metadata.get("tags", []):
                namespace |= {"profile": "smoke"} | changed
    plt.close("all")
    assert str(raised.value).startswith(sentence)

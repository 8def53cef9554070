"""Rules that live in notebooks do not pass on nothing: without a peak none is common; a dead layer is no other one."""

import ast
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import spatialkit as sk
from spatialkit.lab import places


def functions_of(notebook, **names):
    """The functions that a committed notebook defines, and ``layers_of``; the rest of it does not run."""
    (path,) = (places.root() / "notebooks").glob(f"{notebook}_*.ipynb")
    defined = {"sk": sk, "np": np, "pd": pd, "itertools": itertools, "stats": stats, **names}
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or source.startswith("%"):
            continue
        for node in ast.parse(source).body:
            names = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
            if (isinstance(node, ast.FunctionDef) and not node.decorator_list) or names == ["layers_of"]:
                exec(compile(ast.Module([node], []), path.name, "exec"), defined)
    return defined


@pytest.fixture(scope="module")
def training():
    return functions_of("03", first="mnist", NAMES={"adam": "Adam"})


def curves(*layers, seeds=3):
    """Trainings whose layers follow the given curves, up to a little noise of each run."""
    rng = np.random.default_rng(0)
    n = len(layers[0])
    runs = [
        pd.DataFrame(
            {f"layer {i}": np.add(layer, 1e-4 * rng.normal(size=n)) for i, layer in enumerate(layers, 1)}
        ).assign(seed=seed, epoch=np.arange(n), **{"validation accuracy": np.linspace(0.1, 0.9, n)})
        for seed in range(seeds)
    ]
    return pd.concat(runs, ignore_index=True)


def verdicts(training, table):
    rows = training["rows_of_peak"](table, "mnist", "Adam")
    return {row["part"].split(",")[0]: row["verdict"] for row in rows}


up, down, peaked = np.linspace(0.2, 0.6, 13), np.linspace(0.6, 0.2, 13), [0.2, 0.6, *np.linspace(0.55, 0.2, 11)]


def test_a_common_peak_is_found_where_it_is(training):
    found = verdicts(training, curves(peaked, peaked))
    assert found["(a) rise to the peak"] == found["(a) latest peak / epochs"] == "replicated"
    assert found["(b) spread of the peaks (epochs)"] == "replicated"


@pytest.mark.parametrize("layers", [(down, down), (up, up), (peaked, down), (peaked, up)])
def test_curves_without_a_peak_have_no_common_one(training, layers):
    found = verdicts(training, curves(*layers))
    assert found["(a) latest peak / epochs"] == found["(b) spread of the peaks (epochs)"] == "not replicated"


def test_accuracy_at_a_peak_that_is_none_says_nothing(training):
    assert verdicts(training, curves(peaked, down))["(e) accuracy gained by last peak / all"] == "not replicated"


def test_a_dead_last_layer_has_no_orderness_and_is_no_other_layer(training):
    table = pd.DataFrame(
        {"dataset": "mnist", "seed": [0, 1], "epoch": [0, 0], "layer 1": 0.5, "layer 2": 0.4, "layer 3": [0.3, np.nan]}
    ).assign(**{"map 1": [0.3, np.nan], "map 2": np.nan})
    ends = training["last_layer"](table)
    assert ends["last layer"].tolist()[0] == 0.3 and np.isnan(ends["last layer"].tolist()[1])
    assert ends["live maps"].tolist() == [1, 0]


@pytest.mark.parametrize(("drift", "verdict"), [(0.0, "not replicated"), (-0.02, "replicated")])
def test_steps_are_smooth_only_where_something_moves(training, drift, verdict):
    rng = np.random.default_rng(0)
    of_maps = [
        {"optimizer": "adam", "seed": seed, "epoch": epoch, "orderness": 0.5 + drift * epoch + 0.001 * rng.normal()}
        for seed, epoch in itertools.product(range(4), range(1, 11))
        for _ in range(20)
    ]
    rows = training["rows_of_movement"](pd.DataFrame(of_maps), "adam")
    assert rows[2]["verdict"] == verdict


def test_orderness_above_the_block_is_judged_where_windows_fit():
    # Independent constant blocks of 6: no order at the scale of the block, some at 7, where windows straddle.
    scales = range(1, 11)
    rows = [
        {"dataset": "mnist", "overwrite": False, "swaps": swaps, "seed": seed, "scale (px)": a, "4": so}
        for swaps, seed in itertools.product((0, 30), range(3))
        for a in scales
        for so in [0.5 if a < 6 or swaps == 0 else 0.3 * (a != 6) + 0.001 * seed]
    ]
    parts = functions_of("01", pairwise=itertools.pairwise, swaps=[0, 30])["parts_of_fig1"]
    left, bound = parts(pd.DataFrame(rows), "mnist", 6, "4")["b: so at most swaps / at none, multiples of the block"]
    assert sk.claims.judge(left, **bound) == "replicated"

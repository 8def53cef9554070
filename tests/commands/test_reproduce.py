"""Reproductions: computed apart, held against the committed evidence, and honest about what deviates."""

import csv
import json
import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from spatialkit import __main__
from spatialkit.commands.reproduce import Comparison, Reproduction, compare, reproduce
from spatialkit.lab.store import Store

COLUMNS = ["claim", "what", "ours", "low", "high", "verdict", "dataset"]
ROW = ["so.eq4", "orderness", "1.002", "0.9", "1.1", "replicated", "mnist (original files)"]

# Computes a number with a task, as a notebook would, and puts it on a scorecard of the bundle's columns.
SWEEP = """
from spatialkit import lab
from spatialkit.lab import places

lab.begin(profile)

@lab.task(version=1)
def number(seed):
    return {"value": 1 + seed / 1000}
"""
RECORD = """
value = lab.sweep(number, seed=[2])["value"].item()
folder = places.out() / "figures"
folder.mkdir(parents=True, exist_ok=True)
row = f"so.eq4,orderness,{value:.4g},0.9,1.1,replicated,synthetic"
(folder / "scorecard.csv").write_text("claim,what,ours,low,high,verdict,dataset\\n" + row + "\\n")
"""


@pytest.fixture
def base(tmp_path):
    """A bundle of one notebook with one claim and its committed record."""
    (tmp_path / "notebooks").mkdir()
    parameters = new_code_cell("profile = 'laptop'", metadata={"tags": ["parameters"]})
    cells = [parameters, new_code_cell(SWEEP.strip()), new_code_cell(RECORD.strip())]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "01_a.ipynb")
    made = {"profile": "laptop", "seconds": 60.0, "device": "CPU", "python": "3.11.2", "torch": "2.9.0"}
    made |= {"date": "2020-01-01T00:00:00+00:00", "code": "x", "commit": "y", "data": {}, "processor": "an old one"}
    record = {"task": "number", "version": 1, "config": {"seed": 2}, "rows": [{"value": 7}], "made": made}
    Store(tmp_path / "results", "number").add([record])
    return tmp_path


def commit(base, *rows):
    path = base / "figures" / "scorecard.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    return path


def row(**changes):
    return list((dict(zip(COLUMNS, ROW, strict=True)) | changes).values())


def comparison(here, **committed):
    sides = [dict(zip(COLUMNS, row(**changes), strict=True)) for changes in (committed, here)]
    return Comparison("so.eq4", "orderness", *sides)


@pytest.mark.parametrize(
    ("here", "kind", "verdicts"),
    [
        ({}, "equal", "same"),
        ({"ours": "1.003"}, "inside", "same"),
        ({"low": "0.8"}, "inside", "same"),
        ({"ours": "1.2"}, "outside", "same"),
        ({"ours": "1.2", "verdict": "partly"}, "outside", "different"),
        ({"verdict": "undecided"}, "equal", "different"),
        ({"verdict": "not replicated"}, "equal", "opposite"),
        ({"ours": ""}, "outside", "same"),  # undefined here
        ({"ours": "nan"}, "outside", "same"),
    ],
)
def test_a_quantity_lies_where_its_committed_interval_says(here, kind, verdicts):
    one = comparison(here)
    assert (one.kind, one.verdicts) == (kind, verdicts)


@pytest.mark.parametrize(("ours", "kind"), [("5", "inside"), ("2", "outside")])
def test_an_interval_may_be_open_at_one_side(ours, kind):
    assert comparison({"ours": ours}, ours="4", low="3", high="").kind == kind


@pytest.mark.parametrize(("ours", "kind"), [("5", "equal"), ("5.004", "inside"), ("5.01", "outside")])
def test_a_quantity_without_an_interval_counts_to_three_digits(ours, kind):
    exact = {"low": "", "high": ""}
    assert comparison({"ours": ours} | exact, ours="5", **exact).kind == kind


def test_quantities_are_matched_by_words_and_data_set_whatever_its_copy(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    old = commit(tmp_path / "a", row(), row(ours="2"), row(what="gone"), row(claim="ds.fig1"), row(verdict="not run"))
    new = commit(tmp_path / "b", row(dataset="mnist (another copy)"), row(ours="2"), row(what="come"))
    found = compare(old, new, {"01"})
    assert [(one.what, one.kind) for one in found] == [
        ("orderness", "equal"),
        ("orderness", "equal"),
        ("gone", "missing"),
        ("come", "missing"),
    ]


def test_a_reproduction_computes_again_compares_and_goes_on(base, capsys, monkeypatch):
    card, before = commit(base, row(dataset="synthetic")), (base / "results/number.jsonl").read_bytes()
    evidence = card.read_bytes()
    plan = Reproduction("laptop", only=("01",), jobs=1, base=base)
    assert reproduce(plan) == 0
    said, page = capsys.readouterr().out, plan.page.read_text("utf-8")
    for text in (said, page):
        assert "Reproduced: 1 of 1 quantity inside the committed interval, 1 of them equal" in text
        assert "CPU an old one, Python 3.11.2, torch 2.9.0 (1 run)" in text and "Here: CPU" in text
    assert "everything computed again" in said and "page to keep: " in said
    own = base / "build/reproduce/laptop/results/number.jsonl"
    first = json.loads(own.read_text("utf-8"))
    assert first["rows"] == [{"value": 1.002}]  # computed, not read from the committed record, which says 7
    assert card.read_bytes() == evidence and (base / "results/number.jsonl").read_bytes() == before

    commit(base, row(dataset="synthetic", ours="2", low="1.9", high="2.1", verdict="not replicated"))
    assert reproduce(plan) == 1
    said = capsys.readouterr().out
    assert "going on with the run begun at" in said
    assert "Not reproduced: 0 of 1 quantity inside" in said and "1 of them opposite" in said
    assert json.loads(own.read_text("utf-8")) == first  # read, not computed a third time


def test_nothing_to_compare_with_is_said_before_any_work(base, capsys):
    assert __main__.main(["reproduce", "--only", "01", "--base", str(base)]) == 2
    assert "there is no committed evidence to hold a result against" in capsys.readouterr().err
    assert not os.path.exists(base / "build")


def test_a_notebook_that_fails_is_no_reproduction(base, capsys):
    commit(base, row(dataset="synthetic"))
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), base / "notebooks" / "01_a.ipynb")
    assert reproduce(Reproduction("laptop", only=("01",), jobs=1, base=base)) == 1
    assert "missing" in capsys.readouterr().out

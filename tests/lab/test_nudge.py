"""Whether a verdict could change: numbers move by at most so much, and whatever follows is told."""

import random
import subprocess
from pathlib import Path

import nbformat
import pytest

from spatialkit.lab import nudge
from spatialkit.lab.store import Store

MADE = {"profile": "laptop", "code": "0" * 12, "commit": "x", "date": "2026", "data": {}, "device": "CPU"}
ROWS = [{"x": 2.0, "n": 3, "name": "a", "flag": True, "none": None}, {"x": -1e-3, "n": 0, "name": "", "flag": False}]
TASK = "from spatialkit import lab\n\n@lab.task\ndef t(n):\n    return {'x': n}\n"


def fill(folder):
    Store(folder / "results", "t").add([{"task": "t", "version": 1, "config": {"n": 1}, "rows": ROWS, "made": MADE}])


def test_floats_move_by_at_most_so_much_and_nothing_else_moves(tmp_path):
    fill(tmp_path)
    nudge._nudge(Store(tmp_path / "results", "t"), 1e-5, random.Random(0))
    (record,) = Store(tmp_path / "results", "t").read().values()
    assert record["config"] == {"n": 1} and record["made"] == MADE
    for row, before in zip(record["rows"], ROWS, strict=True):
        assert {**row, "x": before["x"]} == before
        assert 0 < abs(row["x"] / before["x"] - 1) <= 1e-5


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle of one notebook, which is not run: its scorecard afterwards and its exit status are given."""

    def judge(before, after, status=0):
        for name in ("spatialkit", "notebooks", "figures"):
            (tmp_path / name).mkdir()
        fill(tmp_path)
        (tmp_path / "pyproject.toml").touch()
        cell = nbformat.v4.new_code_cell(TASK)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "01_t.ipynb")
        write(tmp_path, before)
        kept = Store(tmp_path / "results", "t").path.read_bytes()
        seen = []

        def run(command, env, cwd, **_):
            seen.append(Store(Path(cwd) / "results", "t").path.read_bytes())
            write(Path(env["SPATIALKIT_OUT"]), after)
            return subprocess.CompletedProcess(command, status)

        monkeypatch.setattr(nudge.subprocess, "run", run)
        lines = nudge.verdicts_that_change(tmp_path, "t", 1e-6)
        assert Store(tmp_path / "results", "t").path.read_bytes() == kept  # only a copy was moved
        assert kept not in seen and len(set(seen)) == len(seen)
        return lines

    return judge


def write(folder, verdicts):
    lines = [f"{claim},x,MNIST,{verdict}" for claim, verdict in verdicts.items()]
    (folder / "figures" / "scorecard.csv").write_text("\n".join(["claim,what,dataset,verdict", *lines, ""]))


def test_verdicts_that_stay_are_not_told(bundle):
    assert bundle({"a": "replicated", "b": "partly"}, {"a": "replicated", "b": "partly"}) == []


def test_a_verdict_that_changes_is_told(bundle):
    lines = bundle({"a": "replicated", "b": "partly", "c": "partly"}, {"a": "replicated", "b": "not replicated"})
    assert lines == ["b x MNIST: partly -> not replicated", "c x MNIST: partly -> None"]


def test_a_notebook_that_fails_is_told(bundle):
    lines = bundle({"a": "replicated"}, {"a": "replicated"}, status=1)
    assert lines == ["01_t.ipynb fails with numbers moved by 1.0e-06"]

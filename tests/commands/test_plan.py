"""What a run consists of: its start, and that it is alone."""

import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from spatialkit import lab
from spatialkit.commands.plan import Plan, environment_of
from spatialkit.commands.runner import alone
from spatialkit.lab.audit import current_code


@pytest.fixture
def base(tmp_path):
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def test_a_fresh_run_that_was_killed_goes_on_from_its_start(base):
    plan = Plan("laptop", fresh=True, base=base, jobs=1)
    plan.marker.parent.mkdir(parents=True)
    plan.marker.write_text("2026-01-02T03:04:05+00:00")
    assert environment_of(plan)["SPATIALKIT_FRESH"] == "2026-01-02T03:04:05+00:00"
    assert plan.marker.read_text() == "2026-01-02T03:04:05+00:00"
    assert "SPATIALKIT_FRESH" not in environment_of(Plan("laptop", base=base, jobs=1))
    other = environment_of(Plan("paper", fresh=True, base=base, jobs=1))["SPATIALKIT_FRESH"]
    assert other > "2026-01-02T03:04:05+00:00"  # another run, another start


def test_a_second_run_of_one_kind_is_refused(base):
    with alone(base, "laptop"):
        with pytest.raises(ValueError, match="another run of laptop is under way here"), alone(base, "laptop"):
            pass
        with alone(base, "smoke"):
            pass
    with alone(base, "laptop"):
        assert os.listdir(base / "build")


TASKS = """import spatialkit as sk
from spatialkit import lab
from spatialkit.lab import task

@sk.lab.task(version=3, added={"precision": "float32"})
def one(n, precision="float32"):
    return {"x": n}

@lab.task
def two(
    n, m=1
):
    return {"x": n}

@task(
    version=2,
)
def three(n):
    return {"x": n}

def none(n):
    return {"x": n}
"""


def test_the_text_of_a_notebook_declares_the_tasks_that_it_defines(base):
    cells = [new_code_cell("%matplotlib inline\n@lab.task\ndef four(n):\n    pass"), new_code_cell(TASKS)]
    nbformat.write(new_notebook(cells=cells), base / "notebooks" / "01_a.ipynb")
    declared = lab.declared(base / "notebooks" / "01_a.ipynb")
    assert declared == {"one": 3, "two": 1, "three": 2}
    assert {name: version for name, (version, _) in current_code(base / "notebooks" / "01_a.ipynb").items()} == declared

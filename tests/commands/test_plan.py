"""What a run consists of: its start, and that it is alone."""

import os

import pytest

from spatialkit.commands.plan import Plan, environment_of
from spatialkit.commands.runner import alone


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

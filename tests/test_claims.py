"""Estimates, verdicts and the scorecard."""

import csv

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spatialkit import claims, places, scorecard
from spatialkit.claims import Estimate

MADE = {
    "profile": ["laptop"],
    "data": ["mnist (original files)"],
    "device": ["CPU"],
    "other code": 0,
    "equal code": [],
    "runs": 3,
    "seeds": 3,
    "task": ["t"],
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "evidence", lambda: tmp_path)
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path))
    return tmp_path


@pytest.fixture
def table():
    table = pd.DataFrame({"x": [1.0]})
    table.attrs["made"] = MADE
    return table


def test_mean_has_students_interval():
    values = [1.0, 2.0, 4.0, 3.5]
    ours = claims.mean_of(values)
    oracle = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert ours.value == pytest.approx(np.mean(values))
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high))


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(0).normal(size=40)
    ours = claims.bootstrap(np.mean, values, resamples=20_000)
    oracle = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=0.01)  # Monte Carlo error


def test_bootstrap_resamples_whole_trials():
    # Within a trial x and y are equal, so that every resampled r is 1.
    trials = np.random.default_rng(0).normal(size=(6, 4, 1)).repeat(2, axis=2)
    ours = claims.bootstrap(lambda t: np.corrcoef(t.mean(0).T)[0, 1], trials)
    assert (ours.low, ours.value, ours.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "replicated"), (-0.1, 0.2, "partly"), (-0.2, -0.1, "not replicated")]
)
def test_a_verdict_follows_the_interval(low, high, verdict):
    assert claims.judge(Estimate((low + high) / 2, low, high), above=0) == verdict
    assert claims.judge(Estimate(-(low + high) / 2, -high, -low), below=0) == verdict


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 5), st.floats(-5, 5))
def test_above_and_below_never_both_hold(value, down, up, bound):
    estimate = Estimate(value, value - down, value + up)
    verdicts = {claims.judge(estimate, above=bound), claims.judge(estimate, below=bound)}
    assert "replicated" not in verdicts or verdicts == {"replicated", "not replicated"} or value == bound


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.1, 0.1, "replicated"), (0.1, 0.3, "partly"), (-3, 3, "partly"), (0.3, 0.4, "not replicated")],
)
def test_a_band_is_two_bounds(low, high, verdict):
    assert claims.judge(Estimate((low + high) / 2, low, high), within=(-0.2, 0.2)) == verdict


def test_an_exact_number_is_judged_by_itself():
    assert claims.judge(Estimate(2.0), above=1) == "replicated"
    assert claims.judge(Estimate(1.0), above=1) == "not replicated"


def test_parts_add_up():
    assert claims.all_of(["replicated"] * 3) == "replicated"
    assert claims.all_of(["not replicated"] * 2) == "not replicated"
    assert claims.all_of(["replicated", "not replicated"]) == "partly"


def test_the_scorecard_has_every_claim_and_replaces_only_one(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0, 0.5, 1.5), "verdict": "replicated"}
    claims.record("so.fig1", [row, row | {"what": "y", "paper": 2.0}], table)
    claims.record("so.eq4", [row], table)
    claims.record("so.fig1", [row | {"what": "z", "verdict": "partly"}], table)
    rows = list(csv.DictReader((own_folders / "figures/scorecard.csv").open()))
    assert list(dict.fromkeys(r["claim"] for r in rows)) == list(claims.catalogue())
    mine = {r["claim"]: r for r in rows if r["verdict"] != "not run"}
    assert {c: r["what"] for c, r in mine.items()} == {"so.eq4": "x", "so.fig1": "z"}
    assert mine["so.eq4"]["command"] == "make figures ONLY=01 PROFILE=laptop"
    assert (mine["so.eq4"]["low"], mine["so.eq4"]["dataset"], mine["so.eq4"]["seeds"]) == (
        "0.5",
        "mnist (original files)",
        "3",
    )


def test_rows_that_differ_in_data_name_the_copy_that_was_used(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}
    claims.record("so.eq4", [row | {"dataset": name} for name in ("MNIST", "CIFAR-10", "synthetic")], table)
    rows = csv.DictReader((own_folders / "figures/scorecard.csv").open())
    named = [r["dataset"] for r in rows if r["claim"] == "so.eq4"]
    assert named == ["mnist (original files)", "CIFAR-10", "synthetic"]  # the table has no CIFAR-10


def test_writing_the_same_twice_gives_the_same_bytes(table, own_folders):
    row = {"what": "x", "ours": Estimate(1 / 3), "verdict": "replicated"}
    written = []
    for _ in range(2):
        claims.record("so.fig1", [row], table)
        written.append((own_folders / "figures/scorecard.csv").read_bytes())
    assert written[0] == written[1]


def test_the_picture_and_the_readme_show_it(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0, 0.5, 1.5), "verdict": "replicated", "paper": 2.0}
    claims.record("so.fig1", [row, row | {"what": "y", "verdict": "not replicated"}], table)
    (own_folders / "README.md").write_text("top\n<!-- scorecard: begin -->\nold\n<!-- scorecard: end -->\nbottom\n")
    scorecard.write_readme_table()
    scorecard.draw()
    text = (own_folders / "README.md").read_text()
    assert text.startswith("top\n") and text.endswith("\nbottom\n") and "old" not in text
    assert "| 01 | x (MNIST) | 2 | 1 (0.5 to 1.5) | 1 replicated, 1 not replicated | partly |" in text
    assert f"{len(claims.catalogue())} claims: 0 replicated, 1 partly" in text
    assert (own_folders / "figures/scorecard.png").stat().st_size > 1000


def test_a_claim_of_mixed_rows_is_partly_replicated(table):
    row = {"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}
    claims.record("so.fig1", [row, row | {"verdict": "not replicated"}], table)
    claims.record("so.eq4", [row], table)
    assert scorecard.verdicts()["so.fig1"] == "partly"
    assert scorecard.verdicts()["so.eq4"] == "replicated"
    assert scorecard.verdicts()["rs.fig3"] == "not run"


def test_bad_input_says_what_is_wrong(table, own_folders):
    with pytest.raises(ValueError, match=r"not in claims\.yaml"):
        claims.record("so.fig99", [], table)
    with pytest.raises(ValueError, match="verdict must be one of"):
        claims.record("so.fig1", [{"what": "x", "ours": Estimate(1.0), "verdict": "yes"}], table)
    with pytest.raises(ValueError, match="at least two finite"):
        claims.mean_of([1.0])
    with pytest.raises(ValueError, match="at least two finite"):
        claims.mean_of([1.0, float("nan")])
    with pytest.raises(ValueError, match="at least three"):
        claims.bootstrap(np.mean, np.zeros(2))
    with pytest.raises(ValueError, match="exactly one"):
        claims.judge(Estimate(1.0), above=0, below=1)
    with pytest.raises(ValueError, match="nan"):
        claims.judge(Estimate(float("nan")), above=0)
    (own_folders / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match="needs the lines"):
        scorecard.write_readme_table()


def test_the_scorecard_tells_runs_by_other_code_and_leaves_undefined_cells_empty(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}
    claims.record("so.eq4", [row], table)
    table.attrs["made"] = MADE | {"other code": 2}
    claims.record("so.fig1", [row], table)
    rows = {r["claim"]: r for r in csv.DictReader((own_folders / "figures/scorecard.csv").open(encoding="utf-8"))}
    assert rows["so.eq4"]["code"] == "present"
    assert rows["so.fig1"]["code"] == "2 of 3 runs by other code"
    assert [rows["so.eq4"][name] for name in ("ours", "low", "high", "paper")] == ["1", "", "", ""]


def test_no_old_row_of_a_claim_stays_and_no_row_of_another_goes(table, own_folders):
    row = {"ours": Estimate(1.0), "verdict": "replicated"}
    for claim, words in (("so.eq4", "ab"), ("so.fig1", "cd"), ("so.eq4", "e")):
        claims.record(claim, [row | {"what": what} for what in words], table)
    rows = csv.DictReader((own_folders / "figures/scorecard.csv").open(encoding="utf-8"))
    assert sorted(r["what"] for r in rows if r["verdict"] != "not run") == ["c", "d", "e"]


def test_the_scorecard_is_written_under_its_lock(table, own_folders, monkeypatch):
    write, held = claims.atomic_write, []

    def watched(path, content):
        lock = FileLock(own_folders / "figures" / "scorecard.lock")  # as another process would
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
            lock.release()
        held.append(path.name)
        write(path, content)

    monkeypatch.setattr(claims, "atomic_write", watched)
    claims.record("so.eq4", [{"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}], table)
    assert "scorecard.csv" in held

"""Estimates, verdicts and the scorecard."""

import csv

import pandas as pd
import pytest
from filelock import FileLock, Timeout
from hypothesis import given
from hypothesis import strategies as st

from spatialkit import claims, lab
from spatialkit.claims import Estimate, overview, picture
from spatialkit.lab import places

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
def table(monkeypatch):
    """Runs whose provenance is ``MADE``, whatever they are."""
    monkeypatch.setattr(lab, "summary", lambda runs: MADE | runs)
    return {}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "replicated"), (-0.1, 0.2, "undecided"), (-0.2, -0.1, "not replicated")]
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
    [(-0.1, 0.1, "replicated"), (0.1, 0.3, "undecided"), (-3, 3, "undecided"), (0.3, 0.4, "not replicated")],
)
def test_a_band_is_two_bounds(low, high, verdict):
    assert claims.judge(Estimate((low + high) / 2, low, high), within=(-0.2, 0.2)) == verdict


def test_an_exact_number_is_judged_by_itself():
    assert claims.judge(Estimate(2.0), above=1) == "replicated"
    assert claims.judge(Estimate(1.0), above=1) == "not replicated"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.05, 0.2, "replicated"),  # reaches the smallest effect
        (0.11, 0.2, "replicated"),
        (0.01, 0.09, "not replicated"),  # above the bound, and too small to count
        (-0.05, 0.09, "not replicated"),  # a true null, known well enough
        (-0.05, 0.11, "undecided"),
        (-0.2, -0.1, "not replicated"),
    ],
)
def test_an_interval_short_of_the_smallest_effect_is_not_replicated(low, high, verdict):
    assert claims.judge(Estimate((low + high) / 2, low, high), above=0, smallest=0.1) == verdict
    assert claims.judge(Estimate(-(low + high) / 2, -high, -low), below=0, smallest=-0.1) == verdict
    shifted = Estimate(1 + (low + high) / 2, 1 + low, 1 + high)
    assert claims.judge(shifted, above=1, smallest=1.1) == verdict


R, U, N, NONE = "replicated", "undecided", "not replicated", "not run"


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([R, R], R),
        ([N, N], N),
        ([N, U], N),
        ([N, U, R], "mixed"),
        ([R, N], "mixed"),
        ([R, U], U),
        ([U], U),
        ([R, NONE], R),
        ([NONE, NONE], NONE),
        ([], NONE),
    ],
)
def test_parts_add_up(parts, verdict):
    assert claims.all_of(parts) == verdict
    assert claims.all_of(parts[::-1]) == verdict


def test_the_scorecard_has_every_claim_and_replaces_only_one(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0, 0.5, 1.5), "verdict": "replicated"}
    claims.record("so.fig1", [row, row | {"what": "y", "paper": 2.0}], table)
    claims.record("so.eq4", [row], table)
    claims.record("so.fig1", [row | {"what": "z", "verdict": "undecided"}], table)
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
    rows = csv.DictReader((own_folders / "figures/scorecard.csv").open(encoding="utf-8"))
    named = [r["dataset"] for r in rows if r["claim"] == "so.eq4"]
    assert named == ["mnist (original files)", "CIFAR-10", "synthetic"]  # the table has no CIFAR-10


def test_writing_the_same_twice_gives_the_same_bytes(table, own_folders):
    row = {"what": "x", "ours": Estimate(1 / 3), "verdict": "replicated"}
    written = []
    for _ in range(2):
        claims.record("so.fig1", [row], table)
        written.append((own_folders / "figures/scorecard.csv").read_bytes())
    assert written[0] == written[1]


def test_the_picture_the_page_and_the_readme_show_it(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0, 0.5, 1.5), "verdict": "replicated", "paper": 2.0}
    claims.record("so.fig1", [row, row | {"what": "y", "verdict": "not replicated"}], table, found="It is 1 | not 2.")
    (own_folders / "README.md").write_text("top\n<!-- scorecard: begin -->\nold\n<!-- scorecard: end -->\nbottom\n")
    overview.write_pages()
    picture.draw()
    text = (own_folders / "README.md").read_text("utf-8")
    assert text.startswith("top\n") and text.endswith("\nbottom\n") and "old" not in text
    says = " ".join(claims.catalogue()["so.fig1"]["says"].split())
    parts = "🟦🟧 1 replicated, 1 not replicated"
    totals = f"{len(claims.catalogue())} claims: 0 replicated, 1 mixed"
    assert totals in text and "| so.fig1" not in text
    page = (own_folders / "docs" / "scorecard.md").read_text("utf-8")
    line = f"| [so.fig1](../figures/so.fig1.png) | {says} | It is 1 \\| not 2. | **mixed** | {parts} | "
    assert totals in page and line + "[01](../notebooks/01_multiscale_orderness.ipynb) |" in page
    assert "2 parts measured: 1 replicated, 0 undecided, 1 not replicated" in text
    assert (own_folders / "figures/scorecard.png").stat().st_size > 1000


def test_bars_of_the_picture_are_the_parts(table):
    row = {"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}
    claims.record("so.eq4", [row, row, row, row | {"verdict": "not replicated"}], table)
    patches = claims.figure().axes[0].patches[:4]  # the first claim: one bar per verdict, in their order
    assert [round(patch.get_width() / 0.92, 6) for patch in patches] == [0.75, 0, 0.25, 0]


@given(st.lists(st.sampled_from([R, U, N, NONE]), min_size=1, max_size=60))
def test_a_bar_has_at_most_ten_squares_and_leaves_no_verdict_out(parts):
    squares = overview.bar(pd.Series(parts))
    assert len(squares) == min(len(parts), 10)
    assert len(set(squares)) == len(set(parts))


def test_what_was_found_follows_its_claim(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}
    claims.record("so.fig1", [row], table, found="later")
    claims.record("so.eq4", [row], table, found="é")
    claims.record("so.fig1", [row], table, found="latest")
    assert list(claims.findings().items()) == [("so.eq4", "é"), ("so.fig1", "latest")]
    claims.record("so.fig1", [row], table)
    assert list(claims.findings()) == ["so.eq4"]


def test_rows_of_a_necessary_part_decide_together(table):
    (text,) = claims.catalogue()["rs.fig3"]["necessary"]
    row = {"what": "VGG11: (c) drop", "ours": Estimate(1.0), "verdict": "replicated"}
    fails = row | {"what": f"VGG11: {text} of log R", "verdict": "not replicated"}
    claims.record("rs.fig3", [row, fails, fails | {"verdict": "undecided"}], table)
    claims.record("rs.fig1c", [row, fails], table)  # the same rows where nothing is necessary
    assert claims.verdicts()["rs.fig3"] == "not replicated"
    assert claims.verdicts()["rs.fig1c"] == "mixed"
    claims.record("rs.fig3", [row, fails, fails | {"verdict": "replicated"}], table)
    assert claims.verdicts()["rs.fig3"] == "mixed"
    assert claims.verdicts()["rs.fig5"] == "not run"


def test_a_tally_says_what_occurred():
    rows = [{"verdict": verdict} for verdict in (R, U, R, N)]
    assert claims.tally(rows) == "2 of 4 replicated, 1 undecided, 1 not replicated"
    assert claims.tally(rows[::2]) == "all 2 replicated"
    assert claims.tally(rows[:1]) == "replicated"


def test_a_span_says_smallest_and_largest():
    rows = [{"what": f"({part}) x", "ours": Estimate(v)} for part, v in (("a", 0.214), ("a", 0.48), ("b", 9.0))]
    assert claims.span(rows, "(a)") == "0.21 to 0.48"
    assert (claims.span(rows, "(b)"), claims.span(rows, "(c)")) == ("9.00", "not measured")


def test_bad_input_says_what_is_wrong(table, own_folders):
    with pytest.raises(ValueError, match=r"not in claims\.yaml"):
        claims.record("so.fig99", [], table)
    with pytest.raises(ValueError, match="verdict must be one of"):
        claims.record("so.fig1", [{"what": "x", "ours": Estimate(1.0), "verdict": "yes"}], table)
    with pytest.raises(ValueError, match="verdict must be one of"):
        claims.record("so.fig1", [{"what": "x", "ours": Estimate(1.0), "verdict": "mixed"}], table)
    with pytest.raises(ValueError, match=r"not in claims\.yaml"):
        claims.smallest("so.fig99")
    for wrong in ({"above": 0, "smallest": -0.1}, {"below": 1, "smallest": 1.1}, {"within": (0, 1), "smallest": 0.5}):
        with pytest.raises(ValueError, match="beyond the bound"):
            claims.judge(Estimate(1.0), **wrong)
    with pytest.raises(ValueError, match="exactly one"):
        claims.judge(Estimate(1.0), above=0, below=1)
    with pytest.raises(ValueError, match="nan"):
        claims.judge(Estimate(float("nan")), above=0)
    (own_folders / "README.md").write_text("nothing", "utf-8")
    with pytest.raises(ValueError, match="needs the lines"):
        overview.write_pages()


def test_the_scorecard_tells_runs_by_other_code_and_leaves_undefined_cells_empty(table, own_folders):
    row = {"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}
    claims.record("so.eq4", [row], table)
    claims.record("so.fig1", [row], table | {"other code": 2})
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


def test_a_part_that_was_not_run_keeps_its_row(table, own_folders):
    row = {"what": "counts", "ours": Estimate(1.0), "verdict": "replicated"}
    missing = {"what": "accuracies", "ours": Estimate(float("nan")), "verdict": "not run"}
    claims.record("ha.tab8", [row, missing], table)
    claims.record("so.eq4", [row], table)
    rows = csv.DictReader((own_folders / "figures/scorecard.csv").open(encoding="utf-8"))
    assert [r["what"] for r in rows if r["claim"] == "ha.tab8"] == ["counts", "accuracies"]


def test_the_scorecard_is_written_under_its_lock(table, own_folders, monkeypatch):
    write, held = lab.atomic_write, []

    def watched(path, content):
        lock = FileLock(own_folders / "figures" / "scorecard.lock")  # as another process would
        with pytest.raises(Timeout):
            lock.acquire(timeout=0)
            lock.release()
        held.append(path.name)
        write(path, content)

    monkeypatch.setattr(lab, "atomic_write", watched)
    claims.record("so.eq4", [{"what": "x", "ours": Estimate(1.0), "verdict": "replicated"}], table)
    assert "scorecard.csv" in held

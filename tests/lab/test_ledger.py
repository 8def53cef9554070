"""The ledger joins codes by runs that a rule picks; audit refuses whatever does not hold."""

import dataclasses
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialkit import lab
from spatialkit.lab import audit, ledger, places
from spatialkit.lab.choice import choose
from spatialkit.lab.ledger import Bridge
from spatialkit.lab.store import Store, key_of
from spatialkit.lab.verify import compare

A, B, C, D = ("a" * 12, "b" * 12, "c" * 12, "d" * 12)


def bridge(old, new, task="t", **other):
    plain = {"equal": 2, "of": 2, "keys": ("k",), "shrunk": {}, "within": 0.0, "because": "", "modules": {},
             "machine": "m", "commit": "c"}  # fmt: skip
    return Bridge(task=task, old=old, new=new, **(plain | other))


# Chains.


def test_codes_are_joined_by_chains_and_never_backwards():
    steps = [bridge(A, B), bridge(B, C), bridge(C, D, task="other")]
    assert ledger.path("t", A, A, steps) == []
    assert ledger.path("t", A, C, steps) == steps[:2]
    assert ledger.path("t", C, A, steps) is None
    assert ledger.path("t", A, D, steps) is None
    assert ledger.path("other", A, C, steps) is None
    assert ledger.path("t", A, C, [*steps, bridge(A, C)]) == [bridge(A, C)]  # the shortest


@pytest.mark.parametrize(("equal", "of"), [(1, 2), (0, 0), (0, 2)])
def test_a_bridge_on_which_not_all_runs_were_equal_is_none(equal, of):
    assert ledger.path("t", A, B, [bridge(A, B, equal=equal, of=of)]) is None


def test_kept_networks_count_over_exact_bridges_alone(own_session):
    root = places.evidence()
    steps = [bridge(A, B, modules={"m": ["1", "2"]}), bridge(B, C, modules={"m": ["2", "3"], "n": ["7", "8"]})]
    ledger.write(steps, root)
    assert ledger.same_module("m", "1", "3") and ledger.same_module("m", "5", "5")
    assert not ledger.same_module("m", "3", "1") and not ledger.same_module("m", "7", "8")
    ledger.write([dataclasses.replace(step, within=1e-7) for step in steps], root)
    assert not ledger.same_module("m", "1", "2")


def test_the_ledger_comes_back_as_written_and_a_damaged_line_is_named(own_session):
    steps = [bridge(A, B, shrunk={"k": {"epochs": 1}}), bridge(B, C, within=1e-6, because="another order of sums")]
    ledger.write(steps)
    assert sorted(ledger.read(), key=lambda b: b.old) == steps
    ledger.file().write_text(ledger.file().read_text() + '{"task": "t"}\n')
    with pytest.raises(ValueError, match=r"equal\.jsonl, line 3 is no bridge"):
        ledger.read()


# The rule by which runs are picked.


def record(seconds=1.0, code=A, version=1, **config):
    made = {"profile": "laptop", "code": code, "commit": "x", "date": "2026", "data": {}, "device": "CPU"}
    made["seconds"] = seconds
    return {"task": "t", "version": version, "config": config, "rows": [{"x": 1.0}], "made": made}


configs = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("xyz"), st.integers(0, 2), st.floats(0.1, 500)),
    min_size=1,
    max_size=30,
)


@given(configs)
def test_every_value_of_every_axis_but_the_seed_is_covered_and_three_more_are_drawn(drawn):
    records = {(n, s, seed): record(t, n=n, s=s, seed=seed) for n, s, seed, t in drawn}
    picked = choose(list(records.values()), A, B)
    config = [json.loads(key.split(":", 1)[1]) for key in picked]
    for axis in ("n", "s"):
        assert {c[axis] for c in config} == {r["config"][axis] for r in records.values()}
    assert len(picked) <= len(records)
    assert len(picked) >= min(len(records), 3 + max(len({k[0] for k in records}), len({k[1] for k in records})))
    assert picked == choose(list(records.values())[::-1], A, B)  # whatever their order


def test_of_runs_that_show_the_same_the_cheapest_is_made():
    records = [record(seconds, n=1, seed=seed) for seed, seconds in enumerate([9.0, 2.0, 5.0, 7.0, 8.0, 6.0])]
    first = next(iter(choose(records, A, B)))
    assert json.loads(first[2:])["seed"] == 1


def test_other_codes_draw_other_runs():
    records = [record(n=1, seed=seed) for seed in range(50)]
    drawn = {tuple(sorted(choose(records, old, new))) for old in (A, B) for new in (C, D)}
    assert len(drawn) == 4 and all(len(keys) == 4 for keys in drawn)


@pytest.mark.parametrize(
    ("seconds", "config", "smaller"),
    [
        (20.0, {"epochs": 30}, {}),
        (100.0, {"epochs": 60}, {"epochs": 2}),
        (1000.0, {"steps": 243_000, "n_train": 48}, {"steps": 972}),
        (100.0, {"epochs": 5, "n_train": 10_000}, {"epochs": 1, "n_train": 2000}),
        (1e6, {"epochs": 5, "n_train": 10_000, "seed": 1}, {"epochs": 1, "n_train": 256}),
        (100.0, {"name": "x", "epochs": True}, {}),
    ],
)
def test_long_runs_are_shrunk_and_short_ones_are_not(seconds, config, smaller):
    one = record(seconds, **config)
    assert choose([one], A, B) == {key_of(1, one["config"]): smaller}


# The comparison.


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({"x": 0.1}, {"x": 0.1}, True),
        ({"x": float("nan")}, {"x": float("nan")}, True),
        ({"x": 0.1}, {"x": 0.1 + 1e-18}, True),
        ({"x": 0.1}, {"x": 0.1 + 2e-17}, False),
        ({"x": 0.0}, {"x": -0.0}, False),
        ({"x": 1}, {"x": 1.0}, False),
        ({"x": 1}, {"x": True}, False),
        ({"x": "a"}, {"x": "b"}, False),
        ({"x": None}, {"x": 0.0}, False),
        ({"x": 1.0, "y": 1}, {"y": 1, "x": 1.0}, False),
        ({"x": 1.0}, {"x": 1.0, "y": 1}, False),
        ({"x": float("inf")}, {"x": 1.0}, False),
    ],
)
def test_rows_are_compared_bit_for_bit(old, new, same):
    worst, lines = compare({"k": [[old], [new]]})
    assert (not lines) == same and worst == 0
    assert same or lines[0].startswith("k: ")
    assert compare({"k": [[old], [old, old]]})[1]


def test_a_difference_is_relative_to_the_largest_value_of_its_column():
    pairs = {"k": [[{"x": 100.0}, {"x": 1e-3}], [{"x": 100.0}, {"x": 1.5e-3}]]}
    worst, lines = compare(pairs, within=1e-5)
    assert worst == pytest.approx(5e-6) and not lines
    worst, lines = compare(pairs, within=4e-6)
    assert lines == ["k: x was 0.001, is 0.0015"]
    assert compare({"k": [[{"n": 1}], [{"n": 2}]]}, within=1e-5)[1]  # counts have no tolerance


# What audit says.

NOTEBOOK = """from spatialkit import lab

@lab.task(version={version})
def t(n, seed):
    return {{"x": n + {number}}}
"""


@pytest.fixture
def bundle(own_session):
    """A bundle with one notebook, whose task ``t`` can be given other code, and records by any code."""
    import nbformat

    root = places.evidence()

    def write(number=0, version=1, codes=(A,)):
        (root / "notebooks").mkdir(parents=True, exist_ok=True)
        cell = nbformat.v4.new_code_cell(NOTEBOOK.format(number=number, version=version))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), root / "notebooks" / "01_t.ipynb")
        present = audit.present_tasks(root)["t"][1]
        store = Store(root / "results", "t")
        store.path.unlink(missing_ok=True)
        codes = [present if code == "present" else code for code in codes]
        store.add([record(code=code, n=n, seed=0) for n, code in enumerate(codes)])
        return root, present

    return write


def join(root, *steps):
    """Bridges between codes, with the keys that the rule picks."""
    made = []
    for old, new in steps:
        behind = [r for r in Store(root / "results", "t").read().values() if r["made"]["code"] == old
                  or ledger.path("t", r["made"]["code"], old, made) is not None]  # fmt: skip
        keys = tuple(choose(behind, old, new))
        made.append(bridge(old, new, keys=keys, equal=len(keys), of=len(keys)))
    ledger.write(made, root)
    return made


def only(root):
    (standing,) = audit.standings(root)
    return standing


def test_present_other_and_bridged_codes_are_told_apart(bundle, capsys):
    root, present = bundle(codes=["present", "present", A])
    standing = only(root)
    assert standing.counts == {"present": 2}
    assert standing.problems == [f"1 of 3 records made by other code ({A})"]
    assert audit.main(root) == 1 and "other code" in capsys.readouterr().out
    join(root, (A, present))
    standing = only(root)
    assert standing.counts == {"present": 2, "equal by 1 of 1 reruns": 1} and not standing.problems
    assert audit.main(root) == 0
    assert "1 found equal, 2 present; 0 tasks with problems" in capsys.readouterr().out


def test_a_chain_holds_and_a_gap_in_it_does_not(bundle):
    root, present = bundle(codes=[A, B, "present"])
    steps = join(root, (A, B), (B, present))
    assert not only(root).problems and only(root).counts["equal by 2 of 2 reruns"] == 1
    ledger.write(steps[:1], root)
    problems = " ".join(only(root).problems)
    assert "2 of 3" not in problems and problems.count("made by other code") == 2
    assert f"the bridge {A} - {B} leads from no record to the present code" in problems


def test_keys_that_the_rule_does_not_pick_are_refused(bundle):
    root, present = bundle(codes=[A] * 6)
    (step,) = join(root, (A, present))
    assert not only(root).problems
    fewer = step.keys[1:]
    for wrong in (
        {"keys": fewer, "equal": len(fewer), "of": len(fewer)},
        {"keys": (*step.keys[:-1], "1:{}")},
        {"equal": step.equal + 1, "of": step.of + 1},
    ):
        ledger.write([dataclasses.replace(step, **wrong)], root)
        assert "other runs than the rule picks; run verify again" in " ".join(only(root).problems)
    ledger.write([dataclasses.replace(step, shrunk={step.keys[0]: {"n": 0}})], root)
    assert "shrank runs in another way" in " ".join(only(root).problems)


def test_records_that_came_after_the_bridge_need_a_new_one(bundle):
    root, present = bundle(codes=[A, A])
    join(root, (A, present))
    Store(root / "results", "t").add([record(code=A, n=9, seed=0)])
    assert "run verify again" in " ".join(only(root).problems)


def test_other_versions_and_tasks_without_a_notebook_are_problems(bundle):
    root, _ = bundle(version=2, codes=["present"])
    assert "1 of 1 records of another version" in only(root).problems
    Store(root / "results", "t").path.rename(root / "results" / "gone.jsonl")
    assert "no notebook defines this task" in " ".join(only(root).problems)


def test_an_unknown_commit_is_refused(bundle, monkeypatch):
    root, present = bundle(codes=[A])
    join(root, (A, present))
    for known, refused in ((True, False), (None, False), (False, True)):
        monkeypatch.setattr(audit, "_is_known", lambda *_, known=known: known)
        assert ("which is not in the history" in " ".join(only(root).problems)) == refused


def test_a_commit_is_known_by_the_history(tmp_path):
    def git(folder, *words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    root, shallow, bare = tmp_path / "whole", tmp_path / "shallow", tmp_path / "none"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    for name in ("first", "second"):
        git(root, "commit", "-q", "--allow-empty", "-m", name)
    first, second = git(root, "rev-parse", "HEAD~1"), git(root, "rev-parse", "HEAD")
    assert audit._is_known(first[:10], root) is True and audit._is_known(second[:10], root) is True
    git(root, "checkout", "-q", "-b", "aside", first)
    assert audit._is_known(second[:10], root) is False  # of another branch
    assert audit._is_known("0" * 10, root) is False
    git(tmp_path, "clone", "-q", "--depth", "1", "-b", "main", f"file://{root}", str(shallow))
    assert audit._is_known(second[:10], shallow) is True
    assert audit._is_known(first[:10], shallow) is None  # beyond what was fetched
    bare.mkdir()
    assert audit._is_known(first[:10], bare) is None


def test_a_tolerance_is_told_by_audit(bundle, capsys):
    root, present = bundle(codes=[A, "present"])
    (step,) = join(root, (A, present))
    ledger.write([dataclasses.replace(step, within=3e-7, because="sums")], root)
    assert only(root).counts == {"present": 1, "equal by 1 of 1 reruns (within 3e-07)": 1}
    assert audit.main(root) == 0
    assert "1 nearly equal, 1 present; 0 tasks with problems" in capsys.readouterr().out


def test_tables_and_the_scorecard_follow_the_ledger(own_session):
    from spatialkit.lab.fingerprint import fingerprint
    from spatialkit.lab.provenance import code_behind, summary

    @lab.task
    def t(n, seed):
        return {"x": n}

    lab.sweep(t, n=[1, 2, 3], seed=0)
    store = Store(places.out() / "results", "t")
    records = list(store.read().values())
    records[0]["made"]["code"] = A
    store.add(records)
    table = lab.sweep(t, n=[1, 2, 3], seed=0)
    assert code_behind(summary(table)) == "1 of 3 runs by other code"
    assert "1 of them made by other code" in lab.describe(table)
    ledger.write([bridge(A, fingerprint(t.function), equal=4, of=4)])
    table = lab.sweep(t, n=[1, 2, 3], seed=0)
    assert code_behind(summary(table)) == "equal by 4 of 4 reruns"
    assert "code" not in lab.describe(table)
    ledger.write([bridge(A, fingerprint(t.function), equal=4, of=4, within=1e-6, because="sums")])
    assert code_behind(summary(lab.sweep(t, n=[1, 2, 3], seed=0))) == "equal by 4 of 4 reruns (within 1e-06)"
    present = lab.sweep(t, n=[2, 3], seed=0)
    assert code_behind(summary(present)) == "present"
    assert code_behind(summary([present, lab.sweep(t, n=[1], seed=0)])).startswith("equal by 4 of 4")

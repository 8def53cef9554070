"""Verify, on a small bundle of its own with a history: what is carried over, and what never is."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

import spatialkit as sk
from spatialkit.lab import audit, ledger, verify
from spatialkit.lab.store import Store

PACKAGE = Path(verify.__file__).resolve().parents[1]
TASK = """from spatialkit import lab
from spatialkit.models import same_size
from math import {name}

@lab.task(version=1)
def sizes(n, kind, seed, epochs=3):
    {body}
"""
PLAIN = "return [{'root': {name}(n + seed), 'epochs': epochs}]"


class Bundle:
    def __init__(self, root):
        self.root = root
        shutil.copytree(PACKAGE, root / "spatialkit", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
        self.git("init", "-q", "-b", "main")
        self.write()
        self.commit()

    def git(self, *words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(["git", *identity, *words], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def write(self, body=PLAIN, name="sqrt"):
        cell = nbformat.v4.new_code_cell(TASK.replace("{body}", body).replace("{name}", name))
        (self.root / "notebooks").mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), self.root / "notebooks" / "01_sizes.ipynb")

    def commit(self):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")
        return self.git("rev-parse", "--short=10", "HEAD")

    @property
    def code(self):
        return audit.present_tasks(self.root)["sizes"][1]

    def record(self, seconds=0.1):
        made = {"profile": "laptop", "code": self.code, "commit": "x", "date": "2026", "data": {}, "device": "CPU"}
        for n in range(4):
            for kind in ("a", "b"):
                config = {"n": n, "kind": kind, "seed": n, "epochs": 3}
                rows = [{"root": 99.0, "epochs": 3}]  # what another processor found: never compared with
                one = {"task": "sizes", "version": 1, "config": config, "rows": rows}
                Store(self.root / "results", "sizes").add([one | {"made": made | {"seconds": seconds}}])


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"})
    return Bundle(tmp_path / "bundle")


def test_equal_code_is_carried_over_and_the_records_stay_as_they_are(bundle, capsys):
    bundle.record(seconds=100.0)
    old, base = bundle.code, bundle.git("rev-parse", "--short=10", "HEAD")
    before = Store(bundle.root / "results", "sizes").path.read_bytes()
    bundle.write("value = {name}(n + seed)\n    return [{'root': value, 'epochs': epochs}]")
    assert audit.main(bundle.root) == 1
    assert verify.verify(bundle.root) == 0
    (bridge,) = ledger.read(bundle.root)
    assert (bridge.task, bridge.old, bridge.new, bridge.commit) == ("sizes", old, bundle.code, base)
    assert bridge.equal == bridge.of == len(bridge.keys) == 7 and bridge.within == 0
    assert set(map(str, bridge.shrunk.values())) == {"{'epochs': 1}"}  # from 100 s, and no other axis
    assert {json.loads(key[2:])["n"] for key in bridge.keys} == {0, 1, 2, 3}
    assert Store(bundle.root / "results", "sizes").path.read_bytes() == before
    assert "8 records carried over" in capsys.readouterr().out
    bundle.commit()
    assert audit.main(bundle.root) == 0
    assert verify.verify(bundle.root) == 0 and "every record was made by the present code" in capsys.readouterr().out
    # A second change: from the records' own code again, and the first line, which leads nowhere now, goes.
    bundle.write("result = {name}(n + seed)\n    return [{'root': result, 'epochs': epochs}]")
    assert verify.verify(bundle.root, base=base) == 0
    (again,) = ledger.read(bundle.root)
    assert (again.old, again.new) == (old, bundle.code) and again != bridge


def test_different_code_is_not_carried_over(bundle, capsys):
    bundle.record()
    bundle.write("return [{'root': {name}(n + seed) * (1 + 1e-15), 'epochs': epochs}]")
    assert verify.verify(bundle.root) == 1
    said = capsys.readouterr().out
    assert "root was 1.4142135623730951, is 1.4142135623730967" in said or "root was " in said
    assert "sizes differs: raise its version, or make its runs again" in said
    assert not ledger.file(bundle.root).exists()


def test_a_small_difference_needs_a_reason_and_verdicts_that_stay(bundle, monkeypatch, capsys):
    bundle.record()
    bundle.write("return [{'root': {name}(n + seed) * (1 + 1e-9), 'epochs': epochs}]")
    with pytest.raises(ValueError, match="it needs a reason"):
        verify.verify(bundle.root, within=1e-6)
    with pytest.raises(ValueError, match="within must be from 0 to 1e-05"):
        verify.verify(bundle.root, within=1e-4, because="x")
    monkeypatch.setattr(verify, "verdicts_that_change", lambda *_: ["x.y: replicated -> undecided"])
    assert verify.verify(bundle.root, within=1e-6, because="another order of sums") == 1
    assert "replicated -> undecided" in capsys.readouterr().out and not ledger.read(bundle.root)
    monkeypatch.setattr(verify, "verdicts_that_change", lambda *_: [])
    assert verify.verify(bundle.root, within=1e-6, because="another order of sums") == 0
    (bridge,) = ledger.read(bundle.root)
    assert bridge.within == pytest.approx(1e-9, rel=0.1) and bridge.because == "another order of sums"


def test_a_small_difference_is_never_accepted_across_a_training(bundle, monkeypatch, capsys):
    fit = "from spatialkit.train import fit"
    trains = f"{fit}\n    return [{{'root': {{name}}(n + seed){{more}}, 'epochs': epochs if fit else 0}}]"
    bundle.write(trains.replace("{more}", ""))
    bundle.commit()
    bundle.record()
    bundle.write(trains.replace("{more}", " * (1 + 1e-9)"))
    monkeypatch.setattr(verify, "verdicts_that_change", lambda *_: [])
    assert verify.verify(bundle.root, within=1e-6, because="sums") == 1
    assert "and trains (spatialkit.train.gradients)" in capsys.readouterr().out
    assert not ledger.read(bundle.root)


def test_code_that_no_commit_holds_and_runs_that_raise_are_told(bundle, capsys):
    bundle.write("return [{'root': {name}(n + seed) + 0.0, 'epochs': epochs}]")
    bundle.record()  # by code that was never committed
    bundle.write()
    assert verify.verify(bundle.root) == 1
    assert "no commit looked at holds the code" in capsys.readouterr().out
    bundle.git("checkout", "-q", ".")
    Store(bundle.root / "results", "sizes").path.unlink()
    bundle.record()
    bundle.write(
        "if n == 2:\n        raise ArithmeticError('no two')\n    return [{'root': {name}(n), 'epochs': epochs}]"
    )
    assert verify.verify(bundle.root) == 1
    assert "bundle raises ArithmeticError: no two" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no notebook defines a task 'seizes'; there are: sizes"):
        verify.verify(bundle.root, task="seizes")
    with pytest.raises(ValueError, match="git rev-parse"):
        verify.verify(bundle.root, base="nowhere")


def claim(**other):
    return verify._Claim("t", "a" * 12, "b" * 12, Path("01_t.ipynb"), [], within=1e-9, **other)


def test_no_tolerance_excuses_code_that_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "verdicts_that_change", lambda root, task, within: [f"{task} within {within}"])
    for module in (function.__module__ for function in (sk.fit, sk.train.fit_hinge, sk.trained)):
        monkeypatch.setattr(verify, "_reached", lambda _, m=module: frozenset({"spatialkit.models.zoo", m}))
        (line,) = verify._refusals(claim(), tmp_path)
        assert line.startswith(f"differs by 1.0e-09, and trains ({module})")
    monkeypatch.setattr(verify, "_reached", lambda _: frozenset({"spatialkit.models.zoo"}))
    assert verify._refusals(claim(), tmp_path) == ["t within 1e-09"]


@pytest.mark.parametrize(
    ("within", "because"), [(1e-6, ""), (1.1e-5, "sums"), (1.0, "sums"), (-1e-9, "sums"), (float("nan"), "sums")]
)
def test_a_tolerance_is_small_and_has_a_reason(tmp_path, within, because):
    with pytest.raises(ValueError, match=r"within must be from 0 to 1e-05, and above 0 it needs a reason"):
        verify.verify(tmp_path, within=within, because=because)


def test_only_records_of_the_present_version_are_to_be_shown(tmp_path, monkeypatch):
    made = {"profile": "laptop", "code": "a" * 12, "commit": "x", "date": "2026", "data": {}, "device": "CPU"}
    records = [{"task": "t", "version": v, "config": {"n": 1}, "rows": [], "made": made} for v in (1, 2)]
    Store(tmp_path / "results", "t").add(records)
    monkeypatch.setattr(verify, "present_tasks", lambda _: {"t": (2, "b" * 12, Path("01_t.ipynb"))})
    (found,) = verify._claims(tmp_path, None)
    assert (found.old, found.new, [r["version"] for r in found.records]) == ("a" * 12, "b" * 12, [2])

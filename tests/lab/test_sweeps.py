"""A sweep runs what is missing, keeps what is finished, and says where it came from."""

import json
import linecache
import os
import pathlib
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from spatialkit import data, lab, places
from spatialkit.lab.store import Store


@lab.task(version=1)
def square(n, offset=0, log=None):
    """One run; leaves a trace of having been run."""
    if log:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(f"{n}\n")
    return {"square": n * n + offset}


@lab.task
def mean_of_digits(seed):
    return {"mean": data.load("digits").images.float().mean() + seed}


@lab.task
def breaks_at_two(n):
    if n == 2:
        raise ArithmeticError("two is not allowed")
    return {"n squared": n * n}


@lab.task
def dies_once(n, folder):
    mark = pathlib.Path(folder) / str(n)
    if n == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"process": os.getpid()}


@lab.task
def dies(n):
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"n squared": n * n}


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


def runs(log):
    return sorted(int(line) for line in open(log, encoding="utf-8"))


def test_the_table_has_arguments_then_results_in_the_order_of_the_grid(log):
    table = lab.sweep(square, n=[2, 1], offset=(0, 10))
    assert list(table.columns) == ["n", "offset", "log", "square"]
    assert table["square"].tolist() == [4, 14, 1, 11]


def test_nothing_finished_runs_twice(log):
    first = lab.sweep(square, n=range(3), log=log)
    second = lab.sweep(square, n=range(4), log=log)
    assert runs(log) == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(first, second[:3])


def test_committed_results_are_read_and_not_written(log, tmp_path):
    lab.sweep(square, n=[1], log=log)
    (tmp_path / "out").rename(tmp_path / "evidence")
    before = (tmp_path / "evidence/results/square.jsonl").read_bytes()
    lab.sweep(square, n=[1, 2], log=log)
    assert runs(log) == [1, 2]
    assert (tmp_path / "evidence/results/square.jsonl").read_bytes() == before


def test_smoke_never_reads_committed_results(log, tmp_path, monkeypatch):
    lab.sweep(square, n=[1], log=log)
    (tmp_path / "out").rename(tmp_path / "evidence")
    monkeypatch.setattr("spatialkit.lab.profiles._current", "smoke")
    lab.sweep(square, n=[1], log=log)
    assert runs(log) == [1, 1]


def test_fresh_ignores_what_was_made_before(log, monkeypatch):
    lab.sweep(square, n=[1, 2], log=log)
    monkeypatch.setenv("SPATIALKIT_FRESH", "9999-01-01T00:00:00+00:00")
    lab.sweep(square, n=[1], log=log)
    assert runs(log) == [1, 1, 2]
    monkeypatch.setenv("SPATIALKIT_FRESH", "2000-01-01T00:00:00+00:00")
    lab.sweep(square, n=[1, 2], log=log)
    assert runs(log) == [1, 1, 2]


def test_a_new_version_runs_again(log):
    lab.sweep(square, n=[3], log=log)
    newer = lab.Task(square.function, version=2)
    assert lab.sweep(newer, n=[3], log=log)["square"].tolist() == [9]
    assert runs(log) == [3, 3]


def test_processes_give_what_one_process_gives():
    serial = lab.sweep(square, n=range(6), executor=lab.Serial())
    Store(places.out() / "results", "square").path.unlink()
    parallel = lab.sweep(square, n=range(6), executor=lab.Processes(2))
    pd.testing.assert_frame_equal(serial, parallel)


def test_every_record_has_its_provenance():
    lab.sweep(mean_of_digits, seed=[0, 1])
    record, _ = Store(places.out() / "results", "mean_of_digits").read().values()
    made = record["made"]
    assert made["data"]["digits/train"]["copy"] == "embedded in scikit-learn"
    assert {"profile", "code", "commit", "date", "device", "python", "torch", "numpy", "seconds"} <= set(made)


def test_the_description_names_profile_data_device_and_seeds():
    line = lab.describe(lab.sweep(mean_of_digits, seed=[0, 1]))
    assert line.startswith("profile laptop; digits (embedded in scikit-learn); ")
    assert line.endswith("2 runs, 2 seeds")


def test_joined_tables_keep_the_provenance_of_all_and_count_a_sweep_once():
    squares, means = lab.sweep(square, n=[1, 2, 3]), lab.sweep(mean_of_digits, seed=[0, 1])
    both = lab.joined(squares[squares["n"] > 1], means, squares[squares["n"] == 1])
    assert both["square"].dropna().tolist() == [4, 9, 1]
    assert both["mean"].count() == 2 and both.index.is_unique
    assert both.attrs["made"]["task"] == ["mean_of_digits", "square"]
    assert both.attrs["made"]["data"] == ["digits (embedded in scikit-learn)"]
    assert lab.describe(both).endswith("5 runs, 2 seeds")
    with pytest.raises(ValueError, match="set attrs from the original"):
        lab.joined(squares, pd.DataFrame({"n": [1]}))


@pytest.mark.parametrize("executor", [lab.Serial, lambda: lab.Processes(2)])
def test_a_failing_run_does_not_take_the_others_along(executor):
    with pytest.raises(lab.SweepError, match=r"(?s)1 of 4 runs of breaks_at_two failed.*two is not allowed"):
        lab.sweep(breaks_at_two, n=range(4), executor=executor())
    assert len(Store(places.out() / "results", "breaks_at_two").read()) == 3


def test_the_sweep_goes_on_when_a_worker_dies(tmp_path):
    table = lab.sweep(dies_once, n=range(5), folder=str(tmp_path), executor=lab.Processes(2))
    assert len(table) == 5


def test_a_task_may_use_torch_beside_names_of_its_submodules():
    code = (
        "def uses_torch(n):\n    train = data.load('digits')\n"
        "    return {'found': len(train.classes) + torch.tensor(n)}\n"
    )
    namespace = {"__name__": "__main__", "torch": torch, "data": data}  # by value, as from a notebook
    linecache.cache["<cell>"] = (len(code), None, code.splitlines(keepends=True), "<cell>")
    exec(compile(code, "<cell>", "exec"), namespace)
    table = lab.sweep(lab.task(namespace["uses_torch"]), n=[0, 1], executor=lab.Processes(1))
    assert table["found"].tolist() == [10, 11]


@lab.task
def keeps_a_data_set(n):
    sys.kept = getattr(sys, "kept", None) or b"x" * 400_000_000
    time.sleep(1.1)  # loky looks at the memory once a second
    return {"process": os.getpid()}


def test_a_worker_keeps_its_data_sets_between_runs():
    table = lab.sweep(keeps_a_data_set, n=range(4), executor=lab.Processes(1))
    assert table["process"].nunique() == 1


def test_a_run_that_kills_every_worker_fails_alone():
    with pytest.raises(lab.SweepError, match=r"(?s)1 of 4 runs.*died twice"):
        lab.sweep(dies, n=range(4), executor=lab.Processes(2))
    assert len(Store(places.out() / "results", "dies").read()) == 3


def running(process):
    """Whether a process lives; one that ended but whose parent died before asking does not."""
    try:
        os.kill(process, 0)
        state = pathlib.Path(f"/proc/{process}/stat")
        return not (state.exists() and state.read_text("utf-8").rsplit(")", 1)[1].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_killed_sweep_keeps_what_was_finished_and_its_workers_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nimport time\nfrom spatialkit import lab\n\n"
        "@lab.task\ndef slow(n):\n    time.sleep(0.05)\n    return {'x': n, 'process': os.getpid()}\n\n"
        "lab.sweep(slow, n=range(1000), executor=lab.Processes(2))\n"
    )
    sweep = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    store = Store(places.out() / "results", "slow")
    deadline = time.monotonic() + 60
    while len(store.read()) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    kept = store.read()
    assert 5 <= len(kept) < 1000
    workers = {r["rows"][0]["process"] for r in kept.values()}
    while any(map(running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(running, workers))
    assert sorted(r["config"]["n"] for r in kept.values()) == sorted(r["rows"][0]["x"] for r in kept.values())


def test_undefined_numbers_become_nan():
    @lab.task
    def undefined(n):
        return {"x": float("nan")}

    table = lab.sweep(undefined, n=[1, 2])
    assert table["x"].isna().all()
    json.loads(Store(places.out() / "results", "undefined").path.read_text().splitlines()[0], parse_constant=int)


def test_bad_calls_say_what_to_do():
    with pytest.raises(ValueError, match=r"put @lab\.task above"):
        lab.sweep(len, n=[1])
    with pytest.raises(ValueError, match="missing a required argument"):
        lab.sweep(square, offset=1)
    with pytest.raises(ValueError, match="got an unexpected keyword"):
        lab.sweep(square, n=1, colour=2)
    with pytest.raises(ValueError, match="an axis is empty"):
        lab.sweep(square, n=[])
    with pytest.raises(ValueError, match="not both"):
        lab.sweep(square, [{"n": 1}], n=1)
    with pytest.raises(ValueError, match="name every argument"):
        lab.task(lambda *n: n)
    with pytest.raises(ValueError, match="profile must be one of"):
        lab.pick("huge", smoke=1, laptop=2, paper=3)
    with pytest.raises(ValueError, match="at least 1"):
        lab.Processes(0)


def test_a_column_may_not_be_an_argument_too():
    @lab.task
    def twice(n):
        return {"n": n}

    with pytest.raises(lab.SweepError, match="also an argument"):
        lab.sweep(twice, n=[1], executor=lab.Serial())


def test_a_dask_client_is_an_executor():
    distributed = pytest.importorskip("distributed")
    cluster = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.Client(**cluster) as client:
        table = lab.sweep(square, n=range(5), executor=client)
    assert table["square"].tolist() == [0, 1, 4, 9, 16]


def test_runs_by_other_code_are_counted():
    lab.sweep(square, n=[1, 2])
    store = Store(places.out() / "results", "square")
    record = next(iter(store.read().values()))
    record["made"]["code"] = "0" * 12
    store.add([record])
    table = lab.sweep(square, n=[1, 2])
    assert table.attrs["made"]["other code"] == 1
    assert lab.describe(table).endswith("2 runs, 1 of them made by other code")

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

from spatialkit import data, lab
from spatialkit.lab import places
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


def test_own_results_come_before_committed_ones(log):
    made = {"profile": "laptop", "code": "0" * 12, "commit": "x", "date": "2026", "data": {}, "device": "CPU"}
    one = {"task": "square", "version": 1, "config": square.config({"n": 5, "log": log}), "made": made}
    for folder, value in ((places.evidence(), 1), (places.out(), 2)):
        Store(folder / "results", "square").add([one | {"rows": [{"square": value}]}])
    assert lab.sweep(square, n=[5], log=log)["square"].tolist() == [2]
    assert not pathlib.Path(log).exists()


def test_smoke_never_reads_committed_results(log, tmp_path, monkeypatch):
    lab.sweep(square, n=[1], log=log)
    (tmp_path / "out").rename(tmp_path / "evidence")
    lab.begin("smoke")
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


def test_numbers_of_a_task_are_cells_as_they_are():
    mean = data.load("digits").images.float().mean().item()
    assert lab.sweep(mean_of_digits, seed=[0, 1])["mean"].tolist() == [mean, pytest.approx(mean + 1)]


def test_the_description_names_profile_data_device_and_seeds():
    line = lab.describe(lab.sweep(mean_of_digits, seed=[0, 1]))
    assert line.startswith("profile laptop; digits (embedded in scikit-learn); ")
    assert line.endswith("2 runs, 2 seeds")


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
        "import os\nimport time\nfrom spatialkit import lab\n\nlab.begin('laptop')\n"
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
    assert lab.summary(table)["other code"] == 1
    assert lab.describe(table).endswith("2 runs, 1 of them made by other code")


# Nothing finished is lost, and nothing is begun that could not be kept.


def test_results_that_could_not_be_kept_are_found_before_any_run(log, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set SPATIALKIT_OUT to a folder that is"):
        lab.sweep(square, n=[1], log=log)
    assert not pathlib.Path(log).exists()


def test_a_damaged_file_of_results_is_found_before_any_run(log):
    lab.sweep(square, n=[1], log=log)
    path = Store(places.out() / "results", "square").path
    path.write_text(path.read_text().replace('"square": 1}', '"square": NaN}'))
    with pytest.raises(ValueError, match=r"square\.jsonl, line 1 is not a record"):
        lab.sweep(square, n=[1, 2], log=log)
    assert runs(log) == [1]


def test_what_a_full_disk_refused_is_stored_with_the_next(monkeypatch):
    real, calls = Store.add, []

    def full_at_first(self, records):
        calls.append(len(records))
        if len(calls) < 3:
            raise OSError(28, "No space left on device")
        real(self, records)

    monkeypatch.setattr(Store, "add", full_at_first)
    assert lab.sweep(square, n=range(4), executor=lab.Serial())["square"].tolist() == [0, 1, 4, 9]
    assert calls == [1, 2, 3, 1]


def test_a_disk_that_stays_full_is_an_error_that_says_what_is_lost(monkeypatch):
    def full(self, records):
        raise OSError(28, "cannot write x: No space left on device")

    monkeypatch.setattr(Store, "add", full)
    with pytest.raises(OSError, match="3 finished runs are lost: cannot write x"):
        lab.sweep(square, n=range(3), executor=lab.Serial())


@lab.task
def threads_of(n):
    import threadpoolctl

    pools = max((pool["num_threads"] for pool in threadpoolctl.threadpool_info()), default=1)
    return {"torch": torch.get_num_threads(), "pools": pools, "sum": float(torch.randn(10**5).double().sum() * 0 + n)}


@pytest.mark.parametrize("executor", [lab.Serial, lambda: lab.Processes(1)])
def test_a_run_uses_one_thread_wherever_it_takes_place(executor):
    before = torch.get_num_threads()
    table = lab.sweep(threads_of, n=[1], executor=executor())
    assert table[["torch", "pools"]].values.tolist() == [[1, 1]]
    assert torch.get_num_threads() == before
    record = next(iter(Store(places.out() / "results", "threads_of").read().values()))
    assert record["made"]["threads"] == 1


def test_provenance_names_the_processor_and_the_precision_of_training():
    lab.sweep(square, n=[1])
    made = next(iter(Store(places.out() / "results", "square").read().values()))["made"]
    assert made["processor"] and made["instructions"].startswith(torch.backends.cpu.get_cpu_capability())
    assert made["precision"] is None

    @lab.task
    def fits(n):
        from spatialkit.train import fit

        fit(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), torch.ones(4, 1, 2, 2),
            torch.tensor([0, 1, 0, 1]), epochs=1, seed=n)  # fmt: skip
        return {"x": 1}

    lab.sweep(fits, n=[1], executor=lab.Serial())
    assert next(iter(Store(places.out() / "results", "fits").read().values()))["made"]["precision"] == "float32"


# An argument that came later leaves old keys as they are.


def versions(added):
    def grown(n, precision="float32"):
        return {"bits": 32 if precision == "float32" else 16}

    def young(n):
        return {"bits": 32}

    young.__name__ = young.__qualname__ = "grown"
    return lab.task(young), lab.task(grown, added=added)


def test_an_added_argument_leaves_old_records_their_keys():
    young, grown = versions({"precision": "float32"})
    lab.sweep(young, n=[1, 2])
    before = Store(places.out() / "results", "grown").read()
    table = lab.sweep(grown, n=[1, 2])
    assert list(table.columns) == ["n", "precision", "bits"] and set(table["precision"]) == {"float32"}
    assert Store(places.out() / "results", "grown").read() == before
    table = lab.sweep(grown, n=[1], precision=["float32", "bfloat16"])
    assert table["bits"].tolist() == [32, 16]
    assert len(Store(places.out() / "results", "grown").read()) == 3
    assert lab.sweep(young, n=[1])["bits"].tolist() == [32]


def test_an_added_argument_must_be_one():
    with pytest.raises(ValueError, match="has no argument speed, which added names"):
        versions({"speed": 1})


# What a task returns.


def test_a_task_that_returns_nothing_is_refused_when_it_is_made():
    def nothing(n):
        n + 1

    with pytest.raises(ValueError, match="nothing returns nothing: a task returns a row"):
        lab.task(nothing)


@pytest.mark.parametrize(
    ("result", "match"),
    [(3.0, "got float"), (pd.DataFrame({"x": [1]}), r"got DataFrame; a DataFrame as \.to_dict"), ([1], "got list"),
     (None, "got NoneType"), ({"x": [1, 2]}, "must hold a number or a string, got list")],
)  # fmt: skip
def test_a_result_that_is_no_row_is_named(result, match, monkeypatch):
    @lab.task
    def returns(n):
        return sys.result

    monkeypatch.setattr(sys, "result", result, raising=False)
    with pytest.raises(lab.SweepError, match=match):
        lab.sweep(returns, n=[1], executor=lab.Serial())

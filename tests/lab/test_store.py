"""The store keeps finished runs, whatever happens around it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout

from spatialkit.lab import store as module
from spatialkit.lab.store import Store, atomic_write, canonical, key_of, writable

MADE = {"profile": "laptop", "code": "0" * 12, "commit": "unknown", "date": "2026", "data": {}, "device": "CPU"}


def record(seed, value=1.0, version=1):
    return {"task": "t", "version": version, "config": {"seed": seed}, "rows": [{"x": value}], "made": MADE}


@pytest.mark.parametrize(
    ("value", "plain"),
    [(np.int64(3), 3), (torch.tensor(2.5), 2.5), ((1, 2), [1, 2]), (np.bool_(True), True), (None, None)],
)
def test_equal_settings_have_equal_plain_values(value, plain):
    assert canonical(value) == plain
    assert type(canonical(value)) is type(plain)


@pytest.mark.parametrize("value", [object(), np.zeros(3), {"a": 1}, lambda x: x])
def test_a_configuration_takes_plain_values_only(value):
    with pytest.raises(ValueError, match="a configuration takes numbers"):
        canonical(value)


def test_a_configuration_refuses_nan():
    with pytest.raises(ValueError, match="finite"):
        canonical(float("nan"))


def test_the_key_does_not_depend_on_the_order_of_arguments():
    assert key_of(1, {"a": 1, "b": 2}) == key_of(1, {"b": 2, "a": 1})
    assert key_of(1, {"a": 1}) != key_of(2, {"a": 1}) != key_of(2, {"a": 1.0})


def test_what_is_added_is_read_and_a_second_record_replaces_the_first(tmp_path):
    store = Store(tmp_path, "t")
    store.add([record(1), record(0)])
    store.add([record(1, value=2.0)])
    assert {r["config"]["seed"]: r["rows"][0]["x"] for r in store.read().values()} == {0: 1.0, 1: 2.0}
    seeds = [json.loads(line)["config"]["seed"] for line in store.path.read_text().splitlines()]
    assert seeds == [0, 1]  # sorted, so that a difference between commits shows what moved


def test_a_damaged_line_is_named(tmp_path):
    store = Store(tmp_path, "t")
    store.add([record(0)])
    store.path.write_text(store.path.read_text() + '{"task": "t", "vers')
    with pytest.raises(ValueError, match=r"t\.jsonl, line 2 is not a record"):
        store.read()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def _add_many(folder, first):
    store = Store(folder, "t")
    for seed in range(first, first + 20):
        store.add([record(seed)])


def test_two_writers_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_many, args=(tmp_path, first)) for first in (0, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(r["config"]["seed"] for r in Store(tmp_path, "t").read().values()) == list(range(40))


def test_killed_while_writing_leaves_whole_lines(tmp_path):
    code = (
        "import sys, pathlib; from spatialkit.lab.store import Store\n"
        f"store, made = Store(pathlib.Path(sys.argv[1]), 't'), {MADE}\n"
        "for seed in range(10**6):\n"
        "    rows = [{'x': 1.0}] * 2000\n"
        "    store.add([{'task': 't', 'version': 1, 'config': {'seed': seed}, 'rows': rows, 'made': made}])\n"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        before, deadline = len(Store(tmp_path, "t").read()), time.monotonic() + 30
        while len(Store(tmp_path, "t").read()) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        for kept in Store(tmp_path, "t").read().values():
            assert len(kept["rows"]) == 2000
        (tmp_path / "t.jsonl").unlink()


GOOD = json.dumps(record(0))


@pytest.mark.parametrize(
    "line",
    [
        GOOD.replace("1.0", "NaN"), GOOD.replace("1.0", "Infinity"), GOOD.replace("1.0", "1e999"),
        GOOD.replace("1.0", '{"a": 1}'), GOOD.replace('"version": 1', '"version": "1"'),
        GOOD.replace('"task": "t", ', ""), GOOD.replace('{"x": 1.0}', "3"), GOOD.replace('"laptop"', "7"),
        GOOD.replace('"code": "000000000000"', '"code": null'), "[1, 2]", "3", "", "{}", "[" * 100_000,
        GOOD.replace('"x": 1.0', '"x": 1.0, "x": 2.0'), GOOD.replace('"seed": 0', '"seed": 1e999'),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named_whatever_it_is(tmp_path, line):
    store = Store(tmp_path, "t")
    store.path.write_text(json.dumps(record(5)) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"t\.jsonl, line 2 is not a record \(.+\); restore the file with git"):
        store.read()


def test_bytes_that_are_no_text_and_repeated_runs_are_named(tmp_path):
    store = Store(tmp_path, "t")
    store.path.write_bytes(GOOD.encode() + b"\n" + GOOD.encode().replace(b"laptop", b"l\xff\xfe") + b"\n")
    with pytest.raises(ValueError, match=r"line 2 is not a record .*utf-8"):
        store.read()
    store.path.write_text(f"{GOOD}\n{GOOD}\n")
    with pytest.raises(ValueError, match=r"line 2 .*repeats the run of an earlier line"):
        store.read()


def test_what_is_no_record_is_not_written(tmp_path):
    store = Store(tmp_path, "t")
    store.add([record(0)])
    before = store.path.read_bytes()
    for bad in (record(1, value=float("nan")), record(1, value=float("inf")), {**record(1), "made": {}}):
        with pytest.raises(ValueError):
            store.add([bad])
    assert store.path.read_bytes() == before


def test_runs_that_finish_over_a_damaged_file_wait_beside_it_and_are_taken_in(tmp_path):
    store = Store(tmp_path, "t")
    store.add([record(0)])
    whole = store.path.read_text()
    store.path.write_text(whole[:-20])
    for seed in (1, 2):
        with pytest.raises(ValueError, match=r"line 1 is not a record.*The new runs wait in .*t\.jsonl\.waiting"):
            store.add([record(seed)])
    store.path.write_text(whole)
    assert sorted(r["config"]["seed"] for r in store.read().values()) == [0, 1, 2]
    store.add([record(3)])
    assert len(store.read()) == 4 and not store.saved_apart.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.jsonl", "t.lock"]


def test_what_a_kill_left_half_written_goes_with_the_next_write(tmp_path):
    path = tmp_path / "file"
    code = (
        "import os, pathlib, sys\nfrom spatialkit.lab import store\n"
        "store.os.replace = lambda *_: os._exit(9)\nstore.atomic_write(pathlib.Path(sys.argv[1]), 'x' * 1000)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)])
    left = [p.name for p in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].endswith(".part")
    other = tmp_path / f".file.elsewhere-{os.getpid()}.x.part"  # of another machine: perhaps alive
    other.touch()
    living = tmp_path / left[0].replace(left[0].split("-")[-1].split(".")[0], str(os.getpid()))
    living.touch()
    atomic_write(path, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["file", other.name, living.name])


def test_a_failed_write_names_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"cannot write .*results.t\.jsonl: No space left"):
        Store(tmp_path / "results", "t").add([record(0)])


def test_a_folder_that_cannot_be_written_is_found_out_and_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"could not be kept in .*file.*set SPATIALKIT_OUT to a folder"):
        writable(tmp_path / "file" / "results")
    writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_records_are_merged_under_the_lock(tmp_path, monkeypatch):
    held = []

    def watched(function):
        def asks(path, *arguments):
            lock = FileLock(tmp_path / "t.lock")  # as another process would
            with pytest.raises(Timeout):
                lock.acquire(timeout=0)
                lock.release()
            held.append(path.name)
            return function(path, *arguments)

        return asks

    for name in ("_records", "_write"):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    Store(tmp_path, "t").add([record(0)])
    assert held == ["t.jsonl", "t.jsonl.waiting", "t.jsonl"]  # read, read, written

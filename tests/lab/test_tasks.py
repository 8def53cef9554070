"""One run: on one thread, with all that its record says about it."""

import torch
from threadpoolctl import threadpool_info, threadpool_limits

from spatialkit import lab
from spatialkit.lab import context
from spatialkit.lab.tasks import run

MADE = {"code": "a", "profile": "laptop", "commit": "c", "date": "d"}


@lab.task
def threads(n):
    return {"torch": torch.get_num_threads(), "pools": max((p["num_threads"] for p in threadpool_info()), default=1)}


def test_a_run_takes_one_thread_and_gives_the_others_back():
    before = torch.get_num_threads()
    try:
        with threadpool_limits(2):
            torch.set_num_threads(2)
            record = run(threads, {"n": 1}, MADE)
            assert torch.get_num_threads() == 2
        assert record["rows"] == [{"torch": 1, "pools": 1}] and record["made"]["threads"] == 1
    finally:
        torch.set_num_threads(before)


@lab.task
def notes(n, names):
    for name in names:
        context.note_precision(name)
    return {"x": n}


def test_a_record_names_the_precision_of_its_training():
    found = [run(notes, {"n": 1, "names": names}, MADE)["made"]["precision"] for names in ([], ["b", "b"], ["c", "a"])]
    assert found == [None, "b", "a and c"]

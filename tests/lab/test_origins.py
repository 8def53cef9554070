"""The runs behind a table: whatever part of a sweep it shows, and no others."""

import pandas as pd
import pytest

from spatialkit import data, lab


@lab.task
def square(n, offset=0, name=None):
    return [{"part": part, "square": n * n + offset} for part in (1, 2)]


@lab.task
def mean_of_digits(seed):
    return {"mean": data.load("digits").images.float().mean() + seed}


@lab.task
def listed(sizes, exact, rate):
    return {"sum": sum(sizes)}


@pytest.fixture
def squares():
    return lab.sweep(square, n=[1, 2, 3], offset=[0, 10])


def runs(table):
    return lab.summary(table)["runs"]


def test_the_runs_of_all_rows_count_once_each(squares):
    assert len(squares) == 12 and runs(squares) == 6
    assert lab.describe(squares).endswith("; 6 runs")


@pytest.mark.parametrize(
    "part",
    [
        lambda t: t[t["n"] > 1],
        lambda t: t.query("part == 1 and n != 3"),
        lambda t: t[t["n"] < 3].sort_values("square", ascending=False).reset_index(drop=True),
        lambda t: t[t["n"] > 1].assign(panel="a", half=lambda u: u["square"] / 2),
        lambda t: t[t["n"] > 1][t.columns[::-1]],
        lambda t: pd.concat([t[t["n"] == 1], t[t["n"] == 2]], ignore_index=True),
        lambda t: t[t["n"] > 1].merge(pd.DataFrame({"n": [1, 2, 3], "more": "abc"}), on="n"),
        lambda t: t[t["n"] > 1].astype({"n": float, "offset": "category"}),
    ],
    ids=["filter", "query", "sorted", "columns added", "columns moved", "concat", "merge", "other types"],
)
def test_a_part_counts_its_own_runs(squares, part):
    assert runs(part(squares)) == 4


def test_tables_of_several_sweeps_count_together(squares):
    means, more = lab.sweep(mean_of_digits, seed=[0, 1]), lab.sweep(square, n=[3, 4])
    made = lab.summary([squares[squares["n"] > 1], means, squares[squares["n"] == 1], more])
    assert made["task"] == ["mean_of_digits", "square"]
    assert made["data"] == ["digits (embedded in scikit-learn)"]
    assert (made["runs"], made["seeds"]) == (6 + 2 + 1, 2)  # n = 3 without offset is in both sweeps
    assert runs(pd.concat([squares, more])) == 7


def test_values_are_found_as_a_table_gives_them_back():
    table = lab.sweep(listed, sizes=[[1, 2], [3]], exact=[True, 1, None], rate=[None, 0.5])
    assert runs(table) == 12
    assert runs(table[table["rate"].isna()]) == 6
    assert runs(table[[value is True for value in table["exact"]]]) == 4


def test_two_sweeps_with_the_same_summary_are_two():
    one, other = lab.sweep(square, n=[1, 2]), lab.sweep(square, n=[3, 4])
    assert lab.summary(one) == lab.summary(other) and runs([one, other]) == 4


def test_rows_that_no_sweep_made_are_refused(squares):
    for strange in (
        squares.drop(columns="square"),  # which task?
        squares.drop(columns="offset"),
        squares.rename(columns={"n": "number"}),
        squares.assign(n=squares["n"] + 10),
        pd.DataFrame({"n": [1]}),
    ):
        with pytest.raises(ValueError, match=r"belong to no sweep of this session: pass the table that lab\.sweep"):
            lab.describe(strange)
        assert not lab.is_swept(strange)
    with pytest.raises(ValueError, match="or a list of such tables"):
        lab.describe([])
    assert lab.is_swept(squares)


def test_the_task_with_the_most_columns_is_meant_and_two_alike_are_refused():
    def small(n):
        return {"square": n * n}

    def large(n, seed):
        return {"square": n * n, "more": seed}

    def twin(n):
        return {"square": -n * n}

    tasks = [lab.Task(function) for function in (small, large, twin)]
    table = lab.sweep(tasks[1], n=[1, 2], seed=[0])
    both = lab.sweep(tasks[0], n=[1, 2])
    assert lab.summary(table)["task"] == ["large"] and lab.summary(both)["task"] == ["small"]
    lab.sweep(tasks[2], n=[1, 2])
    with pytest.raises(ValueError, match="fit the tasks small and twin alike"):
        lab.describe(both)
    assert lab.summary(table)["task"] == ["large"]


def test_a_task_that_was_defined_anew_is_the_one_that_counts():
    def grown(n):
        return {"x": n}

    old = lab.sweep(lab.Task(grown), n=[1])

    def grown(n, seed):
        return {"x": n}

    new = lab.sweep(lab.Task(grown, version=2), n=[1, 2], seed=[5])
    assert lab.summary(new)["seeds"] == 1 and runs(new) == 2
    assert not lab.is_swept(old)

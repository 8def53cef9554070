"""The runner: failures stay in their notebook and are named; nothing unfinished looks finished."""

import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from spatialkit import __main__, data, lab
from spatialkit.commands import report
from spatialkit.commands.checks import pytest_part, table_differs
from spatialkit.commands.execute import Outcome, failed_path, part_path, read_outcome
from spatialkit.commands.plan import Plan, choose_profile, environment, environment_of, records_of, select
from spatialkit.commands.render import counts_are_in_order, normalise, render
from spatialkit.commands.runner import alone, figures, remove_leftovers
from spatialkit.lab import places
from spatialkit.lab.store import Store

PARAMETERS = {"tags": ["parameters"]}


@pytest.fixture
def base(tmp_path):
    """A bundle with an empty folder of notebooks."""
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def write(base, name, *sources):
    """A notebook with a parameters cell (`profile`) and these code cells."""
    cells = [new_markdown_cell("# A notebook"), new_code_cell("profile = 'laptop'", metadata=PARAMETERS)]
    cells += [new_code_cell(source) for source in sources]
    path = base / "notebooks" / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def output(base, name, profile="smoke"):
    return base / "build" / profile / "notebooks" / f"{name}.ipynb"


# One run with four fates: a notebook that passes, one that raises, one whose kernel is killed, and number 00.


@pytest.fixture(scope="module")
def four_fates(tmp_path_factory):
    base = tmp_path_factory.mktemp("bundle")
    (base / "notebooks").mkdir()
    where = "import os, pathlib; out = pathlib.Path(os.environ['SPATIALKIT_OUT'])"
    save = "(out / 'figures').mkdir(exist_ok=True); (out / 'figures/a.csv').write_text(profile)"
    write(base, "00_start", f"{where}; print(sorted(path.name for path in (out / 'figures').iterdir()))")
    write(base, "01_good", f"{where}; {save}", "os.environ['OMP_NUM_THREADS'], pathlib.Path.cwd().name")
    write(base, "02_bad", "print('before')", "raise ValueError('no such thing')", "print('after')")
    write(base, "03_killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    command = [sys.executable, "-m", "spatialkit", "figures", "--profile", "smoke", "--base", str(base)]
    done = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, env=environment())
    return base, done


def test_first_line_names_profile_reason_and_duration(four_fates):
    first = four_fates[1].stdout.splitlines()[0]
    assert first.startswith("profile smoke (as asked): 4 notebooks, ") and "minute" in first
    assert first.endswith(f"; processor {lab.bfloat16_words()}")


def test_failures_give_a_summary_and_a_nonzero_exit(four_fates):
    done = four_fates[1]
    assert done.returncode == 1
    rows = {line.split()[0]: line.split() for line in done.stdout.partition("\nnotebook")[2].splitlines()[1:5]}
    assert [rows[name][1] for name in ("00_start", "01_good", "02_bad", "03_killed")] == [
        "passed",
        "passed",
        "failed",
        "failed",
    ]
    assert rows["02_bad"][3:] == ["3", "ValueError:", "no", "such", "thing"]
    assert rows["03_killed"][3:] == ["2", "the", "kernel", "died"]


def test_traceback_is_in_the_log_and_later_cells_did_not_run(four_fates):
    log = (four_fates[0] / "build/smoke/logs/02_bad.log").read_text("utf-8")
    assert "before" in log and "Traceback" in log and "no such thing" in log and "after" not in log


def test_only_what_passed_has_its_final_name(four_fates):
    files = {path.name for path in output(four_fates[0], "x").parent.iterdir()}
    assert files == {"00_start.ipynb", "01_good.ipynb", "02_bad.failed.ipynb", "03_killed.failed.ipynb"}


def test_notebooks_get_profile_folder_and_one_thread(four_fates):
    base = four_fates[0]
    assert (base / "build/smoke/figures/a.csv").read_text() == "smoke"
    assert "('1', 'notebooks')" in output(base, "01_good").read_text("utf-8")


def test_number_00_runs_last(four_fates):
    assert "['a.csv']" in output(four_fates[0], "00_start").read_text("utf-8")


def test_smoke_writes_nothing_outside_build_and_lists_what_it_wrote(four_fates):
    base, done = four_fates
    assert {path.name for path in base.iterdir()} == {"notebooks", "build"}
    assert "wrote 1 file under build/smoke" in done.stdout and "figures/a.csv" in done.stdout


# Which notebooks, which profile, which environment.


def test_select_orders_and_refuses_unknown_numbers(base):
    for name in ("00_start", "02_b", "01_a", "notes"):
        write(base, name)
    assert [path.stem for path in select(base)] == ["01_a", "02_b", "00_start"]
    assert [path.stem for path in select(base, ("2",))] == ["02_b"]
    with pytest.raises(ValueError, match="no notebook numbered 09; there are: 00, 01, 02"):
        select(base, ("09",))


def test_a_second_notebook_of_one_number_has_a_letter(base):
    for name in ("02_a", "12_a", "12b_c", "120_d"):
        write(base, name)
    assert [path.stem for path in select(base, ("12",))] == ["12_a", "12b_c"]
    assert [path.stem for path in select(base, ("12b",))] == ["12b_c"]
    assert [path.stem for path in select(base)] == ["02_a", "12_a", "12b_c"]
    assert __main__._numbers("2,12B 12") == ("02", "12", "12b")
    with pytest.raises(ValueError, match="no notebook numbered 02b; there are: 02, 12, 12b"):
        select(base, ("2b",))


TASK = "@lab.task(version={version})\ndef task(\n    n,\n):\n    return n"


MADE = {"code": "0" * 12, "commit": "unknown", "date": "2026", "data": {}, "device": "CPU"}


def keep(base, task="task", version=1, profile="laptop", data=()):
    made = MADE | {"profile": profile, "seconds": 1.0, "data": {f"{name}/train": {} for name in data}}
    Store(base / "results", task).add(
        [{"task": task, "version": version, "config": {"n": 1}, "rows": [], "made": made}]
    )


@pytest.mark.parametrize(
    ("states", "profile", "reason"),
    [
        ({}, "laptop", "are here"),
        ({"cifar10": "downloadable"}, "laptop", "can be downloaded"),
        ({"cifar10": "missing"}, "smoke", "cifar10 neither"),
    ],
)
def test_without_results_the_profile_follows_from_the_data(monkeypatch, base, states, profile, reason):
    write(base, "01_a", TASK.format(version=1))
    monkeypatch.setattr(data, "available", lambda name: states.get(name, "here"))
    chosen, why = choose_profile(base)
    assert chosen == profile and reason in why


def test_committed_results_suffice_whatever_data_are_here(monkeypatch, base):
    monkeypatch.setattr(data, "available", lambda name: "missing")
    write(base, "01_a", TASK.format(version=2))
    keep(base, version=1, data=["mnist"])
    assert choose_profile(base)[0] == "smoke"  # an older version of the task made them
    keep(base, version=2, profile="paper", data=["mnist"])
    assert choose_profile(base)[0] == "smoke"
    keep(base, version=2, data=["mnist"])
    assert choose_profile(base) == ("laptop", "the committed results suffice")
    write(base, "02_b", TASK.format(version=1).replace("task(\n", "other(\n"))
    assert choose_profile(base)[0] == "smoke" and choose_profile(base, ("01",))[0] == "laptop"


def test_only_a_run_that_computes_asks_for_data_and_for_no_others(monkeypatch, base):
    monkeypatch.setattr(data, "available", lambda name: "here" if name == "mnist" else "missing")
    write(base, "01_a", TASK.format(version=1))
    keep(base, data=["cifar10"])
    with pytest.raises(ValueError, match=r"takes cifar10: set SPATIALKIT_DATA .* or run once with network access"):
        choose_profile(base, fresh=True)
    keep(base, data=["mnist"])
    assert choose_profile(base, fresh=True) == ("laptop", "the data sets are here")


def test_notebooks_run_side_by_side_where_they_only_read(base):
    write(base, "01_a", TASK.format(version=1))
    write(base, "02_b")
    assert Plan("laptop", base=base, jobs=4).width == 1 and Plan("smoke", base=base, jobs=4).width == 2
    keep(base)
    assert Plan("laptop", base=base, jobs=4).width == 2 and Plan("laptop", base=base, jobs=4, fresh=True).width == 1
    assert environment_of(Plan("laptop", base=base, jobs=4))["SPATIALKIT_JOBS"] == "2"


def test_the_committed_results_suffice_here():
    assert choose_profile(places.root()) == ("laptop", "the committed results suffice")


def test_a_folder_that_cannot_be_written_is_named_before_any_work(base, capsys):
    write(base, "01_a")
    (base / "figures").write_text("a file where the folder should be", "utf-8")
    assert __main__.main(["figures", "--profile", "laptop", "--base", str(base)]) == 2
    said = capsys.readouterr().err
    assert f"cannot write in {base / 'figures'} (File exists)" in said and "git clone" in said
    assert not (base / "build/laptop/notebooks").exists()


@pytest.mark.parametrize("command", ["figures", "test", "render", "reproduce"])
def test_every_command_that_writes_says_that_it_cannot(base, capsys, command):
    write(base, "01_a")
    (base / "figures").mkdir()
    (base / "figures/scorecard.csv").write_text("claim,what,dataset,verdict\n", "utf-8")
    (base / "build").write_text("a file where the folder should be", "utf-8")
    assert __main__.main([command, "--base", str(base)]) == 2
    assert f"{command}: cannot write in {base / 'build'}" in capsys.readouterr().err


def test_what_a_killed_write_left_is_removed_by_the_next_run(base):
    (base / "results").mkdir()
    old, new, other = (base / "results" / name for name in (".a.jsonl.x1.part", ".a.jsonl.x2.part", "a.jsonl"))
    for path in (old, new, other):
        path.write_text("half", "utf-8")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    remove_leftovers(base)
    assert {path.name for path in (base / "results").iterdir()} == {new.name, other.name}


def test_environment_is_absolute_single_threaded_and_keeps_inline_figures(monkeypatch, base):
    monkeypatch.setenv("SPATIALKIT_DATA", "somewhere")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("SPATIALKIT_FRESH", "left over")
    env = environment_of(Plan("laptop", base=base, jobs=3))
    assert os.path.isabs(env["SPATIALKIT_DATA"]) and env["OMP_NUM_THREADS"] == "1"
    assert not {"MPLBACKEND", "SPATIALKIT_FRESH"} & set(env)
    assert env["SPATIALKIT_OUT"] == str(base) and env["SPATIALKIT_JOBS"] == "3"


def test_smoke_runs_sweeps_in_one_process_and_writes_apart(base):
    env = environment_of(Plan("smoke", base=base, jobs=3))
    assert env["SPATIALKIT_OUT"] == str(base / "build" / "smoke") and env["SPATIALKIT_JOBS"] == "1"


def test_out_is_never_the_evidence_unless_named(monkeypatch, tmp_path):
    monkeypatch.delenv("SPATIALKIT_OUT", raising=False)
    assert places.out() == places.root() / "build" / "own"
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path))
    assert places.out() == tmp_path.resolve() and places.evidence() == places.root()


# Fresh runs: a killed one goes on, a finished one forgets its start.


def test_fresh_run_keeps_its_start_until_everything_passed(base, capsys):
    write(base, "01_a", "import os; assert os.path.exists('../allowed'), 'not yet'")
    plan = Plan("laptop", fresh=True, base=base, jobs=1)
    since = environment_of(plan)["SPATIALKIT_FRESH"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", since)
    assert figures(plan) == 1 and plan.marker.read_text() == since
    (base / "allowed").touch()
    assert figures(plan) == 0 and not plan.marker.exists()


def test_duration_is_told_from_committed_records(base):
    write(base, "01_a", TASK.format(version=1))
    laptop, paper = ({"profile": "laptop", "seconds": 1800.0}, {"profile": "paper", "seconds": 9e9})
    made = [MADE | one for one in (*[laptop] * 4, paper)]
    for name in ("task", "another"):
        records = [{"task": name, "version": 1, "config": {"n": n}, "rows": [], "made": m} for n, m in enumerate(made)]
        Store(base / "results", name).add(records)
    records = records_of(base, "laptop", select(base))
    assert len(records) == 4
    plan = Plan("laptop", base=base, jobs=2)
    assert report.duration_words(records, plan, 1).startswith("seconds to minutes from committed results")
    fresh = Plan("laptop", base=base, jobs=2, fresh=True)
    assert report.duration_words(records, fresh, 1).startswith("about 60 minutes with 2 jobs")
    assert report.duration_words([], plan, 1).startswith("how long is not known")


def test_two_runs_of_one_kind_do_not_mix(base):
    write(base, "01_a")
    words = ["figures", "--profile", "smoke", "--base", str(base)]
    with alone(base, "smoke"):
        done = subprocess.run([sys.executable, "-m", "spatialkit", *words], capture_output=True, text=True)
    assert done.returncode == 2 and "another run of smoke is under way" in done.stderr


# What became of a notebook, from files alone.


def test_process_killed_before_the_first_cell(tmp_path):
    outcome = read_outcome(tmp_path / "01_a.ipynb", -9, 1.0)
    assert (outcome.status, outcome.error) == ("failed", "process ended by signal 9 before the first cell")


@pytest.mark.parametrize("text", ["", '{"cells": [', '{"cells": []}'])
def test_half_written_notebook_is_failed_and_moved_aside(tmp_path, text):
    path = tmp_path / "01_a.ipynb"
    part_path(path).write_text(text)
    assert read_outcome(path, -9, 1.0) == Outcome("01_a", "failed", 1.0, error="process ended by signal 9")
    assert [one.name for one in tmp_path.iterdir()] == [failed_path(path).name]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_killed_run_leaves_no_finished_notebook_and_ends_its_kernel(base, tmp_path_factory, how):
    temporary = tmp_path_factory.mktemp("t")
    write(
        base,
        "01_slow",
        "import os, pathlib, time; pathlib.Path('../pid').write_text(f'{os.getpid()} {os.getppid()}')",
        "time.sleep(600)",
    )
    command = [sys.executable, "-m", "spatialkit", "figures", "--profile", "smoke", "--base", str(base)]
    env = environment() | {"TMPDIR": str(temporary)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _until(lambda: (base / "pid").exists() and (base / "pid").read_text("utf-8"))
    process.send_signal(how)
    assert process.wait(30) != 0
    assert not output(base, "01_slow").exists()
    kernel, notebook = map(int, (base / "pid").read_text("utf-8").split())
    _until(lambda: not _alive(notebook) and not _alive(kernel), seconds=10)
    write(base, "01_slow", "1")
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    assert not [path for path in temporary.rglob("*") if path.is_file() or path.is_socket()]


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # a zombie in a container without an init process has ended too
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Rendering in place.


def test_render_is_stable_to_the_byte_and_leaves_failures_alone(base, capsys):
    good = write(base, "01_good", "import sys; print('noise', file=sys.stderr); print(profile)")
    bad = write(base, "02_bad", "1 / 0")
    original = bad.read_bytes()
    assert render(base, jobs=2) == 1
    once = good.read_bytes()
    assert render(base, ("01",), jobs=1) == 0
    assert good.read_bytes() == once and bad.read_bytes() == original
    cells = nbformat.read(good, as_version=4).cells
    assert counts_are_in_order(cells) and [out["text"] for out in cells[2].outputs] == ["laptop\n"]
    assert b"papermill" not in once and not list((base / "notebooks").glob("*.part"))
    assert "0 changed, 1 unchanged, 0 failed" in capsys.readouterr().out


def test_normalise_keeps_results_and_drops_what_churns():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "random"}, "text/plain": "slider"}
    cell = new_code_cell("x", execution_count=1, metadata={"tags": [], "execution": {"started": "now"}})
    cell.outputs = [nbformat.v4.new_output("display_data", view)]
    notebook = new_notebook(
        cells=[cell],
        metadata={"papermill": {}, "widgets": {}, "language_info": {"name": "python", "version": "3"}},
    )
    normal = normalise(notebook)
    assert normal.cells[0].outputs[0].data == {"text/plain": "slider"}
    assert normal.cells[0].id == cell.id and normal.cells[0].metadata == {}
    assert set(normal.metadata) == {"kernelspec", "language_info"} and normal.metadata.language_info == {
        "name": "python"
    }


@pytest.mark.parametrize(("counts", "right"), [([1, 2], True), ([], True), ([2, 1], False), ([1, None], False)])
def test_counts_in_order(counts, right):
    cells = [new_code_cell("x", execution_count=one) for one in counts]
    assert counts_are_in_order([new_markdown_cell("y"), *cells]) == right


# The commands around it.


def test_pytest_part_counts_and_notices_a_broken_run(base):
    (base / "test_a.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n")
    (base / "test_c.py").write_text("import nothing_of_this_name\n")
    both = pytest_part("both", ["-p", "no:cacheprovider", "test_a.py"], base)
    assert (both.passed, both.failed) == (1, 1)
    assert pytest_part("broken", ["test_c.py"], base).failed == 1
    assert pytest_part("absent", ["no_such_file.py"], base).failed == 1


@pytest.mark.parametrize("words", [["figures", "--only", "77"], ["render", "--only", "77"]])
def test_unknown_number_is_an_error_of_one_line(base, capsys, words):
    assert __main__.main([*words, "--base", str(base), *(["--profile", "smoke"] if "figures" in words else [])]) == 2
    assert capsys.readouterr().err.strip().endswith("no notebook numbered 77; there are: none")


def test_doctor_never_fails_and_names_what_is_missing(base, capsys, monkeypatch):
    monkeypatch.setattr(data, "available", lambda name: "missing")
    assert __main__.main(["doctor", "--base", str(base)]) == 0
    said = capsys.readouterr().out
    assert "missing  mnist" in said and "SPATIALKIT_DATA" in said and "torch" in said


def test_doctor_and_help_need_no_torch(base):
    (base / "torch.py").write_text("raise ImportError('no torch here')")
    env = environment() | {"PYTHONPATH": f"{base}{os.pathsep}{environment()['PYTHONPATH']}"}
    for words, says in (
        (["doctor", "--base", str(base)], "missing  torch             no torch here; get it with"),
        (["--help"], "usage"),
    ):
        done = subprocess.run([sys.executable, "-m", "spatialkit", *words], capture_output=True, text=True, env=env)
        assert done.returncode == 0 and says in done.stdout, done.stderr


def test_a_figure_is_bound_to_its_table(tmp_path):
    fresh, committed = tmp_path / "a.csv", tmp_path / "b.csv"
    fresh.write_text("x,y\n1,0.3333333\n")
    assert "not committed" in table_differs(fresh, committed)
    committed.write_text("x,y\n1,0.3333334\n")
    assert table_differs(fresh, committed) == ""
    committed.write_text("x,y\n1,0.3334\n")
    assert "b.csv differs" in table_differs(fresh, committed)


def test_commands_lend_a_home_to_a_user_without_one(base, capsys, monkeypatch):
    def no_entry(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    write(base, "01_a")
    assert __main__.main(["figures", "--profile", "smoke", "--base", str(base)]) == 0
    assert f"using {base / 'build/home'} as home" in capsys.readouterr().err
    assert os.environ["HOME"] == str(base / "build/home")

"""All parts of the tests run, and one failure in any of them fails the whole."""

import shutil

import pytest

from spatialkit.commands import checks
from spatialkit.commands.checks import Part
from spatialkit.lab import places

PARTS = ("_unit_tests", "_smoke", "_stored_outputs", "_tables_behind_figures", "_style_and_types", "_coverage")


@pytest.mark.parametrize("broken", [None, *PARTS])
def test_one_failure_in_any_part_fails_the_whole(tmp_path, monkeypatch, capsys, broken):
    ran = []
    for name in PARTS:

        def part(*_, name=name):
            ran.append(name)
            return Part(name, 2, 1 if name == broken else 0)

        part.__name__ = name
        monkeypatch.setattr(checks, name, part)
    assert checks.check_all(tmp_path, 1) == (1 if broken else 0)
    assert sorted(ran) == sorted(PARTS)
    assert capsys.readouterr().out.splitlines()[-1] == f"12 passed, {1 if broken else 0} failed"


# A bundle of one function, with the project's own settings.


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A bundle whose package has four lines."""
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START", "PYTHONPATH"):  # nobody measures from outside
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "spatialkit").mkdir()
    shutil.copy(places.root() / "pyproject.toml", tmp_path)
    source = "def half(x: float) -> float:\n    if x < 0:\n        return -half(-x)\n    return x / 2\n"
    (tmp_path / "spatialkit" / "__init__.py").write_text(source)
    return tmp_path


def test_coverage_counts_lines_in_workers_and_in_what_they_start(tiny, capsys):
    """One test runs three lines, another the last, in a process and a folder of its own."""
    (tiny / "tests").mkdir()
    (tiny / "tests" / "test_half.py").write_text(
        "import subprocess, sys\n\nimport spatialkit\n\n\n"
        "def test_here():\n    assert spatialkit.half(2) == 1\n\n\n"
        "def test_in_a_process_elsewhere(tmp_path):\n"
        "    code = 'import sys; sys.path[0] = sys.argv[1]; import spatialkit; assert spatialkit.half(-2) == -1'\n"
        f"    subprocess.run([sys.executable, '-c', code, {str(tiny)!r}], cwd=tmp_path, check=True)\n"
    )
    assert checks.pytest_part("unit tests", ["tests", "-p", "xdist", "-n", "2"], tiny, covered=True).passed == 2
    assert checks._coverage(tiny, 1) == Part("coverage", 1, 0, "100.0 % of the package's lines")
    with (tiny / "spatialkit" / "__init__.py").open("a") as stream:
        stream.write("\n\ndef never():\n    return half(7)\n")
    assert checks._coverage(tiny, 1).failed == 1 and "66.7%" in capsys.readouterr().out  # 4 of 6 lines


def test_tests_whose_lines_nobody_noted_are_no_coverage(tiny):
    assert checks._coverage(tiny, 1).failed == 1


@pytest.mark.parametrize(
    ("more", "failed"), [("", 0), ('\n\nimport os\n\ny: int  =  half(1) + "a"\n', 3)], ids=["clean", "all three"]
)
def test_complaints_on_style_layout_and_types_are_failures(tiny, more, failed):
    with (tiny / "spatialkit" / "__init__.py").open("a") as stream:
        stream.write(more)
    part = checks._style_and_types(tiny, 1)
    assert (part.passed, part.failed) == (3 - failed, failed)

"""All parts of the tests run, and one failure in any of them fails the whole."""

import shutil

import pytest

from spatialkit.commands import checks
from spatialkit.commands.checks import Part
from spatialkit.lab import places, settings

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
def tiny(tmp_path):
    """The package has four lines, of which a test in this process runs three, and a process of its own the last."""
    for folder in ("spatialkit", "tests", "build/test"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(places.root() / "pyproject.toml", tmp_path)
    source = "def half(x: float) -> float:\n    if x < 0:\n        return -half(-x)\n    return x / 2\n"
    (tmp_path / "spatialkit" / "__init__.py").write_text(source)
    return tmp_path


@pytest.fixture
def env():
    """Of a run that nobody measures from outside."""
    return settings.environment(["COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START", "PYTHONPATH"])


HERE = "import spatialkit\n\ndef test_half():\n    assert spatialkit.half(2) == 1\n"
ELSEWHERE = (
    "import subprocess, sys\n\ndef test_minus(tmp_path):\n"
    "    code = 'import sys; sys.path[0] = sys.argv[1]; import spatialkit; assert spatialkit.half(-2) == -1'\n"
    "    subprocess.run([sys.executable, '-c', code, {root!r}], cwd=tmp_path, check=True)\n"
)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "workers"])
def test_coverage_counts_lines_in_workers_and_in_what_they_start(tiny, env, monkeypatch, workers, capsys):
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)
    (tiny / "tests" / "test_here.py").write_text(HERE)
    assert checks.pytest_part("unit tests", ["tests", *workers], tiny, env, covered=True) == Part("unit tests", 1, 0)
    part = checks._coverage(tiny, 1)
    assert (part.passed, part.failed) == (0, 1) and "75.0%" in capsys.readouterr().out  # under the floor
    (tiny / "tests" / "test_elsewhere.py").write_text(ELSEWHERE.format(root=str(tiny)))
    assert checks.pytest_part("unit tests", ["tests", *workers], tiny, env, covered=True).passed == 2
    assert checks._coverage(tiny, 1) == Part("coverage", 1, 0, "100.0 % of the package's lines")


def test_unmeasured_tests_are_no_coverage(tiny):
    assert checks._coverage(tiny, 1).failed == 1


@pytest.mark.parametrize(
    ("source", "failed"),
    [
        pytest.param("", 0, id="clean"),
        pytest.param('\n\ny: int = half(1) + "a"\n', 1, id="type"),
        pytest.param("\n\nimport os\n", 1, id="style"),
        pytest.param("\n\ny  =  half(1)\n", 1, id="layout"),
    ],
)
def test_complaints_on_types_and_style_are_failures(tiny, source, failed):
    path = tiny / "spatialkit" / "__init__.py"
    path.write_text(path.read_text() + source)
    part = checks._style_and_types(tiny, 1)
    assert (part.passed, part.failed) == (3 - failed, failed)

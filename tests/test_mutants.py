"""The list of mutants stays true to the code and to the tests that it names."""

import ast
import subprocess
import sys

import pytest

from tests import mutants
from tests.mutants import ROOT, Mutant, catalogue, fate


@pytest.mark.parametrize("name", catalogue())
def test_its_old_text_stands_once_and_its_test_exists(name):
    mutant = catalogue()[name]
    text = (ROOT / mutant.file).read_text("utf-8")
    assert ast.dump(ast.parse(mutant.applied(text))) != ast.dump(ast.parse(text))
    file, _, function = mutant.test.partition("::")
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert function.partition("[")[0] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_are_at_least_forty():
    assert len(catalogue()) >= 40


@pytest.fixture
def tiny(tmp_path):
    """A bundle whose package is one function with one test."""
    for folder in ("spatialkit", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "spatialkit" / "__init__.py").write_text("def one():\n    return 1  # not two\n")
    (tmp_path / "tests" / "test_one.py").write_text(
        "import spatialkit\n\ndef test():\n    assert spatialkit.one() == 1\n"
    )
    return tmp_path


def test_killed_survived_and_neither_are_told_apart(tiny):
    code = (
        "import pathlib, sys\nfrom tests.mutants import Mutant, fate\n"
        "for old, new, test in (('1', '2', 'test'), ('not two', 'nor three', 'test'), ('1', '2', 'gone')):\n"
        "    mutant = Mutant('m', 'spatialkit/__init__.py', old, new, f'tests/test_one.py::{test}')\n"
        "    print(fate(mutant, pathlib.Path(sys.argv[1])))\n"
    )
    before = (tiny / "spatialkit" / "__init__.py").read_text()
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], cwd=ROOT, check=True, capture_output=True, text=True)
    killed, survived, neither = done.stdout.splitlines()
    assert (killed, survived) == ("killed", "survived") and neither.startswith("no result, pytest ended with 4: ")
    assert (tiny / "spatialkit" / "__init__.py").read_text() == before


def test_a_text_that_does_not_stand_once_is_refused(tiny):
    with pytest.raises(ValueError, match=r"m: its old text stands 0 times in spatialkit/__init__\.py; write it anew"):
        fate(Mutant("m", "spatialkit/__init__.py", "return 7", "return 2", "tests/test_one.py::test"), tiny)


def test_an_unknown_name_is_told(capsys):
    assert mutants.main(["nobody"]) == 2 and "no mutant nobody; there are: " in capsys.readouterr().out

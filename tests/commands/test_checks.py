"""All parts of the tests run, and one failure in any of them fails the whole."""

import pytest

from spatialkit.commands import checks
from spatialkit.commands.checks import Part

PARTS = ("_unit_tests", "_smoke", "_stored_outputs", "_tables_behind_figures", "_style")


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
    assert capsys.readouterr().out.splitlines()[-1] == f"10 passed, {1 if broken else 0} failed"

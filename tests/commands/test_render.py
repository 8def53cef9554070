"""A rerun notebook is put in place only where nothing is lost by it."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from spatialkit.commands.render import _put_in_place


@pytest.fixture
def pair(tmp_path):
    """A committed notebook, and how it was executed with these counts."""
    source, executed = tmp_path / "01_a.ipynb", tmp_path / "executed.ipynb"

    def make(*counts):
        nbformat.write(new_notebook(cells=[new_code_cell("x", id=f"c{i}") for i in range(len(counts))]), source)
        cells = [new_code_cell("x", id=f"c{i}", execution_count=count) for i, count in enumerate(counts)]
        nbformat.write(new_notebook(cells=cells), executed)
        return executed, source

    return make


def test_a_rerun_notebook_is_put_in_place_once(pair):
    executed, source = pair(1, 2)
    assert _put_in_place(executed, source, source.read_bytes()) is True
    assert [cell.execution_count for cell in nbformat.read(source, as_version=4).cells] == [1, 2]
    assert _put_in_place(executed, source, source.read_bytes()) is False


def test_an_edited_notebook_is_not_overwritten(pair):
    executed, source = pair(1, 2)
    before = source.read_bytes()
    source.write_bytes(before.replace(b'"x"', b'"y"'))
    edited = source.read_bytes()
    with pytest.raises(ValueError, match="edited while it ran"):
        _put_in_place(executed, source, before)
    assert source.read_bytes() == edited


@pytest.mark.parametrize("counts", [(2, 1), (1, 3), (1, None)])
def test_cells_that_ran_in_another_order_are_refused(pair, counts):
    executed, source = pair(*counts)
    before = source.read_bytes()
    with pytest.raises(ValueError, match=r"execution counts are not 1, 2, \.\.\., n"):
        _put_in_place(executed, source, before)
    assert source.read_bytes() == before

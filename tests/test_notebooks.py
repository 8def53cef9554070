"""Every committed notebook was executed from top to bottom, can be rerun, and is fit to be read."""

import ast
import re

import nbformat
import pytest

from spatialkit.commands.render import counts_are_in_order
from spatialkit.lab import places
from spatialkit.lab.audit import current_code

NOTEBOOKS = sorted((places.root() / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.:/])(/(home|Users|root|tmp|work|opt|mnt|var|usr)/\w|[A-Z]:\\\\?\w)")


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts_of_outputs(notebook):
    """Everything that the outputs say in words; pictures are no words."""
    for cell in code(notebook):
        for output in cell.outputs:
            yield from ([output["text"]] if "text" in output else [])
            yield from (str(text) for kind, text in output.get("data", {}).items() if "image/" not in kind)


def test_is_valid_and_small(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000


def test_name_has_a_number(path):
    assert re.fullmatch(r"\d\d[a-z]?_[a-z0-9_]+", path.stem)


def test_was_executed_from_top_to_bottom(notebook):
    assert counts_are_in_order(notebook.cells), "run `make render`"


def test_has_no_error(notebook):
    assert not [out for cell in code(notebook) for out in cell.outputs if out.output_type == "error"]


def test_has_one_parameters_cell_of_plain_literals(notebook):
    (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    values = {}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign), f"only assignments, not {ast.unparse(statement)!r}"
        (target,) = statement.targets
        values[target.id] = ast.literal_eval(statement.value)
    assert values["profile"] in ("smoke", "laptop", "paper")


def test_injected_parameters_are_not_committed(notebook):
    assert not [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]


def test_names_the_kernel_of_any_environment(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_holds_no_path_of_a_machine(notebook):
    texts = [cell.source for cell in notebook.cells] + list(texts_of_outputs(notebook))
    found = [match.group() for text in texts for match in MACHINE_PATH.finditer(text)]
    assert not found


def test_code_cells_are_short(notebook):
    long = [cell.source.splitlines()[0] for cell in code(notebook) if len(cell.source.splitlines()) > 40]
    assert not long


def test_prose_leads(notebook):
    """Beside the code that a reader sees: drawing code is folded."""
    prose = sum(cell.cell_type == "markdown" for cell in notebook.cells)
    seen = [cell for cell in code(notebook) if not cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert prose >= 0.8 * len(seen)


def test_a_task_that_two_notebooks_define_is_the_same_in_both():
    marks = {}
    for path in NOTEBOOKS:
        for task, mark in current_code(path).items():
            marks.setdefault(task, {})[path.stem] = mark
    differing = {task: sorted(where) for task, where in marks.items() if len(set(where.values())) > 1}
    assert not differing, "one name, one task: rename one, or make them equal"

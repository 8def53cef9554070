"""The pages of docs/: their code runs, their links lead somewhere, their tables fit the notebooks."""

import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from spatialkit.commands.plan import number_of, select
from spatialkit.lab import places

ROOT = places.root()
DOCS = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
HEADER = re.compile(r"# (?:in|new file) (\S+?)(?:, (above the line|below the line|at the end))?(?:: (.*))?\n")


def text_of(name):
    return (ROOT / "docs" / name).read_text("utf-8")


def blocks(text, language="python"):
    """Code of one language, without the indent of its fence."""
    found = ((indent, code) for indent, name, code in FENCE.findall(text) if name == language)
    return [re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


# Build on it: the changes are made in a copy of the bundle, and its scripts run there.


def change(base, block):
    """Carry out a block that names its file in its first line; False for one that is typed into a session."""
    header = HEADER.match(block)
    if header is None:
        return False
    file, place, line = base / header[1], header[2], header[3]
    code = block[header.end() :]
    if place is None:
        assert not file.exists(), f"{header[1]} is there already"
        file.write_text(code, "utf-8")
        return True
    before = file.read_text("utf-8")
    if place == "at the end":
        after = f"{before.rstrip()}\n\n{code}"
    else:
        assert before.count(f"\n{line}\n") == 1, f"{header[1]} has no line {line!r}, or several"
        pair = (f"{code}\n\n", f"{line}\n") if place == "above the line" else (f"{line}\n", code)
        after = before.replace(f"\n{line}\n", "\n" + "".join(pair))
    file.write_text(after, "utf-8")
    return True


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the bundle with every change of extend.md, its session and its notebook having run: folder, output."""
    base = tmp_path_factory.mktemp("extended")
    (base / "notebooks").mkdir()
    shutil.copy(ROOT / "pyproject.toml", base)
    shutil.copytree(ROOT / "spatialkit", base / "spatialkit", ignore=shutil.ignore_patterns("__pycache__"))
    text = text_of("extend.md")
    session = [block for block in blocks(text) if not change(base, block)]
    assert all(change(base, block) for block in blocks(text, "yaml"))
    (base / "session.py").write_text("\n".join(session), "utf-8")
    run = "import runpy; [runpy.run_path(p, run_name='__main__') for p in ('session.py', 'notebooks/17b_zeros.py')]"
    own = {"SPATIALKIT_DATA": "data", "SPATIALKIT_OUT": "out", "SPATIALKIT_JOBS": "1", "SPATIALKIT_OFFLINE": "1"}
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")
    }  # it is a copy that runs
    env = kept | own | {"PYTHONPATH": str(base), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-c", run], cwd=base, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return base, done.stdout


def test_the_examples_of_extend_print_what_the_page_says(extended):
    said = extended[1].splitlines()
    assert said[:2] == ["torch.Size([40, 1, 8, 8]) ('upright', 'level') own files", "-1.0"]
    assert "-1.0: across" in text_of("extend.md")


def test_the_measure_and_the_network_of_extend_work_together(extended):
    from spatialkit.claims import mean_of

    base, _ = extended
    records = [json.loads(line) for line in (base / "out/results/zeros_of_untrained.jsonl").open(encoding="utf-8")]
    assert len(records) == 10 and {record["config"]["network"] for record in records} == {"patches"}
    shares = [{row["layer"]: row["value"] for row in record["rows"]} for record in records]
    assert all(share["0"] == 0 and 0 < share["1"] < 1 for share in shares)  # a convolution has no zeros, a ReLU does
    card = pd.read_csv(base / "out/figures/scorecard.csv").set_index("claim")
    assert card.loc["xx.zeros", "verdict"] == "replicated"
    assert card.loc["xx.zeros", "ours"] == pytest.approx(mean_of([share["1"] for share in shares]).value, rel=1e-3)
    assert card.loc["xx.zeros", "command"] == "make figures ONLY=17b PROFILE=laptop"
    assert (base / "out/figures/xx.zeros.svg").is_file()


def test_the_notebook_of_extend_keeps_the_rules_of_notebooks(extended):
    import jupytext

    script = (extended[0] / "notebooks/17b_zeros.py").read_text("utf-8")
    notebook = jupytext.reads(script, "py:percent")
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells if cell.cell_type == "code"]
    assert tags.count(["parameters"]) == 1
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 0.8 * len(tags)


# Teaching: answers, times, and a place for every notebook.

QUESTIONS = re.split(r"^\*\*(\d+)\.\*\* ", text_of("teaching.md").partition("## Questions for an exam")[2], flags=re.M)
ANSWERS = dict(zip(QUESTIONS[1::2], QUESTIONS[2::2], strict=True))


@pytest.mark.parametrize("number", ANSWERS)
def test_an_answer_of_the_exam_agrees_with_the_committed_tables(number, monkeypatch):
    monkeypatch.chdir(ROOT)
    session = {}
    (head,), (check,) = blocks(QUESTIONS[0]), blocks(ANSWERS[number])
    assert "*Answer.*" in ANSWERS[number] and "assert" in check
    exec(head, session)
    exec(check, session)


def test_the_path_through_00_shows_what_it_says(capsys):
    page = text_of("teaching.md").partition("## Questions for an exam")[0]
    (block,) = blocks(page)
    exec(block, {})
    printed = (line.partition(" ") for line in capsys.readouterr().out.splitlines())
    left = {int(block): dict(zip((1, 4, 12, 24), json.loads(row), strict=True)) for block, _, row in printed}
    assert all(min(left[block], key=left[block].get) == block and left[block][block] < 0.1 for block in (12, 24))
    assert all(row[1] > 0.8 and row[4] > 0.7 for row in left.values()) and min(left[48].values()) > 0.5


def rows_of_notebooks():
    """Number -> cells of its row in the table of times."""
    table = text_of("teaching.md").partition("## Notebooks")[2].partition("## A student")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| ["]
    return {row[0][1:].split()[0]: row for row in rows}


@pytest.mark.parametrize("path", select(ROOT), ids=lambda path: path.stem)
def test_every_notebook_has_a_row_with_its_time_and_what_it_needs(path):
    assert number_of(path) in rows_of_notebooks(), "docs/teaching.md has no row for it"
    name, needs, read, compute, level = rows_of_notebooks()[number_of(path)]
    cells = json.loads(path.read_text("utf-8"))["cells"]
    sources = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    words = sum(len(text.split()) for text, kind in sources if kind == "markdown")
    lines = sum(bool(line.strip()) for text, kind in sources if kind == "code" for line in text.splitlines())
    assert abs(int(read) - words / 150 - lines / 15) < 10
    assert compute and level and path.name in name
    assert all(need < number_of(path) and need in rows_of_notebooks() for need in re.findall(r"\d\w+", needs))


def test_routes_name_notebooks_that_are_there():
    text = text_of("teaching.md")
    routes = text.partition("## Two hours")[2].partition("## Questions")[0]
    named = {number for line in routes.splitlines() if line[:1] == "|" for number in re.findall(r"\b[01]\d\b", line)}
    assert {"00", "01", "06", "11"} <= named <= set(rows_of_notebooks())


# All pages.

LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_links_of_a_page_lead_to_files(path):
    text = FENCE.sub("", path.read_text("utf-8"))
    targets = {target.partition("#")[0] for target in LINK.findall(text) if "://" not in target}
    assert not [target for target in targets if target and not (path.parent / target).exists()]


def test_readme_is_two_screens_with_up_to_three_figures():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 100 and 1 <= text.count("![") <= 3
    assert "make figures" in text and "make test" in text and "CITATION.cff" in text


def test_readme_and_scorecard_page_say_what_the_scorecard_says():
    from spatialkit.claims import markdown, summary_line

    assert summary_line() in (ROOT / "README.md").read_text("utf-8")
    page = text_of("scorecard.md")
    assert summary_line() in page and markdown("../figures", "../notebooks") in page

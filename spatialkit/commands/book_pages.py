"""Pages of the book that no file of the bundle has: the front page, a page per source, the gallery, the reference."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from spatialkit import claims
from spatialkit.claims.overview import bar
from spatialkit.commands.book_notebooks import captions, label, plain, recorded
from spatialkit.commands.plan import number_of
from spatialkit.lab import declared

__all__ = ["Contents", "contents", "pages"]

_INTRODUCTION = """# spatialkit

**How do convolutional networks hold, use and lose what the places of pixels tell?** This book is a reproducible bundle
of five works on that question: executed notebooks, every figure, and a scorecard that says of every claim whether it
held, misses included. From here any number's origin is three clicks away: the claim, the cell that measured it, the
records.

![One bar per claim, made of its parts, with a mark for its verdict](figures/scorecard.png)

- **Run it.** `make figures` executes every notebook from committed results: [how](docs/running.md).
- **Learn from it.** [Start here](notebooks/00_start_here.ipynb), or take a route of two hours or ten weeks:
  [teaching](docs/teaching.md).
- **Build on it.** A data set, a network, a measure, a claim, a notebook of yours: [worked through](docs/extend.md). All
  functions: [reference](api/index.md).

## The scorecard

"""


@dataclass(frozen=True)
class Contents:
    """What there is to tell.

    Attributes:
        base: Folder of the bundle.
        notebooks: Number -> file.
        tasks: Number -> names of the tasks of that notebook.
        captions: Figure -> caption.
        with_cells: Claims that a cell records.
        rows: The scorecard.
        verdicts: Claim -> verdict.
    """

    base: Path
    notebooks: Mapping[str, Path]
    tasks: Mapping[str, list[str]]
    captions: Mapping[str, str]
    with_cells: frozenset[str]
    rows: pd.DataFrame
    verdicts: Mapping[str, str]


def contents(base: Path, notebooks: Iterable[Path]) -> Contents:
    """Read the notebooks of a bundle."""
    import nbformat

    told: dict[str, str] = {}
    with_cells: set[str] = set()
    by_number = {number_of(path): path for path in notebooks}
    for path in by_number.values():
        notebook = nbformat.read(path, as_version=4)
        told |= captions(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                with_cells |= set(recorded(cell.source))
    tasks = {number: sorted(declared(path)) for number, path in by_number.items()}
    rows = claims.scorecard()
    return Contents(base, by_number, tasks, told, frozenset(with_cells), rows, claims.verdicts(rows))


def pages(book: Contents, documents: Iterable[str]) -> dict[str, str]:
    """Place in the book -> text, for all pages that are generated.

    Args:
        book: What there is to tell.
        documents: The pages of docs/, by their places in the book, to be listed on the front page.
    """
    sources = list(dict.fromkeys(entry["source"] for entry in claims.catalogue().values()))
    api = dict(_reference(book.base))
    lists = {
        "Notebooks": [f"notebooks/{path.name}" for path in book.notebooks.values()],
        "Claims": [f"claims/{source}.md" for source in sources],
        "Guides": list(documents),
        "Reference": ["gallery.md", "api/index.md"],
    }
    return {
        "index.md": _INTRODUCTION + _front_table(book) + "".join(_toctree(*entry) for entry in lists.items()),
        **{f"claims/{source}.md": _claims_page(book, source) for source in sources},
        "gallery.md": _gallery(book),
        **api,
    }


def _toctree(title: str, documents: list[str]) -> str:
    return "\n".join(["\n```{toctree}", ":hidden:", f":caption: {title}", "", *documents, "```", ""])


def _escaped(text: str) -> str:
    """Plain words as Markdown, also inside a table."""
    return re.sub(r"([\\`*_{}\[\]<>$|#~])", r"\\\1", " ".join(text.split()))


def _cell_of(book: Contents, claim: str, words: str) -> str:
    return f"[{words}](#{label('claim', claim)})" if claim in book.with_cells else words


def _front_table(book: Contents) -> str:
    """Totals, and a line per claim that was measured."""
    rows, found = book.rows, claims.findings()
    lines = [
        f"{claims.summary_line(rows)}. A claim leads to its parts and numbers; *cell* is where it is measured.\n",
        "| claim | what we found | verdict | parts | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for claim, part in rows[rows["verdict"] != "not run"].groupby("claim", sort=False):
        name = f"[{claim}](#{label('scorecard', claim)})"
        cells = [name, _escaped(found.get(claim, "")), f"**{book.verdicts[claim]}**", bar(part["verdict"])]
        lines.append("| " + " | ".join([*cells, _cell_of(book, claim, "cell")]) + " |")
    return "\n".join(lines) + "\n"


def _claims_page(book: Contents, source: str) -> str:
    """Every claim of a source: what it says, the rule, what was found, every number, and where it comes from."""
    ids = [claim for claim, entry in claims.catalogue().items() if entry["source"] == source]
    text = [f"# Claims of {source}", _escaped(claims.sources()[source])]
    for claim in ids:
        entry = claims.catalogue()[claim]
        text += [f"({label('scorecard', claim)})=", f"## {claim}: {book.verdicts[claim]}"]
        text += [f"**{_escaped(entry['artefact'])}.** {_escaped(entry['says'])}"]
        text += [f"**Rule.** {_escaped(entry['rule'])}"]
        text += _measured(book, claim) if book.verdicts[claim] != "not run" else ["Not run yet."]
    return "\n\n".join(text) + "\n"


def _measured(book: Contents, claim: str) -> list[str]:
    rows = book.rows[book.rows["claim"] == claim]
    figure = Path(rows.iloc[0]["figure"]).stem
    lines = ["| part | ours (95 %) | source | verdict | data | seeds |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows.to_dict("records"):
        interval = f" ({row['low']} to {row['high']})" if row["low"] else ""
        cells = (row["what"], row["ours"] + interval, row["paper"], row["verdict"], row["dataset"], row["seeds"])
        lines.append("| " + " | ".join(map(_escaped, cells)) + " |")
    found = claims.findings().get(claim, "")
    caption = book.captions.get(figure, "")
    return [
        f"**What we found.** {_escaped(found)}" if found else "",
        f"![{plain(f'Figure {figure}. {caption}')}](../figures/{figure}.png)",
        f"*{caption}*" if caption else "",
        "\n".join(lines),
        _origin(book, claim, figure, rows.iloc[0]),
    ]


def _origin(book: Contents, claim: str, figure: str, row) -> str:
    """Where the numbers of a claim come from: cell, table, records, command, and the standing of the code."""
    number = claims.catalogue()[claim]["notebook"]
    words = f"Measured in {_cell_of(book, claim, f'this cell of notebook {number}')} (`{row['command']}`)."
    if (book.base / "figures" / f"{figure}.csv").is_file():
        words += f" Table behind the figure: [{figure}.csv](../figures/{figure}.csv)."
    names = [f"{task}.jsonl" for task in book.tasks.get(number, [])]
    records = [name for name in names if (book.base / "results" / name).is_file()]
    if records:
        links = ", ".join(f"[{name}](../results/{name})" for name in records)
        words += f" Records of the notebook's runs, a line each with data, code and machine: {links}."
    return f"{words} Code of the records: {row['code']}."


def _gallery(book: Contents) -> str:
    """All figures with their captions."""
    text = ["# All figures", "Each leads to the place in its notebook where it is told."]
    for figure in sorted(path.stem for path in (book.base / "figures").glob("*.png")):
        caption = book.captions.get(figure, "")
        name = f"[{figure}](#{label('figure', figure)})" if caption else figure
        alt = plain(f"Figure {figure}. {caption}") if caption else "The scorecard: one bar per claim, made of its parts"
        kinds = [kind for kind in ("svg", "csv") if (book.base / "figures" / f"{figure}.{kind}").is_file()]
        links = ", ".join(f"[{kind}](figures/{figure}.{kind})" for kind in kinds)
        text += [f"## {figure}", f"![{alt}](figures/{figure}.png)", f"**{name}.** {caption} ({links})"]
    return "\n\n".join(text) + "\n"


def _reference(base: Path) -> Iterator[tuple[str, str]]:
    """The pages of the reference: the face, and one per room with its modules in full."""
    import spatialkit

    package = base / "spatialkit"
    rooms = [name for name in sorted(spatialkit.__all__) if (package / name / "__init__.py").is_file()]
    text = ["# Reference", "What people use most, at the top of `import spatialkit as sk`:"]
    for room in rooms:
        where = _defined(package / room / "__init__.py")
        own = [name for name in spatialkit.__all__ if where.get(name, "").startswith(f"spatialkit.{room}.")]
        text += [f"- {{py:obj}}`sk.{name} <{where[name]}.{name}>`" for name in own]
    text = [*text[:2], "\n".join(text[2:]), "```{toctree}\n" + "\n".join(rooms) + "\n```"]
    yield "api/index.md", "\n\n".join(text) + "\n"
    for room in rooms:
        modules = sorted(path.stem for path in (package / room).glob("*.py") if path.stem != "__init__")
        yield f"api/{room}.rst", _room_page(room, modules)


def _defined(init: Path) -> dict[str, str]:
    """Name -> module that a room imports it from."""
    froms = [node for node in ast.parse(init.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in froms for alias in node.names}


def _room_page(room: str, modules: list[str]) -> str:
    lines = [room, "=" * len(room), "", f".. automodule:: spatialkit.{room}", ""]
    for module in modules:
        name = f"{room}.{module}"
        lines += [name, "-" * len(name), "", f".. automodule:: spatialkit.{name}", "   :members:", ""]
    return "\n".join(lines)

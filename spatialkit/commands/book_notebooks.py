"""Notebooks as pages of the book: places to link to, drawing code folded, pictures with words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

__all__ = ["captions", "label", "plain", "prepared", "recorded"]

_CAPTION = re.compile(r"^\*Figure ([\w.]+?)\. (.+?)\*(?=\s|$)", re.MULTILINE | re.DOTALL)
_FIGURE = re.compile(r"\]\(\.\./figures/([\w.]+)\.png\)")  # as the table of the scorecard links to it
_FOLDED_FROM = 6  # lines
_DRAWS = ("plt.", "sns.", "def draw_", "axis.")
_SHOWN = ("lab.task", "claims.record", "import ")  # what a reader came for


def label(kind: str, name: str) -> str:
    """The name of a place: ``label("claim", "so.fig1")`` is ``claim-so-fig1``."""
    return f"{kind}-{_name(name)}"


def _name(name: str) -> str:
    """As Sphinx names the place of a heading."""
    return name.replace(".", "-").lower()


def plain(text: str) -> str:
    """Markdown as the words of one line."""
    return " ".join(re.sub(r"[*`$\\{}]|\[|\]\([^)]*\)", "", text).split())


def captions(notebook) -> dict[str, str]:
    """Name of a figure -> its caption, as the notebook's Markdown has it."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return {name: " ".join(caption.split()) for text in texts for name, caption in _CAPTION.findall(text)}


def recorded(source: str) -> list[str]:
    """The claims that a cell of code records, in order."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    records = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "record"]
    first = [call.args[0] for call in records if call.args]
    return [name.value for name in first if isinstance(name, ast.Constant) and isinstance(name.value, str)]


def prepared(path: Path):
    """A committed notebook for the book.

    The cell that records a claim can be linked to as ``label("claim", id)``, the caption of a figure as
    ``label("figure", name)``.

    Raises:
        ValueError: If the file is no notebook.
    """
    import nbformat
    from nbformat.v4 import new_markdown_cell

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path} is no notebook ({error}): make render writes it anew") from error
    cells = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = _CAPTION.sub(lambda m: f"\n({label('figure', m[1])})=\n{m[0]}", cell.source).lstrip("\n")
        elif cell.cell_type == "code":
            names = [label("claim", claim) for claim in recorded(cell.source)]
            cells += [new_markdown_cell(f"({name})=", id=name) for name in names]
            _fold(cell)
            _describe(cell, notebook.cells, number)
            _lead_to_gallery(cell)
        cells.append(cell)
    notebook.cells = cells
    return notebook


def _fold(cell) -> None:
    """Hide the code of a cell that only draws, behind a button."""
    draws = any(word in cell.source for word in _DRAWS) and not any(word in cell.source for word in _SHOWN)
    if draws and len(cell.source.splitlines()) >= _FOLDED_FROM:
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]


def _lead_to_gallery(cell) -> None:
    """Links of an output to the file of a figure become links to its place in the gallery."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/markdown" in data:
            found = data["text/markdown"]
            data["text/markdown"] = _FIGURE.sub(lambda m: f"](../gallery.html#{_name(m[1])})", found)


def _describe(cell, cells: list, number: int) -> None:
    """Give the pictures of a cell words: the caption right below, else the last paragraph before."""
    if not any("image/png" in output.get("data", {}) for output in cell.outputs):
        return
    after = next((_CAPTION.search(c.source) for c in cells[number + 1 : number + 2] if c.cell_type == "markdown"), None)
    before = [c.source for c in cells[:number] if c.cell_type == "markdown"]
    words = f"Figure {after[1]}. {after[2]}" if after else (before[-1].rpartition("\n\n")[2] if before else "A picture")
    cell.metadata["mystnb"] = {"image": {"alt": plain(words)}}

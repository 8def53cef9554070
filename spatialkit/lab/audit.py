"""Audit: which committed numbers were made by other code than the present one."""

import ast
import collections
import linecache
from pathlib import Path

import nbformat

from spatialkit import places
from spatialkit.lab.fingerprint import fingerprint
from spatialkit.lab.store import Store
from spatialkit.lab.tasks import Task

__all__ = ["current_code", "main", "stale"]


def current_code(notebook: Path) -> dict[str, tuple[int, str]]:
    """Task name -> (version, fingerprint) of every task that a notebook defines.

    Runs the notebook's imports and definitions, and nothing else.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    namespace: dict = {"__name__": f"notebook_{Path(notebook).stem[:2]}"}
    for number, cell in enumerate(c for c in cells if c.cell_type == "code"):
        name = f"<{notebook.name} cell {number}>"
        lines = cell.source.splitlines(keepends=True)
        linecache.cache[name] = (len(cell.source), None, lines, name)
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:  # a cell with %magic
            continue
        kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        tree.body = [statement for statement in tree.body if isinstance(statement, kept)]
        exec(compile(tree, name, "exec"), namespace)
    tasks = [value for value in namespace.values() if isinstance(value, Task)]
    return {task.name: (task.version, fingerprint(task.function)) for task in tasks}


def stale(root: Path | None = None) -> dict[str, str]:
    """Task name -> what is wrong with its committed records; empty when all are up to date."""
    root = root or places.evidence()
    codes: dict[str, tuple[int, str]] = {}
    for notebook in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        codes |= current_code(notebook)
    problems = {}
    for path in sorted((root / "results").glob("*.jsonl")):
        records = Store(path.parent, path.stem).read().values()
        if path.stem not in codes:
            problems[path.stem] = f"{len(records)} records, but no notebook defines this task"
            continue
        version, code = codes[path.stem]
        wrong = collections.Counter(
            "of another version" if r["version"] != version else "made by other code"
            for r in records
            if r["version"] != version or r["made"]["code"] != code
        )
        if wrong:
            problems[path.stem] = ", ".join(f"{n} of {len(records)} records {what}" for what, n in wrong.items())
    return problems


def main() -> int:
    """Print the problems, one task per line. Exit status 0 when there are none."""
    problems = stale()
    for task, what in problems.items():
        print(f"{task}: {what}")
    if not problems:
        print("every committed record was made by the present code")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())

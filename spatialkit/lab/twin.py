"""One side of a comparison: run tasks of a checked-out tree, one after another, on one thread.

`spatialkit.lab.verify` starts this file by its path with the tree as the only entry of PYTHONPATH. So it uses the
standard library, and of the tree's package only ``lab.audit.current_code`` and
``lab.fingerprint.fingerprint_of_module``, which every commit has. Asked by lines of JSON on stdin, it answers by lines
of JSON on stdout; what tasks print goes to stderr.
"""

import ast
import json
import linecache
import os
import sys
from pathlib import Path


def definitions(notebook: Path) -> dict:
    """What a notebook's imports and definitions bind; nothing else of it runs."""
    namespace: dict = {"__name__": f"notebook_{notebook.stem[:2]}"}
    for number, (source, tree) in enumerate(code_cells(notebook)):
        name = f"<{notebook.name} cell {number}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        tree.body = [statement for statement in tree.body if isinstance(statement, kept)]
        exec(compile(tree, name, "exec"), namespace)
    return namespace


def code_cells(notebook: Path) -> list[tuple[str, ast.Module]]:
    """Text and syntax tree of every code cell; the tree of a cell with %magic is empty."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [(text, _tree(text)) for text in texts]


def _tree(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def declared(notebook: Path) -> dict[str, int]:
    """Task name -> version of every task that a notebook defines, from its text alone: nothing is executed."""
    functions = [node for _, tree in code_cells(notebook) for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {
        function.name: version
        for function in functions
        for decorator in function.decorator_list
        if (version := _version(decorator)) is not None
    }


def _version(decorator: ast.expr) -> int | None:
    """The version that ``@sk.lab.task(version=1)``, or ``@lab.task``, gives; None if a decorator makes no task."""
    called, given = (decorator.func, decorator.keywords) if isinstance(decorator, ast.Call) else (decorator, [])
    if ast.unparse(called).split(".")[-1] != "task":
        return None
    return next((ast.literal_eval(word.value) for word in given if word.arg == "version"), 1)


def codes(tree: Path) -> dict:
    """Task -> [version, fingerprint, file name of its first notebook], by the tree's own function."""
    from spatialkit.lab.audit import current_code

    found: dict = {}
    for notebook in sorted((tree / "notebooks").glob("[0-9]*.ipynb")):
        for task, (version, code) in current_code(notebook).items():
            found.setdefault(task, [version, code, notebook.name])
    return found


def modules(names: list[str]) -> dict:
    """Module -> fingerprint, of those that the tree has."""
    import importlib

    from spatialkit.lab.fingerprint import fingerprint_of_module

    found = {}
    for name in names:
        try:
            importlib.import_module(name)
            found[name] = fingerprint_of_module(name)
        except ImportError:
            pass
    return found


def rows(function, config: dict) -> list[dict]:
    """What a run returns, as plain numbers and strings."""
    result = function(**config)
    made = [result] if isinstance(result, dict) else list(result)
    return [{k: v.item() if hasattr(v, "item") else v for k, v in row.items()} for row in made]


def main(tree: Path) -> None:
    answers, sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8"), sys.stderr
    spaces: dict = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer: dict | list
            if asked["what"] == "codes":
                answer = codes(tree)
            elif asked["what"] == "modules":
                answer = modules(asked["names"])
            else:
                import torch

                torch.set_num_threads(1)
                name = asked["notebook"]
                space = spaces.setdefault(name, None) or definitions(tree / "notebooks" / name)
                spaces[name] = space
                task, config = space[asked["task"]], asked["config"]
                answer = rows(task.function, task.filled(config) if hasattr(task, "filled") else config)
            print(json.dumps({"answer": answer}), file=answers, flush=True)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

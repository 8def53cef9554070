"""What a piece of code says, whatever its layout: abstract syntax trees as text, and the names in them."""

import ast
import dis
from collections.abc import Iterator
from importlib.util import resolve_name
from types import CodeType

__all__ = ["chains", "global_names", "imported", "normal", "outside_functions"]

_UNREAD = ("annotation", "returns", "type_comment", "kind", "ctx", "type_params")


def normal(node) -> str:
    """A tree as text, the same on every Python version, without docstrings, hints and layout."""
    if isinstance(node, list):
        return "[" + ",".join(normal(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = [s for s in value if not _is_text(s)]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty pieces into some f-strings
            value = [piece for piece in value if not (isinstance(piece, ast.Constant) and piece.value == "")]
        if value not in (None, []) and name not in _UNREAD:
            fields.append(f"{name}={normal(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def chains(tree: ast.AST) -> Iterator[list[str]]:
    """Dotted names as lists of their parts, the longest of each place: ``a.b.c`` and neither ``a.b`` nor ``a``.

    Of ``a.b(x).c`` it is ``a.b`` that counts.
    """
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            if chain := _parts(node):
                yield chain


def _parts(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if not isinstance(node, ast.Attribute):
        return []
    before = _parts(node.value)
    return [*before, node.attr] if before else []


def imported(tree: ast.AST, package: str = "") -> Iterator[tuple[str, str, str]]:
    """What the import statements of a tree bind, wherever they stand: (name, module, attribute or "").

    Args:
        tree: Any code.
        package: The package that relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                yield (alias.asname, alias.name, "") if alias.asname else (first, first, "")
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            module = resolve_name(module, package) if node.level else module
            for alias in node.names:
                yield alias.asname or alias.name, module, alias.name


def global_names(code: CodeType) -> set[str]:
    """Names that a function, and the functions inside it, read from the place where it was defined."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def outside_functions(tree: ast.ClassDef) -> set[str]:
    """Names that a class reads when it is made: bases, decorators, values of its attributes, defaults of methods."""
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name):
            found.add(node.id)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
            todo += [*getattr(node, "decorator_list", []), *defaults]
        elif isinstance(node, ast.AnnAssign):
            todo += [node.target, *([node.value] if node.value else [])]
        else:
            todo += list(ast.iter_child_nodes(node))
    return found

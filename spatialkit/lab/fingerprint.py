"""Fingerprints: which code made a number, whatever its comments say.

The fingerprint of a task covers the task itself, the notebook's own functions that it calls,
and every module of the package that it reaches, directly or through another one. It does not
cover the lab and the plots, which move numbers around but do not make them.
"""

import ast
import dis
import functools
import hashlib
import inspect
import linecache
import sys
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

__all__ = ["fingerprint", "fingerprint_of_module"]

_UNCOUNTED = ("spatialkit.lab", "spatialkit.plot", "spatialkit.places", "spatialkit.claims")


def fingerprint(function: FunctionType) -> str:
    """Twelve hex digits that change when the code behind a function changes.

    Comments, docstrings, type hints and layout do not count.

    Raises:
        ValueError: If the function reads a variable of its notebook: a hidden input.
    """
    parts: dict[str, str] = {}
    _add_function(function, parts)
    return _digest(parts)


def fingerprint_of_module(name: str) -> str:
    """The same for a module of the package and all that it reaches."""
    return _digest({needed: _module_source(needed) for needed in _modules_behind(name)})


def _digest(parts: dict[str, str]) -> str:
    text = "\n".join(f"{name}\n{parts[name]}" for name in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _add_function(function: FunctionType, parts: dict[str, str]) -> None:
    name = f"{function.__name__}()"
    if name in parts:
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    tree.decorator_list = []
    parts[name] = _normal(tree)
    if function.__closure__:
        raise ValueError(f"{function.__name__} reads {function.__code__.co_freevars} of an enclosing function; pass it")
    wanted = _global_names(function.__code__)
    for used in _used(tree, {k: v for k, v in function.__globals__.items() if k in wanted}):
        _add_object(used, function, parts)


def _add_object(used, function: FunctionType, parts: dict[str, str]) -> None:
    """Follow one thing that a function refers to."""
    name, value = used
    value = getattr(value, "function", value) if type(value).__name__ == "Task" else value
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    if isinstance(value, FunctionType) and module == function.__module__:
        _add_function(value, parts)
    elif inspect.isclass(value) and module == function.__module__:
        _add_class(value, parts)
    elif isinstance(value, ModuleType) or callable(value):
        for needed in _modules_behind(module or ""):
            parts[needed] = _module_source(needed)
    else:
        raise ValueError(
            f"{function.__name__} reads the notebook's variable {name!r}: a hidden input. "
            "Make it an argument, so that it becomes part of the run's key"
        )


def _add_class(cls: type, parts: dict[str, str]) -> None:
    """A class of the notebook, found through the file of one of its methods, which ``inspect`` cannot do."""
    if f"class {cls.__name__}" in parts:
        return
    methods = [value for value in vars(cls).values() if isinstance(value, FunctionType)]
    if not methods:
        raise ValueError(f"class {cls.__name__} has no method to find its code by; move it to the package")
    tree = ast.parse("".join(linecache.getlines(methods[0].__code__.co_filename)))
    named = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
    parts[f"class {cls.__name__}"] = _normal(named[-1])
    for method in methods:
        wanted = _global_names(method.__code__) - {cls.__name__}
        for used in _used(named[-1], {k: v for k, v in method.__globals__.items() if k in wanted}):
            _add_object(used, method, parts)


@functools.cache
def _modules_behind(module: str) -> frozenset[str]:
    """A module of the package and every other that it reaches; nothing for other libraries."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found or not name.startswith("spatialkit.") or name.startswith(_UNCOUNTED):
            continue
        found.add(name)
        namespace = vars(sys.modules[name])
        for _, value in _used(_module_tree(name), namespace):
            todo.append(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or "")
    return frozenset(found)


@functools.cache
def _module_tree(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))


@functools.cache
def _module_source(name: str) -> str:
    return _normal(_module_tree(name))


def _used(tree: ast.AST, namespace: dict) -> Iterator[tuple[str, object]]:
    """Named things that a piece of code refers to: ``data.load`` is the function, not the package."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            chain = _dotted_name(node)
            if chain and chain[0] in namespace:
                yield _resolve(chain, namespace)


def _dotted_name(node: ast.expr) -> list[str]:
    """``a.b.c`` as its parts; none for an attribute of something else, as in ``a.b(x).c``, where ``a.b`` counts."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = _dotted_name(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if before else []


def _resolve(chain: list[str], namespace: dict) -> tuple[str, object]:
    """Follow a dotted name through the package's modules; a constant of a module stands for the module."""
    value, name = namespace[chain[0]], chain[0]
    for attribute in chain[1:]:
        if not isinstance(value, ModuleType) or not value.__name__.startswith("spatialkit"):
            break
        inner = getattr(value, attribute, None)
        if not isinstance(inner, ModuleType) and not callable(inner):
            break
        value, name = inner, attribute
    return name, value


def _global_names(code: CodeType) -> set[str]:
    """Names that a function and the functions inside it read from the notebook."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _normal(node) -> str:
    """An abstract syntax tree as text, the same on every Python version, without docstrings and hints."""
    if isinstance(node, list):
        return "[" + ",".join(_normal(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = [s for s in value if not _is_text(s)]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty pieces into some f-strings
            value = [piece for piece in value if not (isinstance(piece, ast.Constant) and piece.value == "")]
        if value in (None, []) or name in (
            "annotation",
            "returns",
            "type_comment",
            "kind",
            "ctx",
            "type_params",
        ):
            continue
        fields.append(f"{name}={_normal(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)

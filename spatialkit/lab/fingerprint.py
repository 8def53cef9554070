"""Fingerprints: which code made a number, whatever its comments say.

The fingerprint of a task covers the task itself, the functions and classes of its notebook that it reaches, and every
module of the package that it reaches, through whatever: imports anywhere, decorators, base classes, defaults, partial
functions, tables that another module re-exports. It does not cover the lab, the plots and the claims, which move
numbers around but do not make them; nor the readers of data, which count by the checksum of the tensors that they
return (pinned by a test), so that a new data set changes nothing for the others.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import linecache
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType

from spatialkit.lab.syntax import chains, global_names, imported, normal, outside_functions

__all__ = ["fingerprint", "fingerprint_of_module", "modules_behind", "reached"]

_UNCOUNTED = tuple(f"spatialkit.{name}" for name in ("lab", "plot", "claims", "commands", "_torchvision"))
_BY_CONTENT = tuple(f"spatialkit.data.{name}" for name in ("datasets", "embedded", "fetch", "files", "sets"))
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def fingerprint(function: Callable) -> str:
    """Twelve hex digits that change when the code behind a function changes.

    Comments, docstrings, type hints and layout do not count.

    Raises:
        ValueError: If the function reads what no argument names and no code holds: a variable or an object of its
            notebook, or a variable of an enclosing function.
    """
    parts: dict[str, str] = {}
    _add_function(function, parts)
    return _digest(parts)


def reached(function: Callable) -> frozenset[str]:
    """The modules of the package that the fingerprint of a function covers."""
    parts: dict[str, str] = {}
    _add_function(function, parts)
    return frozenset(name for name in parts if name.startswith("spatialkit."))


def fingerprint_of_module(name: str) -> str:
    """The same for a module of the package and all that it reaches."""
    return _digest({needed: _module_source(needed) for needed in modules_behind(name)})


def _digest(parts: dict[str, str]) -> str:
    text = "\n".join(f"{name}\n{parts[name]}" for name in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ---------------------------------------------------------------- the notebook's own code


def _add_function(function, parts: dict[str, str]) -> None:
    function = inspect.unwrap(function)
    name = f"{function.__qualname__}()"
    if name in parts:
        return
    if function.__closure__:
        raise ValueError(
            f"{function.__name__} reads {', '.join(function.__code__.co_freevars)} of an enclosing function; pass it "
            "as an argument (and let decorators use functools.wraps)"
        )
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if isinstance(tree, ast.FunctionDef):
        tree.decorator_list = [d for d in tree.decorator_list if not _makes_a_task(d, function.__globals__)]
    parts[name] = normal(tree)
    _add_defaults(function, parts)
    names = global_names(function.__code__)
    if isinstance(tree, ast.FunctionDef):
        names |= {chain[0] for decorator in tree.decorator_list for chain in chains(decorator)}
    _add_names(tree, names, function.__globals__, function, parts)


def _makes_a_task(decorator: ast.expr, namespace: dict) -> bool:
    """Whether a decorator is ``lab.task``, with arguments or without: how a run is named is no part of its code."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    chain = next(chains(called), [""])
    value = namespace.get(chain[0])
    for attribute in chain[1:]:
        value = getattr(value, attribute, None)
    return getattr(value, "__module__", "") == "spatialkit.lab.tasks"


def _add_defaults(function: FunctionType, parts: dict[str, str]) -> None:
    """Values of defaults, which were read when the function was defined: ``def h(n, k=K)``."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            where = f"{function.__qualname__}({name})"
            _add_value(f"the default of {name}", parameter.default, function, parts, where)


def _add_names(tree: ast.AST, wanted: set[str], space: dict, user, parts: dict[str, str]) -> None:
    """Follow every thing of the notebook, and of imports inside the code, that a tree refers to."""
    inside = {bound: (module, attribute) for bound, module, attribute in imported(tree, space.get("__package__") or "")}
    for chain in chains(tree):
        if chain[0] in inside:
            _add_modules(_origins(*inside[chain[0]], chain[1:]), parts)
        elif chain[0] in wanted and chain[0] in space:
            _add_chain(chain, space[chain[0]], user, parts)


def _add_chain(chain: list[str], value, user, parts: dict[str, str]) -> None:
    """``data.load`` of a notebook that imported ``data`` is the function, not the package."""
    if isinstance(value, ModuleType):
        _add_modules(_origins(value.__name__, "", chain[1:]), parts)
    else:
        _add_value(chain[0], value, user, parts)


def _add_value(name: str, value, user, parts: dict[str, str], where: str | None = None) -> None:
    """Follow one thing that code refers to; refuse what is neither code nor, as a default, a plain value."""
    value = value.function if type(value).__module__ == "spatialkit.lab.tasks" else value
    module = getattr(value, "__module__", None) or ""
    here = module == user.__module__
    if isinstance(value, ModuleType):
        _add_modules(_origins(value.__name__, "", []), parts)
    elif isinstance(value, functools.partial):
        for item in (value.func, *value.args, *value.keywords.values()):
            _add_value(f"a value of the partial {name}", item, user, parts, where or f"partial {name}")
        parts[where or f"partial {name}"] = repr((_shown(value.args), _shown(sorted(value.keywords.items()))))
    elif inspect.isclass(value):
        _add_class(value, parts) if here else _add_modules([module], parts)
    elif isinstance(unwrapped := _unwrapped(value), FunctionType):
        _add_function(value, parts) if here else _add_modules([unwrapped.__module__], parts)
    elif (
        isinstance(value, BuiltinFunctionType) or type(value).__name__ == "ufunc" or type(value).__module__ == "typing"
    ):
        pass  # of a library
    elif where is not None and _is_plain(value):
        parts[where] = repr(value)
    else:
        what = f"the notebook's {'object' if callable(value) else 'variable'} {name!r}" if where is None else name
        raise ValueError(
            f"{user.__name__} reads {what}: a hidden input. Make it an argument, so that it becomes part of the run's "
            "key, and build objects inside the task"
        )


def _unwrapped(value):
    return inspect.unwrap(value) if callable(value) else value


def _is_plain(value) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, list | tuple) and all(map(_is_plain, value)))


def _shown(value):
    """Values as they are, code by its name: its text counts elsewhere."""
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value if _is_plain(value) else getattr(value, "__qualname__", type(value).__name__)


def _add_class(cls: type, parts: dict[str, str]) -> None:
    """A class of the notebook, with its bases, found through the file of one of its methods."""
    if f"class {cls.__qualname__}" in parts:
        return
    tree = _tree_of_class(cls)
    parts[f"class {cls.__qualname__}"] = normal(tree)
    methods = [m for m in _methods(cls) if m.__code__.co_filename != "<string>"]  # not those that dataclass writes
    wanted = outside_functions(tree).union(*(global_names(m.__code__) for m in methods)) - {cls.__name__}
    space = next(m.__globals__ for m in methods if m.__module__ == cls.__module__)
    _add_names(tree, wanted, space, cls, parts)


def _methods(cls: type) -> list[FunctionType]:
    """The functions behind the methods, properties, static and class methods of a class."""
    behind = [getattr(v, "fget", None) or getattr(v, "__func__", None) or v for v in vars(cls).values()]
    return [m for value in behind if isinstance(m := _unwrapped(value), FunctionType)]


def _tree_of_class(cls: type) -> ast.ClassDef:
    """``inspect`` cannot find a class that a notebook's cell defines; the files of its methods can."""
    for file in sorted({method.__code__.co_filename for method in _methods(cls)}):
        tree = ast.parse("".join(linecache.getlines(file)))
        named = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
        if named:
            return named[-1]
    raise ValueError(f"class {cls.__name__} has no method to find its code by; move it to the package")


# ---------------------------------------------------------------- modules


def _add_modules(names: Iterable[str], parts: dict[str, str]) -> None:
    for name in names:
        for needed in modules_behind(name):
            parts[needed] = _module_source(needed)


@functools.cache
def modules_behind(module: str) -> frozenset[str]:
    """A module of the package, or of one's own beside it, and every other that it reaches; none for libraries."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found or not _counts(name):
            continue
        found.add(name)
        bound = _bound(name)
        for chain in chains(_module_tree(name)):
            if chain[0] in bound:
                todo += _origins(*bound[chain[0]], chain[1:])
    return frozenset(found)


@functools.cache
def _bound(module: str) -> dict[str, tuple[str, str]]:
    """Name -> (module, attribute) of what the imports of a module bind, those inside functions too."""
    package = importlib.import_module(module).__package__ or ""
    return {name: (origin, attribute) for name, origin, attribute in imported(_module_tree(module), package)}


def _origins(module: str, attribute: str, rest: list[str]) -> list[str]:
    """The modules that define what ``from module import attribute``, followed by ``.rest``, refers to.

    Raises:
        ValueError: If a module has nothing of that name, or code refers to the package as a whole.
    """
    if not (_is_own(module) or module == "spatialkit") or _named(module, _UNCOUNTED):
        return []
    chain = [attribute, *rest] if attribute else rest
    if module == "spatialkit" and chain and chain[0] in (rooms := importlib.import_module(module)._PLACES):
        module = f"spatialkit.{rooms[chain[0]]}"  # the face brings it when asked
    while chain and _is_module(f"{module}.{chain[0]}"):
        module, *chain = f"{module}.{chain[0]}", *chain[1:]
    if not chain:
        return _whole(module)
    bound = _bound(module)
    if chain[0] in bound:
        return _origins(*bound[chain[0]], chain[1:])
    if chain[0] not in _defined(module) and not hasattr(importlib.import_module(module), chain[0]):
        raise ValueError(f"{module} has no {chain[0]!r}")
    return [module]


def _whole(module: str) -> list[str]:
    """A module that code refers to by its name alone; of a package, everything that it shows."""
    if module == "spatialkit":
        raise ValueError("code refers to spatialkit as a whole: name what it uses, as in sk.load or sk.plot.save")
    if not hasattr(importlib.import_module(module), "__path__"):
        return [module]
    return [module, *(origin for shown in _bound(module).values() for origin in _origins(*shown, []))]


@functools.cache
def _defined(module: str) -> frozenset[str]:
    """Names that a module's own statements bind, imports aside."""
    stored = {n.id for n in ast.walk(_module_tree(module)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(stored.union(n.name for n in _module_tree(module).body if hasattr(n, "name")))


def _counts(module: str) -> bool:
    return _is_own(module) and not _named(module, _UNCOUNTED) and not _named(module, _BY_CONTENT)


def _named(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


@functools.cache
def _is_own(module: str) -> bool:
    """Whether a module is the package's, or a file beside the notebook: neither installed nor Python's own."""
    if module == "spatialkit" or module.startswith("spatialkit."):
        return module != "spatialkit"
    file = getattr(sys.modules.get(module), "__file__", None)
    if module in ("", "__main__") or not file:
        return False
    return not any(Path(file).resolve().is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple({Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@functools.cache
def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _module_tree(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(name)))


@functools.cache
def _module_source(name: str) -> str:
    return normal(_module_tree(name))

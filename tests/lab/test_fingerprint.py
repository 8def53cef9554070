"""The fingerprint changes with the code behind a number, and with nothing else."""

import ast
import linecache
import sys
import types

import pytest

import spatialkit
from spatialkit.lab import fingerprint as module
from spatialkit.lab.fingerprint import fingerprint, fingerprint_of_module
from spatialkit.lab.syntax import normal

CACHED = [value for value in vars(module).values() if hasattr(value, "cache_clear")]


def notebook(source):
    """The functions of a piece of code, as a notebook's kernel would hold them."""
    name = f"<cell {abs(hash(source))}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    return namespace


def mark(source, name="f"):
    return fingerprint(notebook(source)[name])


PLAIN = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    "same",
    [
        "def f(x):\n    # why\n    return x + 1\n",
        'def f(x):\n    """What."""\n    return x + 1\n',
        "def f(x: int) -> int:\n    return (x\n            + 1)\n",
        "unused = 3\ndef f(x):\n    return x + 1\n",
        "x = [1]\ndef f(x):\n    return x + 1\n",
    ],
)
def test_what_does_not_change_the_numbers_does_not_count(same):
    assert mark(same) == mark(PLAIN)


@pytest.mark.parametrize(
    "other", ["def f(x):\n    return x + 2\n", "def f(x, y=1):\n    return x + 1\n", "def f(x):\n    return 1 + x\n"]
)
def test_what_changes_the_code_counts(other):
    assert mark(other) != mark(PLAIN)


def test_empty_pieces_of_an_f_string_do_not_count():
    tree = ast.parse("f'{x}'", mode="eval")
    plain = normal(tree)
    tree.body.values.append(ast.Constant(""))
    assert normal(tree) == plain
    tree.body.values.append(ast.Constant("!"))
    assert normal(tree) != plain


def test_functions_and_classes_of_the_notebook_count_however_deep():
    code = "class C:\n    def m(self):\n        return {}\ndef g():\n    return C().m()\ndef f(x):\n    return g()\n"
    assert mark(code.format(1)) != mark(code.format(2))
    assert mark(code.format(1)) == mark(code.format("1  # one"))


def test_a_variable_of_the_notebook_is_a_hidden_input():
    with pytest.raises(ValueError, match=r"f reads the notebook's variable 'n': a hidden input"):
        mark("n = 3\ndef f(x):\n    return x + n\n")


def test_an_attribute_named_like_a_variable_is_no_hidden_input():
    mark("images = [1]\ndef f(x):\n    return x.images\n")


def test_a_variable_of_an_enclosing_function_is_a_hidden_input():
    code = "def outer():\n    n = 1\n    def f():\n        return n\n    return f\ng = outer()\n"
    with pytest.raises(ValueError, match="enclosing function"):
        mark(code, "g")


def test_only_the_modules_that_are_used_count():
    code = "from spatialkit import data\ndef f(x):\n    return data.{}(x)\n"
    reached = {}
    for name in ("block_swap", "load"):
        parts = {}
        module._add_function(notebook(code.format(name))["f"], parts)
        reached[name] = set(parts)
    assert "spatialkit.data.swap" in reached["block_swap"]
    assert "spatialkit.data.swap" not in reached["load"]


@pytest.mark.parametrize("more", [".images[:9]", "[0].images", "(x).y.z"])
def test_what_is_done_with_a_result_does_not_add_the_whole_package(more):
    code = "from spatialkit import data\ndef f(x):\n    return data.load(x){}\n"
    plain, longer = {}, {}
    module._add_function(notebook(code.format(""))["f"], plain)
    module._add_function(notebook(code.format(more))["f"], longer)
    assert set(longer) == set(plain)


def test_a_change_in_a_module_counts_through_other_modules(monkeypatch):
    inner, outer = types.ModuleType("spatialkit._inner"), types.ModuleType("spatialkit._outer")
    code = "from spatialkit._outer import g\ndef f(x):\n    return g(x)\n"
    marks = []
    for number in (1, 2):
        for mod, text in (
            (inner, f"def h(x):\n    return x + {number}\n"),
            (outer, "from spatialkit._inner import h\ndef g(x):\n    return h(x)\n"),
        ):
            monkeypatch.setitem(__import__("sys").modules, mod.__name__, mod)
            exec(text, vars(mod))
            mod.__file__ = f"<{mod.__name__}>"
            linecache.cache[mod.__file__] = (len(text), None, text.splitlines(keepends=True), mod.__file__)
        for cached in CACHED:
            cached.cache_clear()
        monkeypatch.setattr(module.inspect, "getsource", _source)
        marks.append(mark(code))
    assert marks[0] != marks[1]


def _source(thing):
    name = thing.__file__ if isinstance(thing, types.ModuleType) else thing.__code__.co_filename
    lines = linecache.getlines(name)
    if isinstance(thing, types.ModuleType):
        return "".join(lines)
    return "".join(lines[thing.__code__.co_firstlineno - 1 :])


def test_the_lab_itself_does_not_count():
    parts = {}
    code = "from spatialkit import lab, train\ndef f(x):\n    lab.describe(x)\n    return train.fit(x)\n"
    module._add_function(notebook(code)["f"], parts)
    assert "spatialkit.train.loop" in parts
    assert not any(name.startswith("spatialkit.lab") for name in parts)


@pytest.fixture
def mark_of_module(monkeypatch):
    """Fingerprint of ``spatialkit._first``, which calls ``spatialkit._second``, with these texts as their code."""

    def clear():
        for cached in CACHED:
            cached.cache_clear()

    def mark(first, second):
        for name, text in (("spatialkit._second", second), ("spatialkit._first", first)):
            made = types.ModuleType(name)
            monkeypatch.setitem(sys.modules, name, made)
            made.__file__ = f"<{name}>"
            linecache.cache[made.__file__] = (len(text), None, text.splitlines(keepends=True), made.__file__)
            exec(text, vars(made))
        clear()
        return fingerprint_of_module("spatialkit._first")

    monkeypatch.setattr(module.inspect, "getsource", _source)
    yield mark
    clear()


FIRST = "from spatialkit._second import h\ndef g(x):\n    return h(x)\n"
SECOND = "def h(x):\n    return x + 1\n"


def test_a_module_is_marked_by_its_code_and_what_it_reaches(mark_of_module):
    plain = mark_of_module(FIRST, SECOND)
    assert len(plain) == 12 and int(plain, 16) >= 0
    assert mark_of_module(f'"""What."""\n# why\n{FIRST}', SECOND) == plain
    assert mark_of_module(FIRST, "def h(x: int) -> int:\n    return x + 1  # one\n") == plain
    others = [
        mark_of_module(FIRST, SECOND.replace("1", "2")),
        mark_of_module(FIRST.replace("h(x)\n", "h(x) + 0\n"), SECOND),
        mark_of_module(FIRST + "LIMIT = 3\n", SECOND),
    ]
    assert len({plain, *others}) == 4


def test_what_a_module_does_not_use_does_not_count(mark_of_module):
    unused = "from spatialkit._second import h\ndef g(x):\n    return x\n"
    assert mark_of_module(unused, SECOND) == mark_of_module(unused, SECOND.replace("1", "2"))


def test_trained_networks_are_marked_by_the_training_and_the_architectures():
    import spatialkit.train.kept

    reached = module.modules_behind(spatialkit.train.kept.__name__)
    assert {"spatialkit.train.loop", "spatialkit.models.zoo", "spatialkit.train.problem"} <= reached
    assert not any(name.startswith(("spatialkit.lab", "spatialkit.lab.places")) for name in reached)
    assert fingerprint_of_module("spatialkit.train.kept") == fingerprint_of_module("spatialkit.train.kept")
    assert fingerprint_of_module("spatialkit.train.kept") != fingerprint_of_module("spatialkit.train.loop")


# Whatever a task reaches counts, by whichever way it is reached.


@pytest.mark.parametrize(
    "code",
    [
        "import functools\n@functools.cache\ndef g():\n    return {}\ndef f(x):\n    return g()\n",
        "def g():\n    return {}\ndef deco(h):\n    import functools\n    @functools.wraps(h)\n    def w(x):\n"
        "        return g() + h(x)\n    return w\n@deco\ndef f(x):\n    return x\n",
        "class B:\n    def m(self):\n        return {}\nclass C(B):\n    def n(self):\n        return 0\n"
        "def f(x):\n    return C().m()\n",
        "def g():\n    return {}\nclass C:\n    k = g()\n    def n(self):\n        return self.k\n"
        "def f(x):\n    return C().n()\n",
        "import functools\ndef h(x, k):\n    return x + k\ng = functools.partial(h, k={})\n"
        "def f(x):\n    return g(x)\n",
        "import functools\ndef h(x, k):\n    return x + k + {}\ng = functools.partial(h, k=1)\n"
        "def f(x):\n    return g(x)\n",
        "K = {}\ndef h(n, k=K):\n    return n + k\ndef f(x):\n    return h(x)\n",
        "K = {}\ndef h(n, *, k=K):\n    return n + k\ndef f(x):\n    return h(x)\n",
        "def g():\n    return {}\ndef h(n, k=g):\n    return n + k()\ndef f(x):\n    return h(x)\n",
        "class C:\n    @staticmethod\n    def s():\n        return {}\n    @property\n    def p(self):\n"
        "        return 1\ndef f(x):\n    return C.s()\n",
        "from dataclasses import dataclass\n@dataclass\nclass C:\n    a: int = {}\n    def m(self):\n"
        "        return self.a\ndef f(x):\n    return C().m()\n",
    ],
    ids=["cached", "decorator", "base", "class attribute", "partial's value", "partial's function", "default",
         "keyword default", "function as default", "static method", "dataclass"],
)  # fmt: skip
def test_a_change_is_seen_through(code):
    assert mark(code.replace("{}", "1")) != mark(code.replace("{}", "2"))
    assert mark(code.replace("{}", "1")) == mark(code.replace("{}", "1").replace("\ndef f", "\n# why\ndef f"))


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("from torch import nn\nmodel = nn.Linear(2, 2)\ndef f(x):\n    return model(x)\n", "object 'model'"),
        ("class C:\n    def __call__(self):\n        return 1\nc = C()\ndef f(x):\n    return c()\n", "object 'c'"),
        ("import numpy as np\nA = np.ones(3)\ndef f(x):\n    return A\n", "variable 'A'"),
        ("class C:\n    def m(self):\n        return 1\ng = C().m\ndef f(x):\n    return g()\n", "object 'g'"),
        ("import functools\nA = [object()]\ndef h(x, a):\n    return x\ng = functools.partial(h, a=A)\n"
         "def f(x):\n    return g(x)\n", "a value of the partial g"),
        ("import numpy as np\nA = np.ones(3)\ndef h(n, k=A):\n    return n\n"
         "def f(x):\n    return h(x)\n", "default of k"),
        ("A = 3\nclass C:\n    k = A\n    def m(self):\n        return 1\n"
         "def f(x):\n    return C().m()\n", "variable 'A'"),
    ],
)  # fmt: skip
def test_what_is_no_code_is_refused(code, what):
    with pytest.raises(ValueError, match=f"{what}: a hidden input"):
        mark(code)


def test_library_functions_and_types_are_no_hidden_inputs():
    mark(
        "from numpy import add\nfrom math import sqrt\nfrom torch import relu, Tensor\nfrom pathlib import Path\n"
        "def f(x):\n    return add(sqrt(x), relu(Tensor(1))), Path, len\n"
    )


def parts_of(code):
    parts = {}
    module._add_function(notebook(code)["f"], parts)
    return set(parts)


def test_imports_inside_functions_count():
    inside = parts_of("def f(x):\n    from spatialkit.deform import warp\n    return warp(x)\n")
    aliased = parts_of("def f(x):\n    import spatialkit.deform as d\n    return d.warp(x)\n")
    through = parts_of("def f(x):\n    from spatialkit import deform\n    return deform.warp(x)\n")
    outside = parts_of("from spatialkit.deform import warp\ndef f(x):\n    return warp(x)\n")
    assert "spatialkit.deform.warping" in inside
    assert inside == outside == aliased == through


# The face: `import spatialkit as sk` counts what `from spatialkit.room import name` does.

FACE = {name: room for name, room in spatialkit._PLACES.items()}
FACE |= {"total_variation": "measure", "one_cycle": "train", "block_swap": "data", "PlainCNN": "models"}


@pytest.mark.parametrize("name", FACE)
def test_the_face_counts_what_the_rooms_count(name):
    room = FACE[name]
    plain = parts_of(f"from spatialkit.{room} import {name}\ndef f(x):\n    return {name}(x).y\n")
    body = f"def f(x):\n    return sk.{room}.{name}(x).y\n"
    assert parts_of(f"import spatialkit as sk\n{body}") == plain
    assert parts_of(body.replace(":\n", ":\n    import spatialkit as sk\n", 1)) == plain
    assert parts_of(f"import spatialkit\n{body.replace('sk.', 'spatialkit.')}") == plain
    if name in spatialkit._PLACES:
        assert parts_of(f"import spatialkit as sk\n{body.replace(f'{room}.', '')}") == plain
    uncounted = room == "plot" or (room, name) == ("data", "load")  # readers of data count by what they return
    assert (len(plain) > 1) != uncounted


def test_a_change_behind_the_face_counts(monkeypatch):
    code = "import spatialkit as sk\ndef f(x):\n    return sk.measure.total_variation(x)\n"
    before, normal_of = mark(code), module._module_source
    monkeypatch.setattr(module, "_module_source", lambda n: normal_of(n) + "!" * (n == "spatialkit.measure.filters"))
    assert mark(code) != before


def test_the_table_of_the_face_does_not_count():
    parts = parts_of("import spatialkit as sk\ndef f(x):\n    return sk.warp(x), sk.lab.describe(x), sk.plot.GREY\n")
    assert "spatialkit.deform.warping" in parts
    assert not any(p == "spatialkit" or p.startswith(("spatialkit.lab", "spatialkit.plot")) for p in parts)


@pytest.mark.parametrize("wrong", ["sk.laod(x)", "sk.meausre.orderness(x)", "sk.measure.oderness(x)", "sk.train.fti"])
def test_names_that_the_face_has_not_are_refused(wrong):
    with pytest.raises(ValueError, match=r"spatialkit\S* has no '(laod|meausre|oderness|fti)'"):
        mark(f"import spatialkit as sk\ndef f(x):\n    return {wrong}\n")


def test_a_whole_room_counts_whole_and_the_whole_house_is_refused():
    room = parts_of("import spatialkit as sk\ndef f(x):\n    return getattr(sk.models, x)(1)\n")
    assert {"spatialkit.models.zoo", "spatialkit.models.plain", "spatialkit.models.stn"} <= room
    with pytest.raises(ValueError, match=r"spatialkit as a whole: name what it uses, as in sk\.load"):
        mark("import spatialkit as sk\ndef f(x):\n    return getattr(sk, x)(1)\n")


@pytest.mark.parametrize("above", ["@sk.lab.task\n", "@sk.lab.task(version=3, added={'x': 1})\n"])
def test_a_task_of_the_face_is_recognised(above):
    body = "import spatialkit as sk\n{}def f(x):\n    return sk.orderness(x)\n"
    assert fingerprint(notebook(body.format(above))["f"].function) == mark(body.format(""))


def test_a_constant_counts_by_the_module_that_defines_it():
    assert "spatialkit.models.zoo" in parts_of(
        "import spatialkit as sk\ndef f(x):\n    return sk.models.ARCHITECTURES\n"
    )
    assert "spatialkit.models.zoo" in parts_of(
        "from spatialkit import models\ndef f(x):\n    return models.ARCHITECTURES\n"
    )


def test_a_constant_that_another_module_imports_counts(mark_of_module):
    first = "from spatialkit._second import TABLE\ndef g(x):\n    return TABLE[x]\n"
    marks = {mark_of_module(first, f"TABLE = {{1: {n}}}\n") for n in (1, 2)}
    assert len(marks) == 2


def test_imports_inside_functions_of_the_package_count(mark_of_module):
    first = "def g(x):\n    from spatialkit._second import h\n    return h(x)\n"
    assert mark_of_module(first, SECOND) != mark_of_module(first, SECOND.replace("1", "2"))


def test_readers_of_data_do_not_count_by_their_code():
    reading = parts_of("from spatialkit import data\ndef f(x):\n    return data.load(x).images\n")
    swapping = parts_of("from spatialkit import data\ndef f(x):\n    return data.block_swap(data.load(x).images)\n")
    assert not any(name.startswith("spatialkit") for name in reading)
    assert "spatialkit.data.swap" in swapping and "spatialkit.data.datasets" not in swapping


def test_a_file_beside_the_notebook_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    marks = []
    for number in (1, 2):
        (tmp_path / "beside_the_notebook.py").write_text(f"def helper():\n    return {number}\n")
        sys.modules.pop("beside_the_notebook", None)
        linecache.clearcache()
        for cached in CACHED:
            cached.cache_clear()
        marks.append(mark("from beside_the_notebook import helper\ndef f(x):\n    return helper()\n"))
    sys.modules.pop("beside_the_notebook", None)
    assert marks[0] != marks[1]


def test_how_a_task_is_named_is_no_part_of_its_code():
    body = "from spatialkit import lab\n{}def f(x):\n    return x + 1\n"
    plain = fingerprint(notebook(body.format(""))["f"])
    for above in ("@lab.task\n", "@lab.task(version=3)\n", "@lab.task(version=1, added={'x': 1})\n"):
        assert fingerprint(notebook(body.format(above))["f"].function) == plain
    cached = "import functools\nfrom spatialkit import lab\n@lab.task\n@functools.cache\ndef f(x):\n    return x + 1\n"
    assert fingerprint(notebook(cached)["f"].function) != plain


def test_a_wrapper_that_hides_its_function_is_refused():
    code = "def deco(h):\n    def w(x):\n        return h(x)\n    return w\n@deco\ndef f(x):\n    return x\n"
    with pytest.raises(ValueError, match=r"reads h of an enclosing function.*functools\.wraps"):
        mark(code)

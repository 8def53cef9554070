"""The rooms of the package stand on floors: imports go down, wherever they are written, and never up or round."""

import ast

import pytest

from spatialkit.lab import places

PACKAGE = places.root() / "spatialkit"
FLOORS = [  # lowest first; rooms of one floor do not know each other
    {"lab", "deform", "theory", "_torchvision"},
    {"data"},
    {"models", "measure"},
    {"train", "plot"},
    {"claims"},
    {"commands"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def rooms_imported(text):
    """Rooms that a module imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "spatialkit":
            names = [f"spatialkit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the package names modules in full"
            names = [node.module]
        yield from (name.split(".")[1] for name in names if name.startswith("spatialkit."))


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def test_every_room_has_a_floor():
    assert {room_of(path) for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_imports_go_down(room):
    paths = [path for path in MODULES if room_of(path) == room]
    arrows = {(path.name, other) for path in paths for other in rooms_imported(path.read_text("utf-8"))}
    assert paths and not {(name, other) for name, other in arrows if other != room and FLOOR[other] >= FLOOR[room]}


@pytest.mark.parametrize(
    "text",
    [
        "import spatialkit.plot as p",
        "from spatialkit import lab, plot",
        "from spatialkit.plot import save",
        "def f():\n    from spatialkit import plot",
    ],
)
def test_an_import_is_found_wherever_it_is(text):
    assert "plot" in set(rooms_imported(text))

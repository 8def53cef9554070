"""The public face: everything from ``import spatialkit as sk``, and nothing imported before it is used."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import spatialkit as sk

NAMED = {
    "load", "block_swap", "classification", "Diffeomorphism", "ThinPlateSpline", "warp", "orderness", "layer_orderness",
    "sensitivity", "total_variation", "calibrate", "build", "pretrained", "fit", "trained",
    "lab", "claims", "plot", "measure", "deform", "models", "data", "train", "theory",
}  # fmt: skip
AS_MODULES = {"lab": {"places", "settings"}, "measure": {"edges"}}  # shown by their rooms as what they are


@pytest.mark.parametrize("name", sorted(NAMED))
def test_is_at_the_top(name):
    assert name in sk.__all__ and name in dir(sk)
    assert getattr(sk, name) is not None


def test_a_wrong_name_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'ordernes'"):
        sk.ordernes  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    code = "import sys, spatialkit; print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_submodule_hides_a_function():
    """``sk.trained`` stays a function after any import."""
    for info in pkgutil.walk_packages(sk.__path__, "spatialkit."):
        if "__main__" not in info.name:
            importlib.import_module(info.name)
    assert callable(sk.trained) and callable(sk.orderness) and callable(sk.fit)
    for room in ("claims", "data", "deform", "lab", "measure", "models", "theory", "train"):
        package = importlib.import_module(f"spatialkit.{room}")
        shown = AS_MODULES.get(room, set())
        assert {name for name in package.__all__ if inspect.ismodule(getattr(package, name))} == shown, room
        modules = {info.name for info in pkgutil.iter_modules(package.__path__)}
        assert modules & (set(package.__all__) | set(sk.__all__)) == shown, room

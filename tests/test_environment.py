"""One list of dependencies, one list of pins, one file for conda users: they must agree. And text is UTF-8."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from spatialkit.lab import places

PROJECT = tomllib.loads((places.root() / "pyproject.toml").read_text("utf-8"))["project"]
CONDA = yaml.safe_load((places.root() / "environment.yml").read_text("utf-8"))


def constraints():
    """Pins of constraints.txt: canonical name -> version."""
    lines = (places.root() / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def requirements():
    """Every dependency of the package and of its extras, except the package itself."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [one for one in map(Requirement, lines) if canonicalize_name(one.name) != PROJECT["name"]]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_within_its_range(requirement):
    pin = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), f"{requirement} does not allow {pin}"


def test_pins_are_exact_and_free_of_local_builds():
    assert all(version and "+" not in version for version in constraints().values())


@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0"])
def test_every_pin_can_be_met_by_every_python_of_the_range(python):
    installed = {canonicalize_name(one.metadata["Name"]): one for one in metadata.distributions()}
    pins = {name: version for name, version in constraints().items() if name in installed}
    needs = {n: installed[n].metadata["Requires-Python"] for n, v in pins.items() if installed[n].version == v}
    assert len(needs) > 0.9 * len(pins)
    assert not {name: need for name, need in needs.items() if need and not SpecifierSet(need).contains(python)}


def test_no_file_names_a_package_index():
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile"):
        text = (places.root() / name).read_text("utf-8")
        assert "index-url" not in text and "find-links" not in text and "://" not in text, name


def test_extra_all_holds_every_other_extra():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == PROJECT["name"] and everything.extras == set(extras) - {"all"}


def test_conda_brings_python_pip_and_make_and_leaves_the_rest_to_pip():
    *names, pip = CONDA["dependencies"]
    assert {Requirement(name).name for name in names} == {"python", "pip", "make"}
    assert pip == {"pip": ["-c constraints.txt", "-e .[all]"]}


def test_python_ranges_agree():
    python = Requirement(CONDA["dependencies"][0])
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])
    named = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert named == {f"3.{n}" for n in range(9, 17) if python.specifier.contains(f"3.{n}")}


SOURCES = sorted((places.root() / "spatialkit").rglob("*.py"))


def _without_encoding(path):
    """Lines that read or write text in whatever encoding the locale has."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {word.arg: word.value for word in node.keywords}
        values = [one.value for one in [*node.args, *given.values()] if isinstance(one, ast.Constant)]
        binary = any(isinstance(value, str) and "b" in value and len(value) < 4 for value in values)
        if name in ("read_text", "write_text"):
            named = "encoding" in given or len(node.args) > (name == "write_text")
        elif name == "open" and not binary and ast.unparse(node.func) in ("open", "path.open", "io.open"):
            named = "encoding" in given
        else:
            named = not {"text", "universal_newlines"} & set(given) or "encoding" in given
        if not named:
            yield f"{path.name}:{node.lineno}"


def test_text_names_its_encoding():
    assert SOURCES and not [line for path in SOURCES for line in _without_encoding(path)]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(x)", True),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("subprocess.run(x, text=True)", True),
        ("subprocess.run(x, text=True, encoding='utf-8')", False),
    ],
)
def test_a_missing_encoding_is_found(tmp_path, code, wrong):
    path = tmp_path / "a.py"
    path.write_text(code, "utf-8")
    assert bool(list(_without_encoding(path))) == wrong


def test_claims_are_read_as_utf8_under_a_locale_of_other_letters():
    code = "from spatialkit.claims import catalogue, scorecard; import sys; catalogue(); scorecard()"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(places.root())}
    subprocess.run([sys.executable, "-c", code], env=os.environ | plain, check=True)


# The Makefile, with a Python that only says what it is asked.


def fake_python(path, version):
    """A Python that says its version, answers "yes" to what `-I` asks, and notes how it was called."""
    check = f'echo "$2" | sed "s/sys.version_info/{tuple(map(int, version.split(".")))}/" | exec {sys.executable} -'
    answers = f'case "$1" in -c) {check};; --version) echo "Python {version}";; esac'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "$0 $@" >> "$CALLS"\n{answers}\n', "utf-8")
    path.chmod(0o755)


def make(tmp_path, *words, **variables):
    """`make` in a folder of its own; what was said, and how each Python was called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(places.root() / name, tmp_path)  # their times too, which say whether an environment is ready
    (tmp_path / "calls").touch()
    env = os.environ | {"CALLS": str(tmp_path / "calls"), "VIRTUAL_ENV": "", "CONDA_PREFIX": ""} | variables
    done = subprocess.run(["make", *words], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
    return done, (tmp_path / "calls").read_text("utf-8").replace(f"{tmp_path}/", "")


def make_env(tmp_path, version):
    """`make env` with a Python of this version."""
    for path in ("python", ".venv/bin/python"):
        fake_python(tmp_path / path, version)
    return make(tmp_path, "env", f"PYTHON={tmp_path}/python")


@pytest.mark.parametrize("version", ["3.10.12", "3.14.0"])
def test_a_python_of_another_version_is_told_at_once(tmp_path, version):
    done, calls = make_env(tmp_path, version)
    assert done.returncode != 0 and "-m venv" not in calls and "pip" not in calls
    assert f"is Python {version}; spatialkit needs Python 3.11, 3.12 or 3.13." in done.stderr


@pytest.mark.parametrize("version", ["3.11.2", "3.13.0"])
def test_the_installation_shows_its_progress(tmp_path, version):
    done, calls = make_env(tmp_path, version)
    assert done.returncode == 0, done.stderr
    (install,) = [line for line in calls.splitlines() if "pip install" in line]
    assert " -q" not in install and "-c constraints.txt -e .[all]" in install
    assert f"with Python {version}: about two minutes" in done.stderr


@pytest.fixture
def two_pythons(tmp_path):
    """An environment of 3.11 that is ready, and a Python 3.12 beside it."""
    fake_python(tmp_path / ".venv/bin/python", "3.11.2")
    fake_python(tmp_path / ".venv-3.12/bin/python", "3.12.1")  # as venv would make it
    fake_python(tmp_path / "python3.11", "3.11.9")
    fake_python(tmp_path / "python3.12", "3.12.1")
    (tmp_path / ".venv/.ready").touch()
    return tmp_path


def test_another_python_gets_an_environment_of_its_own(two_pythons):
    chosen = f"PYTHON={two_pythons}/python3.12"
    done, calls = make(two_pythons, "test", chosen)
    assert done.returncode == 0, done.stderr
    assert "python3.12 -m venv .venv-3.12\n" in calls and ".venv-3.12/bin/python -m pip install" in calls
    assert calls.endswith(".venv-3.12/bin/python -m spatialkit test\n")
    done, calls = make(two_pythons, "doctor", chosen)  # it is ready now
    assert calls.count("-m venv") == 1 and calls.endswith(".venv-3.12/bin/python -m spatialkit doctor\n")


@pytest.mark.parametrize("words", [(), ("PYTHON={}/python3.11",)], ids=["none", "3.11"])
def test_the_python_of_the_environment_gets_no_other(two_pythons, words):
    done, calls = make(two_pythons, "test", *(word.format(two_pythons) for word in words))
    assert done.returncode == 0, done.stderr
    assert "-m venv" not in calls and calls.endswith(".venv/bin/python -m spatialkit test\n")


def test_a_python_that_is_not_there_is_never_replaced_by_another(two_pythons):
    done, calls = make(two_pythons, "test", "PYTHON=python3.99")
    assert done.returncode != 0 and "-m spatialkit" not in calls and "-m venv" not in calls
    assert "spatialkit needs Python 3.11, 3.12 or 3.13." in done.stderr


@pytest.mark.parametrize(("version", "used"), [("3.12", "active"), ("3.11", ".venv")])
def test_an_active_environment_is_used_unless_another_python_is_chosen(two_pythons, version, used):
    fake_python(two_pythons / "active/bin/python", "3.12.4")
    active = {"VIRTUAL_ENV": str(two_pythons / "active")}
    done, calls = make(two_pythons, "doctor", f"PYTHON={two_pythons}/python{version}", **active)
    assert done.returncode == 0, done.stderr
    assert calls.endswith(f"{used}/bin/python -m spatialkit doctor\n")
    _, calls = make(two_pythons, "doctor", **active)
    assert calls.endswith("active/bin/python -m spatialkit doctor\n")

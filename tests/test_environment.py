"""One list of dependencies, one list of pins, one file for conda users: they must agree."""

import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from spatialkit import places

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

"""Mutants: small changes of the code that would falsify the evidence, each with the test that notices it.

``python -m tests.mutants [name ...]`` applies each to a copy of the bundle and runs its test there, once the same tests
have passed in an unchanged copy. `tests/test_mutants.py` keeps the list true; `tests/mutants.yaml` is the list.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

__all__ = ["ROOT", "Mutant", "catalogue", "copy_of", "fate", "main"]

ROOT = Path(__file__).resolve().parents[1]
_COPIED = ("spatialkit", "tests", "pyproject.toml", "conftest.py")
_LIBRARIES = ("torch", "pandas", "seaborn", "scipy.stats", "sklearn.datasets", "hypothesis", "nbformat", "loky")
_LONGEST = 300  # seconds; a test that hangs has not told what is wrong


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        name: What is wrong then, in a few words joined by hyphens.
        file: Path from the root.
        old, new: Text that stands exactly once in the file, and what replaces it.
        test: Node id of the test that fails then.
    """

    name: str
    file: str
    old: str
    new: str
    test: str

    def applied(self, text: str) -> str:
        """The file's text with the change.

        Raises:
            ValueError: If the old text does not stand exactly once in it.
        """
        if (n := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: its old text stands {n} times in {self.file}; write it anew")
        return text.replace(self.old, self.new)


@functools.cache
def catalogue() -> dict[str, Mutant]:
    """Name -> mutant, in the order of the list."""
    files = yaml.safe_load(Path(__file__).with_name("mutants.yaml").read_text("utf-8"))
    mutants = [Mutant(file=file, **entry) for file, entries in files.items() for entry in entries]
    return {mutant.name: mutant for mutant in mutants}


@contextlib.contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A copy of the bundle, to be changed: code and tests are copied, all that is only read is linked."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name).resolve()
        for path in root.iterdir():
            if path.name in _COPIED:
                copy = shutil.copytree if path.is_dir() else shutil.copy
                options = {"ignore": shutil.ignore_patterns("__pycache__")} if path.is_dir() else {}
                copy(path, folder / path.name, **options)
            elif not path.name.startswith(".") and path.name != "build":
                (folder / path.name).symlink_to(path)
        yield folder


def _run(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit status of pytest on the copy, and what it said; 124 where it took too long."""
    said = folder / "said.txt"
    said.touch()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(folder, tests, said))
    child.start()
    child.join(_LONGEST * len(tests))
    status = 124 if child.is_alive() else child.exitcode
    child.kill()
    child.join()
    return status, said.read_text("utf-8", "replace")


def _in_child(folder: Path, tests: Sequence[str], said: Path) -> None:
    """Run pytest on the copy: its package comes before an installed one, here and in processes that a test starts."""
    status = 3  # pytest's word for an error inside
    try:
        for number in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        for name in [name for name in sys.modules if name.split(".")[0] in ("spatialkit", "tests", "conftest")]:
            del sys.modules[name]
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        for name in [name for name in os.environ if name.startswith("SPATIALKIT_") and name != "SPATIALKIT_DATA"]:
            del os.environ[name]
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "SPATIALKIT_JOBS": "1"}
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        sys.stdout.flush()
    finally:
        os._exit(status)


def fate(mutant: Mutant, root: Path = ROOT) -> str:
    """Whether its test fails ("killed") or passes ("survived"); else in words why neither can be said.

    Raises:
        ValueError: If the old text does not stand exactly once in the file.
    """
    with copy_of(root) as folder:
        path = folder / mutant.file
        path.write_text(mutant.applied(path.read_text("utf-8")), "utf-8")
        status, said = _run(folder, [mutant.test])
    fates = {0: "survived", 1: "killed"}
    return fates.get(status, f"no result, pytest ended with {status}: {' '.join(said.split())[-200:]}")


def main(names: Sequence[str] = ()) -> int:
    """Print the fate of each mutant named, or of all. Exit status 0 when all are killed, 2 for an unknown name."""
    if unknown := set(names) - set(catalogue()):
        print(f"no mutant {', '.join(sorted(unknown))}; there are: {', '.join(catalogue())}")
        return 2
    chosen = [catalogue()[name] for name in names] or list(catalogue().values())
    for library in _LIBRARIES:  # once, before every test takes a copy of this process
        importlib.import_module(library)
    with copy_of(ROOT) as folder:
        status, said = _run(folder, sorted({mutant.test for mutant in chosen}))
    if status:
        print(f"the tests do not pass on unchanged code:\n{said}")
        return 1
    left = 0
    for mutant in chosen:
        start = time.monotonic()
        what = fate(mutant)
        left += what != "killed"
        print(f"{what:<9} {mutant.name} ({mutant.file}, {time.monotonic() - start:.0f} s)", flush=True)
    print(f"{len(chosen)} mutants, {len(chosen) - left} killed")
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

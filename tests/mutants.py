"""Mutants: small changes of the code that would falsify the evidence, each with the test that notices it.

``python -m tests.mutants [name ...]`` applies each to a copy of the bundle and runs its test there, once the same tests
have passed in an unchanged copy. `tests/test_mutants.py` keeps the list true; `tests/mutants.yaml` is the list.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["ROOT", "Mutant", "catalogue", "copy_of", "fate", "main"]

ROOT = Path(__file__).resolve().parents[1]
_COPIED = ("spatialkit", "tests", "pyproject.toml", "conftest.py")
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
    """Exit status of pytest on the copy, whose package comes before an installed one; and what it said."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SPATIALKIT_") or k == "SPATIALKIT_DATA"}
    env |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "SPATIALKIT_JOBS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, cwd=folder, env=env, text=True, timeout=_LONGEST * len(tests), **pipes)
    except subprocess.TimeoutExpired:
        return -1, "it hangs"
    return done.returncode, done.stdout


def fate(mutant: Mutant, root: Path = ROOT) -> str:
    """"killed", when its test fails; "survived", when it passes; else that neither can be said.

    Raises:
        ValueError: If the old text does not stand exactly once in the file.
    """
    with copy_of(root) as folder:
        path = folder / mutant.file
        path.write_text(mutant.applied(path.read_text("utf-8")), "utf-8")
        status, said = _run(folder, [mutant.test])
    fates = {0: "survived", 1: "killed"}
    return fates.get(status, f"no result, pytest ended with {status}: {said.strip().splitlines()[-1]}")


def main(names: Sequence[str] = ()) -> int:
    """Print the fate of each mutant named, or of all. Exit status 0 when all are killed, 2 for an unknown name."""
    if unknown := set(names) - set(catalogue()):
        print(f"no mutant {', '.join(sorted(unknown))}; there are: {', '.join(catalogue())}")
        return 2
    chosen = [catalogue()[name] for name in names] or list(catalogue().values())
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

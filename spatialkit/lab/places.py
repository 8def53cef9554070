"""Where the bundle's files are: the repository root, and where this run may write."""

from __future__ import annotations

from pathlib import Path

from spatialkit.lab import settings


def _is_root(folder: Path) -> bool:
    """A root of the bundle holds both the list of dependencies and the notebooks."""
    return (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir()


def root() -> Path:
    """The folder that holds pyproject.toml and notebooks/.

    The parent of the package if it does, else the nearest folder from the working directory upwards that
    does, else the working directory: the package also works when it is installed without its notebooks.
    """
    here = Path.cwd()
    candidates = [Path(__file__).resolve().parents[2], here, *here.parents]
    return next((folder for folder in candidates if _is_root(folder)), here)


def evidence() -> Path:
    """The folder whose results/ and figures/ are the committed evidence; always read first."""
    return root()


def out() -> Path:
    """The folder under which this run writes results/ and figures/.

    `SPATIALKIT_OUT` says where: the commands set it. Without it (a notebook opened by hand) it is
    build/own, so that trying things out never touches the committed evidence.
    """
    return settings.output() or root() / "build" / "own"

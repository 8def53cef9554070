"""`book`: an offline site of the committed notebooks, in an environment of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from spatialkit.commands import report
from spatialkit.commands.plan import environment, select
from spatialkit.commands.runner import alone, check_writable

__all__ = ["book", "gather"]

_LINK = re.compile(r"\]\(([^)#\s]+)")
_SKIPPED = ("localization", "unpacked")  # of MathJax


def book(base: Path) -> int:
    """Build `build/book/html` and say where it is.

    Returns:
        Exit status: 0 when every page was made without a warning.

    Raises:
        ValueError: If build/ cannot be written, or the environment could not be made.
    """
    build = base / "build" / "book"
    check_writable(build)
    with alone(base, "book"):
        python = _own_environment(base)
        began = time.monotonic()
        n_pages = gather(base, build / "source")
        _bring_mathjax(python, build / "source" / "_static" / "mathjax")
        words = ["-b", "html", "-q", "-W", "--keep-going", "-j", "auto", "-c", base / "docs" / "book"]
        words += ["-d", build / "doctrees", build / "source", build / "html"]
        status = subprocess.call([python, "-m", "sphinx", *map(str, words)], cwd=base, env=environment(base))
    if status != 0:
        print(f"the book was not made cleanly: sphinx ended with {status}, its words are above", file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    print(f"{report.count(n_pages, 'page')} in {seconds:.0f} s: {report.shown(build / 'html' / 'index.html')}")
    return 0


def _own_environment(base: Path) -> Path:
    """The Python of `.venv-book`, which has what docs/book-requirements.txt pins and sees the bundle's own packages."""
    folder, needs = base / ".venv-book", base / "docs" / "book-requirements.txt"
    python, ready = folder / "bin" / "python", folder / ".ready"
    made_for = f"{sys.version}\n{sys.prefix}\n{needs.read_text('utf-8')}"
    if ready.is_file() and ready.read_text("utf-8") == made_for:
        return python
    print("making the environment .venv-book from docs/book-requirements.txt: half a minute, 150 MB", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", folder], "make .venv-book")
    paths = sysconfig.get_paths()
    theirs = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    own = dict.fromkeys([paths["purelib"], paths["platlib"]])
    Path(theirs, "project.pth").write_text("".join(f"{path}\n" for path in own), "utf-8")
    _run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", needs], "install what it needs")
    ready.write_text(made_for, "utf-8")
    return python


def _run(command: list, what: str) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ValueError(f"could not {what} ({' '.join(last) or done.returncode}): it needs the network once, and room")


def gather(base: Path, source: Path) -> int:
    """Lay out the pages of the book: prepared notebooks, docs, figures, records and what is generated.

    A file that would not change is left alone, so that only what changed is made anew.

    Returns:
        Number of pages.
    """
    import nbformat

    from spatialkit.commands.book_notebooks import prepared
    from spatialkit.commands.book_pages import contents, pages

    notebooks = sorted(select(base))
    texts = {path.relative_to(base).as_posix(): path.read_text("utf-8") for path in _documents(base)}
    texts = {place: text.replace("](scorecard.md)", "](../index.md)") for place, text in texts.items()}
    files = {place: text.encode() for place, text in pages(contents(base, notebooks), texts).items()}
    files |= {place: text.encode() for place, text in texts.items()}
    for path in notebooks:
        files[f"notebooks/{path.name}"] = nbformat.writes(prepared(path)).encode()
    n_pages = len(files)
    for kind in ("figures/*.*", "results/*.jsonl"):
        files |= {path.relative_to(base).as_posix(): path.read_bytes() for path in sorted(base.glob(kind))}
    for place, text in texts.items():
        files |= _linked(base, base / place, text)
    _lay_out(source, files)
    return n_pages


def _documents(base: Path) -> list[Path]:
    """The pages of docs/; the front page of the book says what docs/scorecard.md says, and more."""
    return sorted(path for path in (base / "docs").rglob("*.md") if path.name != "scorecard.md")


def _linked(base: Path, page: Path, text: str) -> dict[str, bytes]:
    """The files of the bundle that a page links to and that are no pages, by their places."""
    found = [(page.parent / target).resolve() for target in _LINK.findall(text) if "://" not in target]
    files = [path for path in found if path.is_file() and path.suffix not in (".md", ".ipynb")]
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in files if path.is_relative_to(base)}


def _lay_out(folder: Path, files: dict[str, bytes]) -> None:
    """Make a folder hold these files and, but for _static, no others."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        if path.is_file() and place not in files and not place.startswith("_static/"):
            path.unlink()
    for place, content in files.items():
        path = folder / place
        if not (path.is_file() and path.read_bytes() == content):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _bring_mathjax(python: Path, folder: Path) -> None:
    """Copy MathJax from its package, once: equations then need no network."""
    if folder.is_dir():
        return
    code = "import importlib.util as u; print(*u.find_spec('jupyter_server_mathjax').submodule_search_locations)"
    package = subprocess.run([python, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout.strip()
    part = folder.with_name("mathjax.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(Path(package) / "static", part, ignore=shutil.ignore_patterns(*_SKIPPED))
    part.rename(folder)

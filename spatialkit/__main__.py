"""The commands of the bundle: `python -m spatialkit --help`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from spatialkit.lab import places, settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spatialkit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, says: str, *options: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=says, description=says)
        if name != "verify":  # whose base is a commit
            command.add_argument("--base", type=Path, default=None, help=argparse.SUPPRESS)
        if "only" in options:
            command.add_argument("--only", type=_numbers, default=(), metavar="01,12b", help="only these")
        if "jobs" in options:
            command.add_argument("--jobs", type=_positive, default=None, help="processes; default: all cores")
        return command

    figures = add("figures", "execute the notebooks: every table and figure", "only", "jobs")
    figures.add_argument("--profile", choices=("smoke", "laptop", "paper"))
    figures.add_argument("--fresh", action="store_true", help="ignore committed results")
    again = add("reproduce", "compute again elsewhere, and compare with the committed evidence", "only", "jobs")
    again.add_argument("--profile", choices=("laptop", "paper"), default="laptop")
    again.add_argument("--fresh", action="store_true", help="begin anew, instead of going on with the last one")
    add("test", "unit tests, notebooks at profile smoke, stored outputs, style", "jobs")
    add("render", "rerun the committed notebooks in place from committed results", "only", "jobs")
    lab = add("lab", "JupyterLab on this machine only, opened at notebooks/")
    lab.add_argument("--port", type=int, default=8888)
    lab.add_argument("--no-browser", action="store_true")
    add("bench", "the speed comparisons of benchmarks/", "only")
    add("audit", "list committed results that neither the present code made nor code found equal")
    verify = add("verify", "carry results over a change of code: run old and new code side by side")
    verify.add_argument("--task", help="only this one")
    verify.add_argument("--base", dest="commit", metavar="COMMIT", help="that holds the old code; default: found")
    verify.add_argument("--within", type=float, default=0.0, help="relative difference to accept, at most 1e-5")
    verify.add_argument("--because", default="", help="the reason for it")
    add("book", "an offline site of the committed notebooks, in build/book/html")
    add("doctor", "what was found here, what is missing, how to get it")
    return parser


def _numbers(text: str) -> tuple[str, ...]:
    """`1,12b` as ("01", "12b")."""
    words = text.lower().replace(",", " ").split()
    return tuple(sorted({word.zfill(2 + len(word.lstrip("0123456789"))) for word in words}))


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _figures(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.commands.plan import Plan, choose_profile
    from spatialkit.commands.runner import figures

    profile, reason = (args.profile, "as asked") if args.profile else choose_profile(base, args.only, args.fresh)
    return figures(Plan(profile, reason, args.only, jobs, args.fresh, base))


def _reproduce(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.commands.plan import choose_profile
    from spatialkit.commands.reproduce import Reproduction, reproduce

    choose_profile(base, args.only, fresh=True)  # says before any work which data are missing
    return reproduce(Reproduction(args.profile, only=args.only, jobs=jobs, base=base), anew=args.fresh)


def _test(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.commands.checks import check_all

    return check_all(base, jobs)


def _render(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.commands.render import render

    return render(base, args.only, jobs)


def _lab(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.commands.plan import environment

    words = ["--ip=127.0.0.1", f"--port={args.port}", f"--ServerApp.root_dir={base / 'notebooks'}"]
    words += ["--no-browser"] if args.no_browser else []
    words += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as in a container
    return subprocess.call([sys.executable, "-m", "jupyterlab", *words], env=environment(), cwd=base)


def _bench(args: argparse.Namespace, base: Path, jobs: int) -> int:
    scripts = sorted(path for path in (base / "benchmarks").glob("*.py") if not path.name.startswith("_"))
    chosen = [path for path in scripts if not args.only or any(word in path.stem for word in args.only)]
    failed = []
    for path in chosen:
        print(f"== {path.stem}", flush=True)
        if subprocess.call([sys.executable, str(path)], cwd=base) != 0:
            failed.append(path.stem)
    names = f": {', '.join(failed)}" if failed else ""
    print(f"{len(chosen) - len(failed)} benchmarks ended well, {len(failed)} did not{names}")
    return 1 if failed or not chosen else 0


def _audit(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.lab.audit import main as audit

    return audit(base)


def _verify(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.lab.verify import verify

    return verify(base, args.commit, args.task, args.within, args.because)


def _book(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.commands.book import book

    return book(base)


def _doctor(args: argparse.Namespace, base: Path, jobs: int) -> int:
    from spatialkit.commands.doctor import doctor

    return doctor(base)


def _lend_a_home(base: Path) -> None:
    """A home under build/ for this process and all it starts, if the user has none: Jupyter cannot do without."""
    if settings.home() is None:
        lent = base / "build" / "home"
        print(f"HOME is not set and this user has no entry in the list of users: using {lent} as home", file=sys.stderr)
        settings.lend_home(lent)


def _internal(words: list[str]) -> int | None:
    """Commands that the runner gives to processes of its own; None when it is none of them."""
    if words[:1] == ["_execute"]:
        from spatialkit.commands.execute import execute

        notebook, output, *profile = words[1:]
        return execute(Path(notebook), Path(output), {"profile": profile[1]} if profile else None)
    if words[:1] == ["_scorecard"]:
        from spatialkit.claims.overview import write_pages
        from spatialkit.claims.picture import draw

        draw()
        write_pages()
        return 0
    return None


_COMMANDS = {
    "figures": _figures, "reproduce": _reproduce, "test": _test, "render": _render, "lab": _lab, "bench": _bench,
    "audit": _audit, "book": _book, "doctor": _doctor, "verify": _verify,
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = sys.argv[1:] if words is None else words
    internal = _internal(words)
    if internal is not None:
        return internal
    args = _parser().parse_args(words)
    from loky import cpu_count

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        base = (getattr(args, "base", None) or places.root()).resolve()
        _lend_a_home(base)
        return _COMMANDS[args.command](args, base, getattr(args, "jobs", None) or cpu_count())
    except ValueError as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept: the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

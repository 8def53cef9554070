"""`render`: rerun the committed notebooks in place from committed results, without what churns."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from spatialkit.commands import report
from spatialkit.commands.execute import Outcome, part_path
from spatialkit.commands.plan import environment, select
from spatialkit.commands.runner import Workers, alone

__all__ = ["counts_are_in_order", "normalise", "render"]

_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# Times, versions and random identifiers, as `nbstripout --keep-output --keep-count --keep-id` strips them.
_CHURNS = [
    "metadata.papermill", "metadata.signature", "metadata.widgets", "metadata.language_info.version",
    "cell.metadata.papermill", "cell.metadata.execution", "cell.metadata.ExecuteTime",
    "cell.metadata.collapsed", "cell.metadata.scrolled",
]  # fmt: skip
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def counts_are_in_order(cells: list) -> bool:
    """Whether the code cells were executed once each, from top to bottom: counts 1, 2, ..., n."""
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    return counts == list(range(1, len(counts) + 1))


def normalise(notebook):
    """Take out of an executed notebook what differs between two runs with the same results.

    Beside the metadata: stderr (progress bars, warnings) and the random addresses of widgets, which are dead
    without a running kernel; their text stays.
    """
    from nbstripout import strip_output

    notebook = strip_output(notebook, keep_output=True, keep_count=True, keep_id=True, extra_keys=_CHURNS)
    notebook.metadata.kernelspec = dict(_KERNEL)
    for cell in notebook.cells:
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill adds an empty list
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop(_WIDGET_VIEW, None)
    return notebook


def _put_in_place(executed: Path, notebook: Path, before: bytes) -> bool:
    """Write the normalised result over the committed notebook; False when that changes no byte.

    Raises:
        ValueError: If somebody edited the notebook meanwhile, or its cells did not run in order.
    """
    import nbformat

    fresh = normalise(nbformat.read(executed, as_version=4))
    if not counts_are_in_order(fresh.cells):
        raise ValueError("execution counts are not 1, 2, ..., n")
    text = (nbformat.writes(fresh) + "\n").encode()
    if notebook.read_bytes() != before:
        raise ValueError("edited while it ran")
    if text == before:
        return False
    part = part_path(notebook)
    part.write_bytes(text)
    os.replace(part, notebook)
    return True


def render(base: Path, only: tuple[str, ...] = (), jobs: int = 1) -> int:
    """Rerun notebooks with the defaults of their parameters cells; one that fails stays as it was.

    Returns:
        Exit status: 0 when every notebook ran and was put in place, 1 otherwise.
    """
    executed, logs = base / "build" / "render" / "notebooks", base / "build" / "render" / "logs"
    tasks = [(path, executed / path.name, logs / f"{path.stem}.log") for path in select(base, only)]
    env = environment(base, SPATIALKIT_JOBS="1", SPATIALKIT_TQDM_INTERVAL="10")
    print(f"rendering {report.count(len(tasks), 'notebook')} from committed results", flush=True)
    with alone(base, "render"):
        before = [path.read_bytes() for path, _, _ in tasks]
        with Workers(jobs, env) as workers:
            outcomes = workers.run(tasks)
        changed = []
        for i, (path, output, _) in enumerate(tasks):
            try:
                if outcomes[i].status == "passed" and _put_in_place(output, path, before[i]):
                    changed.append(path.name)
            except ValueError as error:
                outcomes[i] = replace(outcomes[i], status="failed", error=str(error))
    return _report(outcomes, changed)


def _report(outcomes: list[Outcome], changed: list[str]) -> int:
    failed = [outcome for outcome in outcomes if outcome.status != "passed"]
    if failed:
        report.print_summary(outcomes)
    same = len(outcomes) - len(failed) - len(changed)
    print(f"{len(changed)} changed, {same} unchanged, {len(failed)} failed and left as they were")
    for name in changed:
        print(f"  notebooks/{name}", flush=True)
    return 1 if failed else 0

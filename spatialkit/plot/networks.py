"""What the measures say of one network: a figure, and a page to send to a colleague."""

from __future__ import annotations

import base64
import html
import io
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from spatialkit import lab, measure
from spatialkit.plot.figures import reference

__all__ = ["profile", "report"]

_PANELS = {  # measure -> what the axis says, the value to compare with and its name
    "orderness": ("orderness of maps", 0.0, "places mean nothing"),
    "D": ("response D, G", None, ""),
    "R": ("R = D / G", 1.0, "as the image"),
    "cosine": ("cosine response", None, ""),
    "receptive field": ("receptive field (px)", None, ""),
    "total variation": ("total variation of kernels", None, ""),
    "constant mode": ("share of the constant mode", None, ""),
    "linear probe": ("right by a linear probe", None, ""),
}
_WIDTH, _HEIGHT = 2.3, 1.9  # of a panel, in inches


def profile(table: pd.DataFrame) -> Figure:
    """The measures of a network over the depth of its layers, a panel each.

    Args:
        table: As `spatialkit.measure_all` returns, or another one with the columns of `spatialkit.measure.tables`.

    Returns:
        A figure, which is not shown yet. Orderness: the median over maps, and the band between their quartiles.
        Responses: their interval; those to deformation, shift and turn solid, that to noise dashed.

    Raises:
        ValueError: If the table holds none of the measures.
    """
    known = table[table["value"].notna()]
    names = [name for name in _PANELS if (known["measure"] == name).any()]
    if not names:
        raise ValueError("the table has no value of a measure to draw: pass what sk.measure_all(model, images) returns")
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for axis, name in zip(axes, names, strict=False):
        part = known[known["measure"].isin([name, "G"] if name == "D" else [name])]
        _draw(axis, name, part)
        axis.set_xlim(table["depth"].min() - 0.5, table["depth"].max() + 0.5)
    for axis in list(axes)[len(names) :]:
        axis.remove()
    figure.supxlabel("place in the order of layers (0: the image)", size="small")
    return figure


def _draw(axis, name: str, part: pd.DataFrame) -> None:
    label, value, meaning = _PANELS[name]
    axis.set_title(label, size="small")
    if name == "orderness":
        maps = part.groupby("depth")["value"].quantile([0.25, 0.5, 0.75]).unstack()
        axis.plot(maps.index, maps[0.5], "o-", ms=2.5, lw=1)
        axis.fill_between(maps.index, maps[0.25], maps[0.75], alpha=0.25, lw=0)
    else:
        for perturbation, line in part.groupby("perturbation", sort=False):
            style = "--" if (line["measure"] == "G").all() else "-"
            axis.plot(line["depth"], line["value"], style, marker="o", ms=2.5, lw=1, label=perturbation)
            axis.fill_between(line["depth"], line["low"], line["high"], alpha=0.2, lw=0)
    if name in ("D", "R", "cosine") and (part["value"] > 0).all():
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(LogFormatter())
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    if name in ("D", "cosine"):
        axis.legend(fontsize="xx-small", frameon=False)
    if value is not None:
        reference(axis, value, meaning)
    axis.spines[["top", "right"]].set_visible(False)


def report(
    model,
    images,
    path: str | os.PathLike,
    labels=None,
    layers: str | Sequence[str] = "leaves",
    seed: int = 0,
) -> Path:
    """One page, complete in itself, with every measure of a network: to open in a browser, or to send.

    Args:
        model, images, labels, layers, seed: As for `spatialkit.measure_all`.
        path: The file to write, ``.html``; one that is there is replaced.

    Returns:
        The path of the file.

    Raises:
        ValueError: If nothing can be written there, or as `spatialkit.measure_all`.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"path must be a .html file in a folder that exists, got {path}")
    table = measure.measure_all(model, images, labels, layers, seed)
    try:
        lab.atomic_write(path, _page(model, images, table, seed).encode())
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): name another file") from error
    return path


def _page(model, images, table: pd.DataFrame, seed: int) -> str:
    name = html.escape(type(model).__name__)
    size = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    seen = f"{len(images):,} images of {' × '.join(map(str, images.shape[1:]))}"
    versions = f"spatialkit, PyTorch {_version('torch')}, Python {platform.python_version()}; seed {seed}"
    return _PAGE.format(
        name=name,
        facts=html.escape(f"{size}; {table['layer'].nunique()} layers; measured on {seen}; {versions}."),
        said="".join(f"<li>{html.escape(line)}</li>" for line in _said(table)),
        picture=_picture(profile(table)),
        values=_values(table),
        gaps=_gaps(table),
    )


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _said(table: pd.DataFrame) -> list[str]:
    """What the numbers say, in words."""
    of = {name: part.dropna(subset="value") for name, part in table.groupby("measure", sort=False)}
    lines = []
    if len(order := of["orderness"].groupby(["depth", "layer"])["value"].median()) > 1:
        lines.append(
            f"Orderness of maps goes from {order.iloc[0]:.2f} (median over maps, {order.index[0][1]}) to "
            f"{order.iloc[-1]:.2f} ({order.index[-1][1]}, the last layer with maps of 3 × 3 places or more)."
        )
    if len(ratio := of["R"]):
        last = ratio.iloc[-1]
        more = "less" if last["high"] < 1 else "more" if last["low"] > 1 else "about as much"
        lines.append(
            f"R of the last layer, {last['layer']}, is {last['value']:.2f} ({last['low']:.2f} to {last['high']:.2f}): "
            f"beside the image, it responds {more} to small deformations than to noise of the same size."
        )
    if len(fields := of["receptive field"]) > 1:
        widest = fields.loc[fields["value"].idxmax()]
        lines.append(f"The widest effective receptive field is {widest['value']:.1f} px, of {widest['layer']}.")
    if "linear probe" in of and len(of["linear probe"]):
        best = of["linear probe"].loc[of["linear probe"]["value"].idxmax()]
        lines.append(f"A linear probe does best on {best['layer']}: {best['value']:.0%} of the images.")
    return lines


def _picture(figure: Figure) -> str:
    stream = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "spatialkit"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()


def _values(table: pd.DataFrame) -> str:
    """A row per layer, a column per measure; orderness is the median over maps."""
    named = np.where(table["perturbation"] != "", table["measure"] + ", " + table["perturbation"], table["measure"])
    wide = table.assign(what=named).query("value == value")
    wide = wide.pivot_table(index=["depth", "layer"], columns="what", values="value", aggfunc="median", sort=False)
    return wide.sort_index().to_html(float_format="{:.3g}".format, na_rep="", border=0)


def _gaps(table: pd.DataFrame) -> str:
    """What could not be measured, and why."""
    empty = table[table["value"].isna()].drop_duplicates(["layer", "measure", "why"])
    rows = empty.groupby(["measure", "why"], sort=False)["layer"].agg(["size", lambda names: ", ".join(names[:8])])
    rows.columns = ["layers", "such as"]
    return rows.reset_index().to_html(index=False, border=0)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: what its layers hold of places</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ width: 100%; background: white; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .8rem; }}
th, td {{ padding: .15rem .5rem; text-align: right; border-bottom: 1px solid #8884; }}
</style>
</head>
<body>
<h1>{name}: what its layers hold of places</h1>
<p>{facts}</p>
<ul>{said}</ul>
<img src="{picture}" alt="Measures of the network against the depth of its layers, a panel each">
<p>Orderness: 0 where places mean nothing, 1 for diffusion, 3 for smooth maps; the line is the median over maps, the
band lies between the quartiles. D and G: mean squared response to a perturbation over the mean squared distance of two
images; bands are 95 % bootstrap intervals over images. The receptive field is the standard deviation of the places that
move the central unit. The constant mode is the share of the kernels' energy that a local mean sees.</p>
<h2>Values</h2>
<div>{values}</div>
<h2>What could not be measured</h2>
<div>{gaps}</div>
</body>
</html>
"""

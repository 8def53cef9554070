"""The one look of every figure, and how a figure is kept."""

import io
import os
import string
from collections.abc import Callable, Iterable

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from spatialkit import places
from spatialkit.data.sets import TITLES
from spatialkit.lab.provenance import describe
from spatialkit.lab.store import atomic_write

__all__ = [
    "GREY",
    "NAMES",
    "explore",
    "label_panels",
    "reference",
    "save",
    "set_theme",
    "shades",
    "show_images",
    "write",
]

GREY = "0.45"
NAMES = TITLES
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "spatialkit",
    "figure.dpi": 96,
    "savefig.bbox": "tight",
    "axes.titlesize": "medium",
    "image.interpolation": "nearest",
    "image.cmap": "viridis",
    "legend.frameon": False,
}
_FORMATS = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "dpi": 200},
}


def set_theme() -> None:
    """Seaborn's ticks in paper size, colours that colour-blind readers tell apart."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=_RC)


def shades(values: Iterable) -> dict:
    """A colour from viridis for each size, from dark to light, without the end that white paper swallows."""
    values = list(values)
    return dict(zip(values, sns.color_palette("viridis", len(values) + 1), strict=False))


def label_panels(axes: Iterable) -> None:
    """Bold a, b, c, ... above the top left corner of each panel."""
    for letter, axis in zip(string.ascii_lowercase, getattr(axes, "flat", axes), strict=False):
        axis.text(-0.02, 1.03, letter, transform=axis.transAxes, weight="bold", ha="right", va="bottom")


def reference(axis, value: float, label: str, *, vertical: bool = False) -> None:
    """A thin, grey, dashed and labelled line: chance, theory, or a source's number."""
    draw = axis.axvline if vertical else axis.axhline
    draw(value, color=GREY, lw=0.8, ls="--", zorder=0)
    style = {"color": GREY, "size": "x-small"}
    if vertical:
        where = {"transform": axis.get_xaxis_transform(), "rotation": 90, "ha": "right", "va": "top"}
        axis.text(value, 1, label, **where, **style)
    else:
        axis.text(1, value, label, transform=axis.get_yaxis_transform(), ha="right", va="bottom", **style)


def show_images(axis, images, columns: int) -> None:
    """Images N x C x H x W (uint8 or in 0..1) as a sheet with ``columns`` per row, without interpolation."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    white = 1 if images.dtype.is_floating_point else 255
    sheet = images.new_full((rows * columns, channels, height + 1, width + 1), white)
    sheet[:n, :, :height, :width] = images
    sheet = sheet.reshape(rows, columns, channels, height + 1, width + 1).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]
    axis.imshow(sheet.numpy() if channels == 3 else sheet[..., 0].numpy(), cmap="gray")
    axis.set_axis_off()


def explore(function: Callable, **controls) -> None:
    """Sliders for a function, where somebody can move them.

    A notebook that the batch commands run shows its static picture only: widgets are dead without
    a kernel, and now and then keep a batch run from ending.

    Args:
        function: Draws or prints something, given a value for each control.
        **controls: As in ``ipywidgets.interact``: ``(low, high, step)``, a list of choices, a boolean.
    """
    if "SPATIALKIT_OUT" not in os.environ:
        from ipywidgets import interact

        interact(function, **controls)


def save(figure: Figure, name: str, table: pd.DataFrame) -> None:
    """Keep a figure as svg and png, with the tidy table behind it as csv and its provenance in grey below.

    The same table gives the same bytes. Files go to ``figures/`` of the output folder, which is
    the bundle's own only when the batch commands run the notebook.

    Args:
        figure: What to save.
        name: The claim's id, which names the files.
        table: The table that the figure shows; if a sweep made it, its provenance is printed.
    """
    if "made" in table.attrs:
        figure.draw_without_rendering()  # a layout engine places the panels only now
        drawn = figure.get_tightbbox()  # in inches
        x, y = drawn.x0 / figure.get_figwidth(), (drawn.y0 - 0.05) / figure.get_figheight()
        figure.text(x, y, describe(table), size=5, color=GREY, ha="left", va="top")
    write(figure, name)
    csv = table.to_csv(index=False, float_format="%.7g", lineterminator="\n")
    atomic_write(places.out() / "figures" / f"{name}.csv", csv)


def write(figure: Figure, name: str) -> None:
    """Keep a figure as svg and png alone; the same figure gives the same bytes."""
    for kind, options in _FORMATS.items():
        stream = io.BytesIO()
        with mpl.rc_context(_RC):
            figure.savefig(stream, format=kind, **options)
        atomic_write(places.out() / "figures" / f"{name}.{kind}", stream.getvalue())

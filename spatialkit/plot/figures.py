"""The one look of every figure, and how a figure is kept."""

import base64
import inspect
import io
import re
import string
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from spatialkit import lab
from spatialkit.data.sets import TITLES
from spatialkit.lab import places

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
_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "spatialkit",
    "figure.dpi": 96,
    "savefig.bbox": "tight",
    "axes.titlesize": "medium",
    "image.interpolation": "nearest",
    "image.cmap": "viridis",
    "legend.frameon": False,
}
_FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "dpi": 200},
}
_TAG = re.compile(r"(<[^!][^>]*>)")  # comments count as words
_VALUE = re.compile(r"(data:image/png;base64,[^\"]+|#[0-9a-f]{6}\b|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_IDENTIFIER = re.compile(r"\b[a-z][0-9a-f]{10}\b")


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


def explore(function: Callable, labels: dict[str, str] | None = None, **controls) -> None:
    """Sliders for a function where somebody can move them, else its picture for the first values.

    Somebody is there when the front end can ask for input: JupyterLab, VS Code and the like can; papermill,
    nbclient, nbconvert and nbval say that they cannot. Widgets are dead without a kernel, and now and then
    keep a batch run from ending.

    Args:
        function: Draws or prints something, given a value for each control.
        labels: Control -> what stands beside it, in words with units; else the name of the argument.
        **controls: As in ``ipywidgets.interact``: ``(low, high, step)``, a list of choices, a boolean.
            A control begins at the default of its argument, else in the middle or at the first choice.

    Raises:
        ValueError: If a label belongs to no control.
    """
    labels = labels or {}
    if unknown := set(labels) - set(controls):
        raise ValueError(f"labels of {', '.join(sorted(unknown))}, no control; there are {', '.join(controls)}")
    first = {name: _first_value(function, name, control) for name, control in controls.items()}
    if not _is_interactive():
        function(**first)
        return
    from ipywidgets import interact

    shown = interact(function, **controls)
    for control in shown.widget.kwargs_widgets if labels else []:
        control.description = labels.get(control.description, control.description)
        control.style.description_width = "initial"


def _first_value(function: Callable, name: str, control):
    """What ``ipywidgets.interact`` begins with."""
    parameter = inspect.signature(function).parameters.get(name)
    if parameter is not None and parameter.default is not parameter.empty:
        return parameter.default
    if isinstance(control, tuple) and len(control) > 1 and all(isinstance(v, int | float) for v in control):
        low, high, step = (*control, 1)[:3]
        return low + (high - low) // (2 * step) * step
    return next(iter(control)) if isinstance(control, list | tuple | dict) else control


def _is_interactive() -> bool:
    """Whether the cell that runs was sent by a front end that can ask its user for input."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent().get("content", {}).get("allow_stdin", False))


def save(figure: Figure, name: str, table: pd.DataFrame, *, of: lab.Tables | None = None) -> None:
    """Keep a figure as svg and png, with the tidy table behind it as csv and where its runs come from in grey below.

    The same table gives the same bytes, and a file that says the same already is left alone. Files go to
    ``figures/`` of the output folder, which is the bundle's own only when the batch commands run the notebook.

    Args:
        figure: What to save.
        name: The claim's id, which names the files.
        table: The table that the figure shows.
        of: The runs that are shown: a sweep's table, a part of it, or a list of such tables. None: no sweep made them.

    Raises:
        ValueError: If no sweep made the runs; or if ``of`` is left out for rows of a sweep.
    """
    if of is None and lab.is_swept(table):
        raise ValueError(f"a sweep made these rows: say so with plot.save(figure, {name!r}, table, of=table)")
    if of is not None:
        described = lab.describe(of)
        figure.draw_without_rendering()  # a layout engine places the panels only now
        drawn = figure.get_tightbbox()  # in inches
        x, y = drawn.x0 / figure.get_figwidth(), (drawn.y0 - 0.05) / figure.get_figheight()
        figure.text(x, y, described, size=5, color=GREY, ha="left", va="top")
    write(figure, name)
    csv = table.to_csv(index=False, float_format="%.7g", lineterminator="\n")
    _put(f"{name}.csv", csv.encode(), _same_table)


def write(figure: Figure, name: str) -> None:
    """Keep a figure as svg and png alone; the same figure gives the same bytes.

    A picture that shows the same as the one that is there is left alone: another processor moves points by less
    than anybody can see.
    """
    drawn = {}
    for kind, options in _FORMATS.items():
        stream = io.BytesIO()
        with mpl.rc_context(_RC):
            figure.savefig(stream, format=kind, **options)
        drawn[kind] = stream.getvalue()
    same = _put(f"{name}.svg", drawn["svg"], _same_drawing)
    _put(f"{name}.png", drawn["png"], lambda old, new: same and _pixels(old).shape == _pixels(new).shape)


def _put(name: str, content: bytes, same: Callable[[bytes, bytes], bool]) -> bool:
    """Write a file of figures/ unless the one that is there says the same; whether it does."""
    path = places.out() / "figures" / name
    try:
        if path.is_file() and same(path.read_bytes(), content):
            return True
    except (ValueError, OSError):  # a damaged file
        pass
    try:
        lab.atomic_write(path, content)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): set SPATIALKIT_OUT to a folder of yours") from error
    return False


def _same_table(old: bytes, new: bytes) -> bool:
    """Whether two tables are equal to seven digits."""
    tables = (pd.read_csv(io.BytesIO(content)) for content in (old, new))
    try:
        pd.testing.assert_frame_equal(*tables, rtol=1e-6)
    except AssertionError:
        return False
    return True


def _same_drawing(old: bytes, new: bytes) -> bool:
    """Whether two svg files say the same words and draw the same, points to 0.001 pt and colours to one level of 255.

    The identifiers of markers and clips are hashes of their paths: they count by their order.
    """
    if old == new:
        return True
    pieces = [_TAG.split(_with_plain_identifiers(content.decode())) for content in (old, new)]
    if len(pieces[0]) != len(pieces[1]) or pieces[0][::2] != pieces[1][::2]:  # the words between the tags
        return False
    for one, other in zip(pieces[0][1::2], pieces[1][1::2], strict=True):
        if one == other:
            continue
        values = [_VALUE.split(tag) for tag in (one, other)]
        if len(values[0]) != len(values[1]) or values[0][::2] != values[1][::2]:
            return False
        if not all(map(_same_value, values[0][1::2], values[1][1::2])):
            return False
    return True


def _with_plain_identifiers(svg: str) -> str:
    numbers: dict[str, str] = {}
    return _IDENTIFIER.sub(lambda match: numbers.setdefault(match.group(), f"id{len(numbers)}"), svg)


def _same_value(one: str, other: str) -> bool:
    if one == other:
        return True
    if one.startswith("#") and other.startswith("#"):
        levels = [np.array(list(bytes.fromhex(colour[1:])), int) for colour in (one, other)]
        return bool(abs(levels[0] - levels[1]).max() <= 1)
    if one.startswith("data:") and other.startswith("data:"):
        images = [_pixels(base64.b64decode(image.partition(",")[2])).astype(int) for image in (one, other)]
        return images[0].shape == images[1].shape and bool(abs(images[0] - images[1]).max() <= 1)
    try:
        return abs(float(one) - float(other)) < 1e-3
    except ValueError:
        return False


def _pixels(png: bytes) -> np.ndarray:
    """Levels H x W x 4 of a picture."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGBA"))

"""The one look of every figure, how a figure is kept, and pictures of a network's measures."""

from spatialkit.plot.figures import (
    GREY,
    NAMES,
    explore,
    label_panels,
    reference,
    save,
    set_theme,
    shades,
    show_images,
    write,
)
from spatialkit.plot.networks import profile, report

__all__ = [
    "GREY",
    "NAMES",
    "explore",
    "label_panels",
    "profile",
    "reference",
    "report",
    "save",
    "set_theme",
    "shades",
    "show_images",
    "write",
]

"""The one safe place through which the package imports torchvision.

Beside a torch without CUDA libraries torchvision's compiled part may not load, and its import then ends in a
RuntimeError about the operator ``torchvision::nms``. Only in that case, two operators are declared by name
(they cannot be called), and the import is tried once more; where torchvision loads, nothing is declared.

Usage, also in spawned workers: ``from spatialkit._torchvision import torchvision``. It takes seconds:
import it inside the function that needs it.
"""

from __future__ import annotations

import importlib
import sys

from torch.library import Library

__all__ = ["torchvision"]

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Library] = []  # a Library undoes its declarations when it is collected: keep it


def _forget() -> None:
    """Drop what a failed import left behind; a second import would trip over it."""
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]


def _declare_operators() -> None:
    """Declare the two operators whose absence stops the import of torchvision."""
    fragment = Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        fragment.define(name + _BOXES)
    _declared.append(fragment)


if "torchvision" not in sys.modules:
    _forget()
try:
    torchvision = importlib.import_module("torchvision")
except RuntimeError as error:
    if "operator torchvision::nms does not exist" not in str(error):
        raise
    _forget()
    _declare_operators()
    torchvision = importlib.import_module("torchvision")

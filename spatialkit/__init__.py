"""spatialkit: how convolutional networks hold, use and lose spatial information.

``import spatialkit as sk`` is all that a notebook needs. What people use most is at the top (``sk.load``,
``sk.orderness``, ``sk.sensitivity``, ``sk.trained``, ...), the rest in the rooms of the house: ``sk.data`` loads and
disorders images, ``sk.deform`` moves their pixels, ``sk.measure`` quantifies spatial information, ``sk.models`` and
``sk.train`` make networks, ``sk.theory`` has closed forms, ``sk.lab`` runs experiments and keeps their results,
``sk.claims`` compares them with the sources, ``sk.plot`` draws them.

Nothing is imported before it is used.
"""

import importlib

__version__ = "0.1.0"

_ROOMS = ("claims", "data", "deform", "lab", "measure", "models", "plot", "theory", "train")
_FACE = {
    "data": ("block_swap", "load"),
    "deform": ("Diffeomorphism", "ThinPlateSpline", "warp"),
    "measure": ("calibrate", "layer_orderness", "measure_all", "orderness", "sensitivity", "total_variation"),
    "models": ("AttributeCNN", "BasisConv2d", "IRevNet", "build", "irevnet_imagenet", "pretrained"),
    "plot": ("report",),
    "theory": ("gaussian_derivatives",),
    "train": ("classification", "fit", "trained"),
}
_PLACES = {name: room for room, names in _FACE.items() for name in names}

__all__ = ["__version__", *sorted(_ROOMS), *sorted(_PLACES)]


def __getattr__(name: str):
    """A room, or what is at the top, when it is asked for (PEP 562)."""
    if name in _ROOMS:
        return importlib.import_module(f"spatialkit.{name}")
    if name in _PLACES:
        return getattr(importlib.import_module(f"spatialkit.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'spatialkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""The one long table that all measures of layers return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

__all__ = ["COLUMNS", "long_table"]

COLUMNS = ("layer", "depth", "map", "perturbation", "normaliser", "measure", "value", "low", "high", "why")
_TYPES = {"depth": int, "map": "Int64", "value": float, "low": float, "high": float}


def long_table(rows: Iterable[Mapping]) -> pd.DataFrame:
    """Rows with the columns:

    - ``layer``: name; ``depth``: its place in the order of outputs, from 1, the images themselves 0;
    - ``map``: number from 0, missing where maps are taken together;
    - ``perturbation`` and ``normaliser``: what was done to images, and what the response is divided by; empty where
      there is none;
    - ``measure``: which number; ``value``, and ``low`` and ``high``, its interval, nan where there is none;
    - ``why``: why there is no value, or what to know about it; empty mostly.
    """
    words = {"perturbation": "", "normaliser": "", "why": ""}
    return pd.DataFrame([{**words, **row} for row in rows], columns=list(COLUMNS)).astype(_TYPES)

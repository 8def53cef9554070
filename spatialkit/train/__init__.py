"""Training: what to learn, the one loop, and the networks that it made."""

from spatialkit.train.classes import classification
from spatialkit.train.hinge import fit_hinge
from spatialkit.train.kept import RECIPES, Recipe, Trained, trained
from spatialkit.train.loop import device_of, error_rate, fit, one_cycle, predict, standardise
from spatialkit.train.problem import Problem
from spatialkit.train.scales import scale_task

__all__ = [
    "RECIPES",
    "Problem",
    "Recipe",
    "Trained",
    "classification",
    "device_of",
    "error_rate",
    "fit",
    "fit_hinge",
    "one_cycle",
    "predict",
    "scale_task",
    "standardise",
    "trained",
]

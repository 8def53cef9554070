"""Training: what to learn, the one loop, and the networks that it made."""

from spatialkit.train.classes import classification
from spatialkit.train.gradients import fit
from spatialkit.train.hinge import fit_hinge
from spatialkit.train.kept import Trained, trained
from spatialkit.train.kernel_decay import sgd_on_kernels
from spatialkit.train.predicting import device_of, error_rate, predict, standardise
from spatialkit.train.problem import Problem
from spatialkit.train.recipes import RECIPES, Recipe, adam, one_cycle, sgd
from spatialkit.train.scales import scale_task

__all__ = [
    "RECIPES",
    "Problem",
    "Recipe",
    "Trained",
    "adam",
    "classification",
    "device_of",
    "error_rate",
    "fit",
    "fit_hinge",
    "one_cycle",
    "predict",
    "scale_task",
    "sgd",
    "sgd_on_kernels",
    "standardise",
    "trained",
]

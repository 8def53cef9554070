"""What a network is to learn: images and labels for training, for choosing and for the test, and the loss."""

from spatialkit.problems.classification import classification
from spatialkit.problems.problem import Problem
from spatialkit.problems.scales import scale_task

__all__ = ["Problem", "classification", "scale_task"]

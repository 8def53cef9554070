"""How to descend: optimisers, schedules of the learning rate, and recipes of both."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

__all__ = ["RECIPES", "Recipe", "adam", "one_cycle", "optimizer_of", "sgd"]

_OPTIMIZER = (
    "optimizer must be a function of the model, such as sk.train.adam(1e-3) or "
    "lambda model: torch.optim.Adam(model.parameters(), lr=1e-3)"
)


def adam(learning_rate: float) -> Callable[[nn.Module], Optimizer]:
    """Adam on all parameters, for ``fit``."""
    return partial(_adam, learning_rate=learning_rate)


def sgd(
    learning_rate: float, momentum: float = 0.0, decay: float = 0.0, nesterov: bool = False
) -> Callable[[nn.Module], Optimizer]:
    """Stochastic gradient descent, for ``fit``; ``decay`` is of weights, not of biases and normalisations."""
    return partial(_sgd, learning_rate=learning_rate, momentum=momentum, decay=decay, nesterov=nesterov)


def _adam(model: nn.Module, learning_rate: float) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=learning_rate)


def _sgd(model: nn.Module, learning_rate: float, momentum: float, decay: float, nesterov: bool) -> Optimizer:
    groups: list = [{"params": list(model.parameters())}]
    if decay:
        weights, others = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
        groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov)


def optimizer_of(model: nn.Module, make: Callable[[nn.Module], Optimizer]) -> Optimizer:
    """What a function makes of a model.

    Raises:
        ValueError: If it cannot take a model, or returns no optimiser.
    """
    try:
        optimizer = make(model)
    except TypeError as error:  # torch's own want parameters
        raise ValueError(f"{_OPTIMIZER}; this one fails with: {error}") from error
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"{_OPTIMIZER}; this one returns {type(optimizer).__name__}")
    return optimizer


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """A schedule for ``fit``: each group's learning rate rises to what it is for 30 % of the steps, then falls to 0."""
    rates = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, total_steps=steps, cycle_momentum=False)


def _cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, steps)


@dataclass(frozen=True)
class Recipe:
    """How to train: convolutional networks with SGD and momentum, fully connected ones with Adam."""

    learning_rate: float  # largest of SGD
    nesterov: bool
    schedule: Callable | None
    schedule_of_adam: Callable | None
    decay: float = 5e-4  # none with Adam
    learning_rate_of_adam: float = 0.1
    momentum: float = 0.9

    def options(self, fully_connected: bool, learning_rate: float | None = None) -> dict:
        """Optimiser and schedule as `spatialkit.train.fit` takes them; the learning rate is the recipe's by default."""
        if fully_connected:
            return {"optimizer": adam(learning_rate or self.learning_rate_of_adam), "schedule": self.schedule_of_adam}
        descent = sgd(learning_rate or self.learning_rate, self.momentum, self.decay, self.nesterov)
        return {"optimizer": descent, "schedule": self.schedule}


RECIPES = {
    "source": Recipe(learning_rate=0.1, nesterov=False, schedule=_cosine, schedule_of_adam=None),
    "fast": Recipe(learning_rate=0.05, nesterov=True, schedule=one_cycle, schedule_of_adam=one_cycle),
}

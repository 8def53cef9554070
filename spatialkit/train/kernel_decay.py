"""Weight decay of kernels, whatever they are composed of."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from spatialkit.models import BasisConv2d

__all__ = ["sgd_on_kernels"]


def sgd_on_kernels(
    learning_rate: float, momentum: float = 0.0, decay: float = 0.0, nesterov: bool = False
) -> Callable[[nn.Module], Optimizer]:
    """Stochastic gradient descent, for ``fit``, whose decay in every `BasisConv2d` is of the kernels.

    Decay of coefficients would grow and shrink with the size of the atoms, and act in other directions. The gradient of
    |kernel|^2 / 2 on coefficients is coefficients @ basis @ basis.T. All else is as with `spatialkit.train.sgd`, and so
    is this where the atoms are pixels.

    Raises:
        ValueError: When it meets a model with atoms that are learned: their decay is not defined here.
    """
    return partial(_Descent, learning_rate=learning_rate, momentum=momentum, decay=decay, nesterov=nesterov)


class _Descent(SGD):
    def __init__(self, model: nn.Module, learning_rate: float, momentum: float, decay: float, nesterov: bool):
        layers = [module for module in model.modules() if isinstance(module, BasisConv2d)]
        if any(isinstance(layer.basis, nn.Parameter) for layer in layers):
            raise ValueError("the atoms of a layer are learned; build it with fixed=True")
        coefficients = {id(layer.coefficients) for layer in layers}
        plain = [p for p in model.parameters() if p.ndim > 1 and id(p) not in coefficients]
        others = [p for p in model.parameters() if p.ndim < 2 or id(p) in coefficients]
        groups: list = [{"params": plain, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        super().__init__(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov)
        flat = [layer.basis.flatten(1) for layer in layers]
        self.decays = [(layer.coefficients, decay * b @ b.T) for layer, b in zip(layers, flat, strict=True)]

    @torch.no_grad()
    def step(self, closure=None):
        for coefficients, gram in self.decays:
            if coefficients.grad is not None:
                coefficients.grad.add_(coefficients @ gram)
        return super().step(closure)

"""Decay of kernels: what autograd makes of it, ordinary decay in pixels, and the same in sets of one frame operator."""

import pytest
import torch
from torch import nn

from spatialkit.models import BasisConv2d
from spatialkit.theory import framelets, gaussian_derivatives, pixels
from spatialkit.train import fit, sgd, sgd_on_kernels


def network(atoms):
    torch.manual_seed(0)
    convolutions = [BasisConv2d(1, 4, atoms, padding=1), nn.ReLU(), BasisConv2d(4, 2, atoms, bias=False)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).double()


IMAGES = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def trained(atoms, optimizer):
    model = network(atoms)
    fit(model, IMAGES, LABELS, epochs=3, seed=0, batch=3, optimizer=optimizer)
    return model


def test_is_ordinary_decay_in_pixels():
    ours, plain = (trained(pixels(3), make(0.1, 0.9, 0.05, True)) for make in (sgd_on_kernels, sgd))
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert not torch.allclose(ours[0].coefficients, trained(pixels(3), sgd_on_kernels(0.1, 0.9))[0].coefficients)


def test_the_gradient_is_that_of_half_the_square_of_the_kernels():
    model, decay = network(gaussian_derivatives(4, 0.7, 3)), 0.3
    before = [p.detach().clone() for p in model.parameters()]
    squares = sum(model[i].kernel.square().sum() for i in (0, 2)) + model[5].weight.square().sum()
    expected = torch.autograd.grad(decay / 2 * squares, list(model.parameters()), allow_unused=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    sgd_on_kernels(1.0, decay=decay)(model).step()
    for old, new, slope in zip(before, model.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, torch.zeros_like(old) if slope is None else slope, atol=1e-7, rtol=1e-6)


def test_sets_of_one_frame_operator_train_alike():
    atoms = framelets().flatten(1)
    mixed = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    first, second = network(framelets()), network((mixed @ atoms).view(-1, 3, 3))
    for i in (0, 2):
        first[i].basis.copy_(framelets())
        second[i].basis.copy_((mixed @ atoms).view(-1, 3, 3))  # all digits
        second[i].coefficients.data.copy_(first[i].coefficients @ mixed.T)
    for model in (first, second):
        fit(model, IMAGES, LABELS, epochs=3, seed=0, batch=3, optimizer=sgd_on_kernels(0.1, 0.9, 0.05))
    torch.testing.assert_close(first[2].kernel, second[2].kernel, atol=1e-12, rtol=0)


def test_learned_atoms_are_refused():
    with pytest.raises(ValueError, match="atoms of a layer are learned"):
        sgd_on_kernels(0.1)(nn.Sequential(BasisConv2d(1, 1, framelets(), fixed=False)))


def test_layers_without_a_gradient_are_left_alone():
    model = network(framelets())
    before = model[0].coefficients.detach().clone()
    sgd_on_kernels(0.1, decay=0.5)(model).step()
    assert torch.equal(model[0].coefficients, before)

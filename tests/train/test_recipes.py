"""Optimisers, schedules and recipes: what their groups and rates are."""

import pytest
import torch
from torch import nn

from spatialkit.models import build
from spatialkit.train import RECIPES, adam, one_cycle, sgd


def rates_of(optimizer, schedule, steps):
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates, dtype=torch.float64).T  # groups x steps


def test_one_cycle_keeps_the_rates_of_groups():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    high, low = rates_of(optimizer, one_cycle(optimizer, 20), 20)
    torch.testing.assert_close(low, 0.1 * high, rtol=1e-12, atol=0)
    assert high.max() == 1.0 and high.argmax() == 5  # 30 % of 20, counted from 0
    single = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    (alone,) = rates_of(single, one_cycle(single, 20), 20)
    assert torch.equal(alone, high)


def test_the_source_s_schedule_is_half_a_cosine_to_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    (rates,) = rates_of(optimizer, RECIPES["source"].options(False)["schedule"](optimizer, 8), 9)
    expected = 0.05 * (1 + torch.cos(torch.pi * torch.arange(9, dtype=torch.float64) / 8))
    torch.testing.assert_close(rates, expected, rtol=0, atol=1e-12)


def test_without_decay_there_is_one_group():
    model = build("lenet", (3, 32, 32), 2, width=1 / 8)
    for optimizer in (adam(0.3)(model), sgd(0.3)(model), sgd(0.3, momentum=0.9, nesterov=True)(model)):
        (group,) = optimizer.param_groups
        assert all(p is q for p, q in zip(group["params"], model.parameters(), strict=True))
        assert (group["lr"], group["weight_decay"]) == (0.3, 0)
    assert isinstance(adam(0.3)(model), torch.optim.Adam)
    assert (group["momentum"], group["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("recipe, learning_rate, nesterov", [("source", 0.1, False), ("fast", 0.05, True)])
def test_convolutional_networks_have_sgd_with_decay_of_weights_alone(recipe, learning_rate, nesterov):
    model = build("resnet18", (3, 32, 32), 10, width=1 / 16)
    optimizer = RECIPES[recipe].options(False)["optimizer"](model)
    assert isinstance(optimizer, torch.optim.SGD)
    decayed, rest = optimizer.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (5e-4, 0)
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {id(p) for p in decayed["params"]} == matrices
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(map(id, model.parameters()))
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (learning_rate, 0.9, nesterov)
    assert RECIPES[recipe].options(False, 0.3)["optimizer"](model).param_groups[1]["lr"] == 0.3


def test_fully_connected_networks_have_adam():
    model = nn.Linear(2, 2)
    for recipe, constant in (("source", True), ("fast", False)):
        options = RECIPES[recipe].options(True)
        optimizer = options["optimizer"](model)
        assert isinstance(optimizer, torch.optim.Adam)
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 0)
        assert (options["schedule"] is None) == constant
        assert RECIPES[recipe].options(True, 0.02)["optimizer"](model).defaults["lr"] == 0.02

"""The hand-written training against autograd, and its resuming."""

import math

import pytest
import torch

from spatialkit.models import CircularCNN
from spatialkit.train import hinge, loop
from spatialkit.train.hinge import fit_hinge


def task(n=20, size=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, size, dtype=torch.float64, generator=generator)
    return images, torch.where(torch.rand(n, generator=generator) < 0.5, 1.0, -1.0).double()


def plain_sgd(model, images, labels, steps, seed, batch, learning_rate, ridge):
    """The same training by torch: autograd on the whole objective."""
    width, depth = len(model.beta), len(model.weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate * width)
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        for chosen in torch.randperm(len(images), generator=generator).split(batch)[: steps - done]:
            loss = torch.relu(1 - labels[chosen] * model(images[chosen])).mean()
            loss = loss + ridge * sum(w.square().sum() for w in model.weights) / (width * depth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 1), (2, 2)])
def test_steps_are_those_of_autograd(kernel, stride, activation):
    ours, theirs = (CircularCNN(3, 5, kernel, stride, activation, seed=1).double() for _ in range(2))
    options = {"steps": 40, "seed": 2, "batch": 8, "learning_rate": 0.02, "ridge": 0.1}
    history = fit_hinge(ours, *task(), **options, measure_at=[40])
    plain_sgd(theirs, *task(), **options)
    assert 0.05 < history["within margin"].item() < 0.95  # both kinds of images took part
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_records_say_when_the_network_interpolates():
    images, labels = task(n=4)
    model = CircularCNN(2, 20, 3, seed=0).double()
    history = fit_hinge(
        model, images, labels, steps=3000, seed=0, batch=2, learning_rate=0.05, ridge=0.0,
        measure=lambda m: {"output": float(m(images)[0])}, measure_at=[0, 10, 3000],
    )  # fmt: skip
    assert history["step"].tolist() == [0, 10, 3000] and history["epoch"].tolist() == [0, 5, 1500]
    assert math.isnan(history["interpolated"][0]) and 1 <= history["interpolated"][2] < 1500
    assert (1 - labels * model(images)).max() < 0.2
    assert history["output"][2] == model(images)[0].item()


def test_beyond_the_margin_the_ridge_alone_shrinks_the_weights():
    images, labels = task(n=4)
    model = CircularCNN(2, 5, 3, seed=0).double()
    with torch.no_grad():
        model.bias.fill_(50)
    before = [w.detach().clone() for w in model.weights]
    fit_hinge(model, images, torch.ones(4).double(), steps=10, seed=0, learning_rate=0.01, ridge=0.01)
    for w, old in zip(model.weights, before, strict=True):
        torch.testing.assert_close(w.detach(), old * (1 - 0.01 * 2 * 0.01 / 2) ** 10)


def test_looking_ahead_ends_at_the_same_weights(monkeypatch):
    images, labels = task(n=4)
    options = {
        "steps": 20_000,
        "seed": 0,
        "batch": 2,
        "learning_rate": 0.02,
        "ridge": 0.02,
        "measure_at": [9_000, 20_000],
    }
    plain, ahead = (CircularCNN(2, 10, 3, seed=3).double() for _ in range(2))
    expected = fit_hinge(plain, images, labels, **options)
    calls, advance = [], hinge._HingeSteps.advance
    monkeypatch.setattr(hinge._HingeSteps, "advance", lambda *arguments: calls.append(1) or advance(*arguments))
    history = fit_hinge(ahead, images, labels, **options, look_ahead=True)
    assert len(calls) < 15_000  # it did skip
    assert history.round(12).equals(expected.round(12)) and expected["within margin"][1] > 0
    for a, b in zip(ahead.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("look_ahead", [False, True])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, monkeypatch, look_ahead):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    images, labels = (t.float() for t in task())
    options = {"steps": 500, "seed": 0, "measure_at": [50, 450], "measure": lambda m: {"bias": float(m.bias)}}
    options["look_ahead"] = look_ahead
    whole, killed, resumed = (CircularCNN(2, 5, 3, seed=s) for s in (0, 0, 7))
    expected = fit_hinge(whole, images, labels, **options)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hinge._HingeSteps, "advance", stopping_after(200))
        fit_hinge(killed, images, labels, **options, checkpoint=tmp_path / "0")
    history = fit_hinge(resumed, images, labels, **options, checkpoint=tmp_path / "0")
    assert history.equals(expected)
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert a.equal(b)


def stopping_after(calls):
    """The step of a run, with a kill at a later call."""
    advance, left = hinge._HingeSteps.advance, iter(range(calls))

    def step(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return advance(*arguments)

    return step


@pytest.mark.parametrize(("change", "match"), [
    ({"labels": torch.zeros(20)}, "must be \\+1 or -1"),
    ({"labels": torch.ones(3)}, "as many labels as images"),
    ({"steps": 0}, "at least 1"),
    ({"model": CircularCNN(2, 5, 3, 1, "linear")}, "relu and tanh, not 'linear'"),
    ({"learning_rate": 1e9}, "not finite"),
])  # fmt: skip
def test_refuses_bad_input(change, match):
    images, labels = (t.float() for t in task())
    arguments = {"model": CircularCNN(4, 5, 3), "images": images, "labels": labels, "steps": 200, "seed": 0}
    with pytest.raises(ValueError, match=match):
        fit_hinge(**arguments | change)

"""Trained networks: trained once, kept whole, the same whoever asks and whatever interrupts."""

import math
import threading
from functools import partial

import pytest
import torch
from torch import nn

from spatialkit.lab import context
from spatialkit.lab.fingerprint import fingerprint_of_module
from spatialkit.models import build
from spatialkit.train import Problem, classification, loop, scale_task, trained
from spatialkit.train import kept as module

SMALL = {"epochs": 3, "width": 1 / 8, "batch": 16, "learning_rate": 0.02}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """An empty output folder."""
    monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path))
    fingerprint_of_module(module.__name__)  # remembered, before a test replaces what the module calls


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints" / "networks"


@pytest.fixture
def no_training(monkeypatch):
    """Call it, and no network is trained any more."""

    def refuse(*_, **__):
        raise AssertionError("trained anew")

    return lambda: monkeypatch.setattr(module, "fit", refuse)


@pytest.fixture(scope="module")
def problem():
    return classification("photographs", n_train=48, n_validation=24, n_test=30)


COUNTS = [2]


def perceptron(image_shape, outputs, *, width, seed):
    """A network of one's own, that leaves its weights to torch's own generator."""
    units = round(80 * width)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(image_shape), units), nn.Dropout(0.1), nn.ReLU(), nn.Linear(units, outputs)
    )


def reads_a_variable(image_shape, outputs, *, width, seed):
    return nn.Linear(COUNTS[0], outputs)


def no_network(image_shape, outputs, *, width, seed):
    return "lenet"


def of_three_outputs(image_shape, outputs, *, width, seed):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), 3))


def files(folder, kind="*"):
    return sorted(path.name for path in folder.glob(kind))


def same(one, other):
    a, b = one.model.state_dict(), other.model.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["lenet", "fc2", "resnet18", "efficientnet_b0"])
def test_the_second_call_reads_what_the_first_has_trained(problem, folder, no_training, name):
    first = trained(name, problem, **SMALL)
    no_training()
    second = trained(name, problem, **SMALL)
    assert same(first, second) and first.history.equals(second.history)
    assert not first.model.training and not second.model.training
    with torch.no_grad():
        images = problem.test[0]
        assert torch.equal(first.model(images), second.model(images))
    (checkpoint,) = files(folder, "*.safetensors")
    assert checkpoint.startswith(f"{name}-")
    assert set(files(folder)) <= {checkpoint, checkpoint.replace("safetensors", "lock")}


@pytest.mark.parametrize(("errors", "best"), [([0.9, 0.5, 0.4, 0.4, 0.6], 2), ([0.1, 0.2, 0.3, 0.4, 0.5], 0)])
def test_keeps_the_first_weights_of_the_lowest_validation_error(problem, monkeypatch, errors, best):
    measured, real = [], Problem.error

    def given(self, model, part="test"):
        if part == "test":
            return real(self, model, part)
        measured.append([p.detach().clone() for p in model.parameters()])
        return errors[len(measured) - 1]

    with monkeypatch.context() as patch:
        patch.setattr(Problem, "error", given)
        network = trained("lenet", problem, **(SMALL | {"epochs": 5}))
    assert network.history["validation error"].tolist() == errors
    assert all(torch.equal(p, q) for p, q in zip(network.model.parameters(), measured[best], strict=True))
    assert problem.error(network.model) == pytest.approx(network.history["test error"][best], abs=1e-14)


@pytest.mark.parametrize("name", ["lenet", "vgg11_bn"])
def test_errors_in_the_history_are_those_of_the_network_kept(problem, name):
    network = trained(name, problem, **(SMALL | {"epochs": 8, "learning_rate": 0.1}))
    errors = network.history["validation error"]
    assert errors.nunique() > 1  # else this tests little
    assert problem.error(network.model, "validation") == pytest.approx(errors.min(), abs=1e-14)  # kept to 15 digits
    expected = network.history["test error"][errors.argmin()]
    assert problem.error(network.model, "test") == pytest.approx(expected, abs=1e-14)


def test_the_history_has_a_row_per_epoch(problem):
    history = trained("lenet", problem, **SMALL).history
    assert list(history.columns) == ["step", "epoch", "loss", "validation error", "test error"]
    assert history["epoch"].tolist() == [1, 2, 3] and history["step"].tolist() == [3, 6, 9]


def test_trains_as_the_plain_loop_does(problem):
    ours = trained("lenet", problem, **(SMALL | {"epochs": 1}), recipe="fast", seed=4)
    plain = build("lenet", (3, 32, 32), 2, width=1 / 8, seed=4)
    weights, biases = ([p for p in plain.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=3, cycle_momentum=False)
    generator = torch.Generator().manual_seed(4)
    images, labels = problem.train
    for chosen in torch.randperm(48, generator=generator).split(16):
        torch.randint(2**62, (), generator=generator)  # the seed of dropout, which this network lacks
        optimizer.zero_grad()
        outputs = plain(problem.augment(images[chosen], generator))
        nn.functional.cross_entropy(outputs, labels[chosen]).backward()
        optimizer.step()
        cycle.step()
    for p, q in zip(ours.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)  # order of float32 sums


OTHERS = [
    {"seed": 1},
    {"width": 1 / 4},
    {"epochs": 2},
    {"batch": 24},
    {"learning_rate": 0.03},
    {"learning_rate": None},
    {"recipe": "source"},
    {"precision": "bfloat16"},
]


def test_other_arguments_are_other_networks(problem, folder, no_training):
    arguments = [SMALL, *(SMALL | other for other in OTHERS)]
    networks = [trained("lenet", problem, **each) for each in arguments]
    another = classification("photographs", n_train=48, n_validation=24, n_test=30, seed=1)
    trained("lenet", another, **SMALL)
    trained("fc2", problem, **SMALL)
    assert len(files(folder, "*.safetensors")) == len(OTHERS) + 3
    no_training()
    assert all(same(trained("lenet", problem, **each), old) for each, old in zip(arguments, networks, strict=True))
    again = classification("photographs", n_train=48, n_validation=24, n_test=30)  # an equal problem, another object
    assert same(trained("lenet", again, **SMALL), networks[0])


def test_equal_arguments_are_one_network(problem, folder, no_training):
    first = trained("fc2", problem, epochs=1, width=1, learning_rate=1)
    no_training()
    assert same(trained("fc2", problem, epochs=1, width=1.0, learning_rate=1.0), first)
    assert same(trained("fc2", problem, epochs=1, learning_rate=1, batch=128, seed=0), first)
    assert len(files(folder, "*.safetensors")) == 1


def test_a_function_makes_a_network_and_its_code_counts(problem, folder, no_training, monkeypatch):
    torch.manual_seed(1)
    first = trained(perceptron, problem, **SMALL)
    other = trained(perceptron, problem, **(SMALL | {"seed": 1}))
    assert not torch.equal(first.model[1].weight, other.model[1].weight)
    torch.manual_seed(2)  # no part of it
    monkeypatch.setenv("SPATIALKIT_FRESH", "9999-01-01T00:00:00+00:00")
    assert same(trained(perceptron, problem, **SMALL), first)
    monkeypatch.delenv("SPATIALKIT_FRESH")
    assert [name.split("-")[0] for name in files(folder, "*.safetensors")] == ["perceptron"] * 2
    no_training()
    assert same(trained(perceptron, problem, **SMALL), first)
    monkeypatch.setattr(module, "fingerprint", lambda _: "0" * 12)  # the same name, other code
    with pytest.raises(AssertionError, match="trained anew"):
        trained(perceptron, problem, **SMALL)


def test_a_function_trains_by_sgd_and_the_zoo_s_fully_connected_networks_by_adam(problem, monkeypatch):
    asked = []
    options = lambda self, connected, rate: asked.append(connected) or {"epochs": 0}  # noqa: E731
    monkeypatch.setattr(module.RECIPES["fast"].__class__, "options", options)
    monkeypatch.setattr(module, "_train", lambda model, *_, **__: {"weights": model.state_dict(), "history": []})

    def fc_of_ones_own(image_shape, outputs, *, width, seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, outputs))

    for network in ("fc2", "lenet", perceptron, fc_of_ones_own):
        trained(network, problem, **SMALL)
    assert asked == [True, False, False, False]


def test_precision_is_noted_and_trains_another_network(problem, no_training):
    with context.run_of("t", 1, {}, "c") as run:
        single = trained("lenet", problem, **SMALL)
        assert run.precisions == {"float32"}
    with context.run_of("t", 1, {}, "c") as run:
        half = trained("lenet", problem, **SMALL, precision="bfloat16")
        no_training()
        assert run.precisions == {"bfloat16"}
    with context.run_of("t", 1, {}, "c") as run:
        assert same(trained("lenet", problem, **SMALL, precision="bfloat16"), half)  # read, and noted as well
        assert run.precisions == {"bfloat16"}
    assert not same(single, half) and {p.dtype for p in half.model.parameters()} == {torch.float32}


def interrupted(monkeypatch, at, falls=False):
    """Every epoch saves its state; validation number ``at`` raises, as Ctrl-C does; ``falls``: the last one is best."""
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    real, calls = Problem.error, []

    def error(self, model, part="test"):
        if part == "validation":
            calls.append(part)
            if len(calls) == at:
                raise KeyboardInterrupt
            if falls:
                return 1 / (len(calls) - (at is not None and len(calls) > at))
        return real(self, model, part)

    monkeypatch.setattr(Problem, "error", error)
    return calls


@pytest.mark.parametrize(("name", "recipe"), [
    ("lenet", "fast"), ("lenet", "source"), ("fc2", "fast"), ("fc2", "source"), ("alexnet", "fast"),
    ("efficientnet_b0", "fast"), ("resnet18", "source"),
])  # fmt: skip
@pytest.mark.parametrize("falls", [False, True])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    problem, folder, tmp_path, monkeypatch, name, recipe, falls
):
    ask = partial(trained, name, problem, **(SMALL | {"epochs": 5, "width": 1 / 16, "recipe": recipe}))
    networks = []
    for at in (None, 4):
        monkeypatch.setenv("SPATIALKIT_OUT", str(tmp_path / str(at)))
        torch.manual_seed(at or 0)  # of what else the process draws: no part of it
        state = torch.get_rng_state()
        with monkeypatch.context() as patch:
            calls = interrupted(patch, at, falls)
            if at:
                with pytest.raises(KeyboardInterrupt):
                    ask()
                left = files(tmp_path / str(at) / "checkpoints" / "networks")
                assert {each.split(".")[1].split("-")[0] for each in left} >= {"best", "training"}
                torch.manual_seed(99)
                state = torch.get_rng_state()
            networks.append(ask())
        assert torch.equal(torch.get_rng_state(), state)
        assert len(calls) == 5 + bool(at)  # epochs before the last saved state are not trained again
        kinds = {path.suffix for path in (tmp_path / str(at) / "checkpoints" / "networks").iterdir()}
        assert kinds <= {".lock", ".safetensors"}
    assert same(*networks)
    assert networks[0].history.equals(networks[1].history)


def test_two_who_ask_at_once_train_once(problem, folder, monkeypatch):
    real, calls, answers = module.fit, [], []

    def counted(*arguments, **options):
        calls.append(threading.get_ident())
        return real(*arguments, **options)

    monkeypatch.setattr(module, "fit", counted)
    askers = [
        threading.Thread(target=lambda: answers.append(trained("lenet", problem, **(SMALL | {"epochs": 8}))))
        for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(calls) == 1 and len(answers) == 2
    assert same(*answers)
    assert {path.suffix for path in folder.iterdir()} <= {".lock", ".safetensors"}


def test_fresh_trains_anew_what_was_made_before(problem, monkeypatch, no_training):
    first = trained("lenet", problem, **SMALL)
    calls, real = [], module.fit
    monkeypatch.setattr(module, "fit", lambda *a, **k: calls.append(1) or real(*a, **k))
    monkeypatch.setenv("SPATIALKIT_FRESH", "9999-01-01T00:00:00+00:00")
    assert same(trained("lenet", problem, **SMALL), first)  # the same seed, so the same bits
    assert calls == [1]
    monkeypatch.setenv("SPATIALKIT_FRESH", "2000-01-01T00:00:00+00:00")
    trained("lenet", problem, **SMALL)
    assert calls == [1]


def test_networks_of_one_output_learn_by_the_hinge_loss():
    scales = scale_task(size=8, xi=4.0, gap=1.0, n_train=60, n_validation=20, n_test=40)
    network = trained("fc2", scales, epochs=2, width=1 / 4, batch=20)
    assert network.model(scales.test[0]).shape == (40, 1)
    assert network.history["validation error"].between(0, 1).all()


def test_learns_what_can_be_learnt():
    """Crops of a temple or a flower; guessing is wrong half of the time."""
    photographs = classification("photographs", n_train=316, n_validation=100)
    network = trained("fc2", photographs, epochs=5, width=1 / 4, batch=32)
    assert photographs.error(network.model) < 0.25


@pytest.mark.parametrize(("arguments", "match"), [
    ({"recipe": "slow"}, "recipe must be one of source, fast, got 'slow'"),
    ({"learning_rate": 0.0}, r"learning_rate must be positive, got 0\.0"),
    ({"learning_rate": float("nan")}, "learning_rate must be positive"),
    ({"width": -1}, "width must be a positive number"),
    ({"network": "vgg12"}, "name must be one of"),
    ({"epochs": 0}, "epochs and batch must be at least 1"),
    ({"batch": 0}, "epochs and batch must be at least 1"),
    ({"learning_rate": 1e15}, "lower the learning rate"),
    ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
    ({"network": lambda *_, **__: nn.Linear(1, 1)}, "a name of the zoo or a function defined by def"),
    ({"network": nn.Flatten()}, r"a function defined by def, .*got Flatten"),
    ({"network": partial(build, "lenet")}, "a function defined by def"),
    ({"network": reads_a_variable}, "reads the notebook's variable 'COUNTS'"),
    ({"network": no_network}, "of shape .1, 2. an image, got str"),
    ({"network": of_three_outputs}, r"of shape .1, 2. an image, got .1, 3."),
])  # fmt: skip
def test_refuses_bad_input(problem, folder, arguments, match):
    with pytest.raises(ValueError, match=match):
        trained(**({"network": "lenet", "problem": problem} | SMALL | arguments))
    assert files(folder, "*.safetensors") == []


def test_a_closure_is_refused(problem):
    units = 3

    def enclosed(image_shape, outputs, *, width, seed):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(units), nn.Linear(units, outputs))

    with pytest.raises(ValueError, match="enclosed reads units of an enclosing function"):
        trained(enclosed, problem, **SMALL)


# What counts when code changes.


def test_a_network_made_by_other_code_is_trained_anew_unless_a_bridge_says_that_it_is_equal(
    problem, folder, monkeypatch, no_training, tmp_path
):
    from spatialkit.lab import ledger
    from spatialkit.train.checkpoints import load_checkpoint, save_checkpoint

    monkeypatch.setattr(ledger.places, "evidence", lambda: tmp_path)
    first = trained("lenet", problem, **SMALL)
    (path,) = folder.glob("*.safetensors")
    kept = load_checkpoint(path)
    present = kept["code"][module.__name__]
    save_checkpoint(path, kept | {"code": kept["code"] | {module.__name__: "0" * 12}})
    calls, real = [], module.fit
    monkeypatch.setattr(module, "fit", lambda *a, **k: calls.append(1) or real(*a, **k))
    line = {"task": "t", "old": "a", "new": "b", "equal": 4, "of": 4, "keys": ("k",), "shrunk": {}, "within": 0.0,
            "because": "", "machine": "m", "commit": "c",
            "modules": {module.__name__: ["0" * 12, present]}}  # fmt: skip
    ledger.write([ledger.Bridge(**line)])
    assert same(trained("lenet", problem, **SMALL), first) and not calls
    ledger.write([])
    assert same(trained("lenet", problem, **SMALL), first) and calls == [1]
    assert load_checkpoint(path)["code"] == kept["code"]


def test_a_damaged_network_is_set_aside_and_trained_anew(problem, folder):
    first = trained("lenet", problem, **SMALL)
    (path,) = folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged: set aside"):
        assert same(trained("lenet", problem, **SMALL), first)

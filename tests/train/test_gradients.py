"""Training by gradients: deterministic, resumable to the same bits, and honest about bad input."""

import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from spatialkit.lab import context
from spatialkit.models import RFNN, AttributeCNN, DynamicBlock, IRevNet, PlainCNN, rfnin
from spatialkit.train import adam, error_rate, fit, gradients, loop, one_cycle, sgd


def problem(n=96, side=6):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (n,), generator=generator)
    return torch.randn(n, 1, side, side, generator=generator) + labels.reshape(-1, 1, 1, 1), labels


def network(seed=0):
    return PlainCNN((1, 6, 6), 2, depth=2, width=4, seed=seed)


def bits(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    images, labels = problem()
    models = [network() for _ in range(3)]
    histories = [
        fit(model, images, labels, epochs=2, seed=seed, batch=16) for model, seed in zip(models, (1, 1, 2), strict=True)
    ]
    assert torch.equal(bits(models[0]), bits(models[1]))
    assert not torch.equal(bits(models[0]), bits(models[2]))
    assert histories[0].equals(histories[1])


def test_agrees_with_a_plain_loop():
    images, labels = problem()
    model, plain = network(), network()
    fit(model, images, labels, epochs=3, seed=5, batch=32, optimizer=sgd(0.1))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        for chosen in torch.randperm(len(images), generator=generator).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    torch.testing.assert_close(bits(model), bits(plain), rtol=1e-4, atol=1e-6)  # order of float32 sums


def test_learns_what_can_be_learnt():
    images, labels = problem(n=400)
    model = network()
    fit(model, images[:300], labels[:300], epochs=15, seed=0, batch=32, optimizer=adam(1e-2), schedule=one_cycle)
    assert error_rate(model, images[300:], labels[300:]) < 0.15


def test_records_where_asked_and_measures_in_evaluation_mode():
    images, labels = problem()
    modes = []

    def measure(model):
        modes.append(model.training)
        return {"error": error_rate(model, images, labels)}

    model = nn.Sequential(network(), nn.Dropout(0.5))
    history = fit(model, images, labels, epochs=2, seed=0, batch=32, measure=measure, measure_at=[0, 1, 3, 6])
    assert history["step"].tolist() == [0, 1, 3, 6]
    assert history["epoch"].tolist() == [0, 1 / 3, 1, 2]
    assert history["loss"].isna().tolist() == [True, False, False, False]
    assert modes == [False] * 4
    assert model.training


def test_measuring_does_not_change_the_training():
    images, labels = problem()
    models = [network(), network()]
    for model, measure in zip(models, (None, lambda m: {"x": 1.0}), strict=True):
        fit(model, images, labels, epochs=2, seed=0, measure=measure, measure_at=[0, 1, 2])
    assert torch.equal(bits(models[0]), bits(models[1]))


def test_augmentation_sees_every_batch_and_draws_from_the_seed():
    images, labels = problem()
    models = [network(), network()]
    for model in models:
        noise = lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g)  # noqa: E731
        fit(model, images, labels, epochs=1, seed=0, augment=noise)
    plain = network()
    fit(plain, images, labels, epochs=1, seed=0)
    assert torch.equal(bits(models[0]), bits(models[1]))
    assert not torch.equal(bits(models[0]), bits(plain))


SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
from spatialkit import lab
from spatialkit.train import adam, fit, loop, one_cycle, sgd
loop._CHECKPOINT_SECONDS = 0.0
from tests.train.test_gradients import network, problem, bits, BatchNormNet

@lab.task
def train_one(optimizer, schedule, pause):
    images, labels = problem()
    kinds = {"adam": adam(1e-2), "sgd": sgd(1e-2, momentum=.9, nesterov=True, decay=1e-3)}
    model = BatchNormNet()
    def slow(m):
        time.sleep(pause)
        print(flush=True)
        return {"mean": float(bits(m).mean())}
    history = fit(model, images, labels, epochs=12, seed=3, batch=32, measure=slow, optimizer=kinds[optimizer],
                  schedule=one_cycle if schedule else None)
    return {"bits": bits(model).numpy().tobytes().hex(), "history": history.to_json()}

lab.begin("laptop")
config = {"optimizer": sys.argv[1], "schedule": sys.argv[2] == "1", "pause": float(sys.argv[3])}
lab.begin("laptop")
table = lab.sweep(train_one, [config], executor=lab.Serial())
print(table["bits"][0], table["history"][0])
"""


class BatchNormNet(nn.Sequential):
    """A network with buffers and dropout, so that they are tested as well."""

    def __init__(self):
        super().__init__(nn.BatchNorm2d(1), nn.Dropout(0.2), network())


@pytest.mark.parametrize(("optimizer", "schedule"), [("adam", "1"), ("sgd", "0")])
def test_killed_and_resumed_gives_the_same_bits(tmp_path, optimizer, schedule):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    root = str(Path(__file__).parents[2])
    results = []
    for kills in (0, 2):
        environment = {**os.environ, "PYTHONPATH": root, "SPATIALKIT_OUT": str(tmp_path / f"out{kills}")}
        command = [sys.executable, str(script), optimizer, schedule, "0.05"]
        for _ in range(kills):
            run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for _ in range(4):  # four epochs, then no mercy
                run.stdout.readline()
            time.sleep(0.02)
            run.send_signal(signal.SIGKILL)
            run.wait()
            assert list((tmp_path / f"out{kills}").glob("checkpoints/*/0.safetensors"))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        results.append(done.stdout.strip())
        if kills:
            assert done.stdout.count("\n") < 12  # it did not start from the beginning
        assert not list((tmp_path / f"out{kills}").glob("checkpoints/*/*"))
    assert results[0] == results[1]


class Tied(nn.Sequential):
    """Two layers of one weight: their tensors share memory."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 2))
        self[3].weight = self[1].weight


def test_tensors_that_share_memory_are_saved_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 2
    models, path = [], tmp_path / "x.safetensors"
    for stop in (None, 2):
        torch.manual_seed(0)
        models.append(Tied())
        seen = []

        def measure(_, stop=stop, seen=seen):
            seen.append(1)
            if len(seen) == stop:
                raise KeyboardInterrupt
            return {}

        path.unlink(missing_ok=True)
        options = {"epochs": 4, "seed": 1, "checkpoint": path, "measure": measure}
        if stop:
            with pytest.raises(KeyboardInterrupt):
                fit(models[-1], images, labels, **options)
            torch.manual_seed(5)
            models[-1] = Tied()
        fit(models[-1], images, labels, **options)
    assert torch.equal(bits(models[0]), bits(models[1]))
    assert models[1][3].weight is models[1][1].weight


def test_dropout_draws_from_the_seed_and_leaves_the_callers_generator_alone():
    images, labels = problem()
    networks = [nn.Sequential(nn.Dropout(0.5), network()) for _ in range(3)]
    for model, seed, around in zip(networks, (1, 1, 2), (7, 8, 7), strict=True):
        torch.manual_seed(around)
        before = torch.get_rng_state()
        fit(model, images, labels, epochs=1, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(bits(networks[0]), bits(networks[1]))
    assert not torch.equal(bits(networks[0]), bits(networks[2]))


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    (tmp_path / "file").touch()
    images, labels = problem()
    with pytest.warns(UserWarning, match=r"no checkpoint: cannot write .*file.*; the training goes on"):
        history = fit(network(), images, labels, epochs=2, seed=0, checkpoint=tmp_path / "file" / "x.safetensors")
    assert len(history) == 2


def test_narrow_strided_convolutions_train_where_onednn_would_end_the_program():
    model = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 4, 32, 32))
    fit(model, torch.randn(64, 4, 32, 32), torch.arange(64) % 2, epochs=8, seed=0, batch=16)
    narrow, wide = nn.Conv2d(4, 8, 1, 2), nn.Conv2d(8, 8, 1, 2)
    before = torch.backends.mkldnn.enabled
    for module, off in ((narrow, torch.backends.cpu.get_cpu_capability() == "AVX2"), (wide, False)):
        with gradients._safe_convolutions(module, torch.device("cpu")):
            assert torch.backends.mkldnn.enabled == (before and not off)
    assert torch.backends.mkldnn.enabled == before


def killed_at(step, fail=KeyboardInterrupt):
    """An augmentation that ends the training in the middle of that step; before, it does nothing."""
    left = iter(range(step))

    def augment(images, generator):
        if next(left, None) is None:
            raise fail
        return images + 0.01 * torch.randn(images.shape, generator=generator)

    return augment


@pytest.mark.parametrize("options", [
    {"optimizer": adam(1e-2), "schedule": one_cycle},
    {"optimizer": sgd(1e-2, momentum=0.9, decay=1e-3), "precision": "bfloat16"},
    {"optimizer": sgd(1e-2), "measure_at": [1, 4, 6, 9]},
])  # fmt: skip
@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_a_kill_within_an_epoch_loses_no_step(tmp_path, monkeypatch, options, step):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    images, labels = problem(n=90)
    options = {"epochs": 3, "seed": 3, "batch": 32, **options}
    torch.manual_seed(0)
    models = [BatchNormNet() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    expected = fit(models[0], images, labels, augment=killed_at(99), **options)
    with pytest.raises(KeyboardInterrupt):
        fit(models[1], images, labels, augment=killed_at(step), checkpoint=tmp_path / "x", **options)
    history = fit(models[1], images, labels, augment=killed_at(9 - step), checkpoint=tmp_path / "x", **options)
    assert history.equals(expected)  # and the second part had no step more than was left
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name])


@pytest.mark.parametrize("fail", [None, ValueError])
def test_every_module_is_left_in_the_mode_in_which_it_was_given(fail):
    images, labels = problem()
    for modes in ([True, True, True], [False, False, False], [True, False, True]):
        model = BatchNormNet()
        for module, mode in zip(model, modes, strict=True):
            module.train(mode)
        seen = []
        augment = lambda x, _, model=model, seen=seen: seen.append(model[1].training) or x  # noqa: E731
        if fail:
            with pytest.raises(fail):
                fit(model, images, labels, epochs=1, seed=0, augment=killed_at(1, fail))
        else:
            fit(model, images, labels, epochs=1, seed=0, augment=augment, measure=lambda _: {})
            assert all(seen)
        assert [module.training for module in model] == modes


class Watching(nn.Module):
    """Notes in which precision its layer is computed."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(36, 2), set()

    def forward(self, images):
        outputs = self.layer(images.flatten(1))
        self.seen.add((self.training, outputs.dtype))
        return outputs


@pytest.mark.parametrize(("precision", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("around", [False, True])
def test_precision_is_of_the_forward_pass_of_training_steps_alone(precision, inside, around):
    images, labels = problem()
    model, losses = Watching(), set()

    def loss(outputs, labels):
        losses.add(outputs.dtype)
        return nn.functional.cross_entropy(outputs, labels)

    measure = lambda model: {"error": error_rate(model, images, labels)}  # noqa: E731
    with context.run_of("t", 1, {}, "c") as run, torch.autocast("cpu", torch.bfloat16, enabled=around):
        fit(model, images, labels, epochs=2, seed=0, loss=loss, measure=measure, precision=precision)
    assert model.seen == {(True, inside), (False, torch.float32)}
    assert losses == {model.layer.weight.dtype} == {torch.float32}
    assert run.precisions == {precision}


@pytest.mark.parametrize("around", [False, True])
def test_bfloat16_trains_nearly_as_float32_does(around):
    images, labels = problem(n=400)
    models = [network(), network()]
    for model, precision in zip(models, ("float32", "bfloat16"), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=around):  # whose cache of weights must not be used
            history = fit(model, images, labels, epochs=8, seed=0, optimizer=adam(1e-2), precision=precision)
        assert history["loss"].iloc[-1] < 0.5 * math.log(2)
    difference = (bits(models[0]) - bits(models[1])).norm() / (bits(models[0]) - bits(network())).norm()
    assert 0 < difference < 0.2  # 8 bits of a number, over 56 steps


SMALL = {"values": 4, "factors": 3, "window": (3, 3), "first_stride": 2, "halved": (4,)}
FAMILIES = {
    "attributes": lambda: AttributeCNN((1, 8, 8), 2, **SMALL),
    "attributes, plus": lambda: AttributeCNN((1, 8, 8), 2, plus=True, **SMALL),
    "RFNN": lambda: RFNN(image_shape=(1, 8, 8), classes=2, width=9, dropout=(0.1, 0.1, 0.1), initial="he"),
    "RFNiN": lambda: rfnin((1, 8, 8), 2, 1, widths=(8, 8), dropout=0.1),
    "i-RevNet": lambda: IRevNet((1, 8, 8), 2, (1, 1), strides=(1, 2), logits_only=True),
    "dynamic": lambda: nn.Sequential(
        DynamicBlock(1, 16, orders=(0, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)
    ),
}


@pytest.mark.parametrize("precision", gradients.PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_in_both_precisions(family, precision):
    torch.manual_seed(0)
    images, labels = problem(64, side=8)  # the mean of an image tells the class
    model = FAMILIES[family]()
    options = {"epochs": 10, "seed": 0, "batch": 16, "optimizer": adam(1e-2), "precision": precision}
    losses = fit(model, images, labels, **options)["loss"]
    assert losses.iloc[-1] < 0.5 * losses.iloc[0]
    assert error_rate(model, images, labels) <= 0.1
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(("optimizer", "match"), [
    (partial(torch.optim.Adam, lr=1e-3), "optimizer must be a function of the model, such as sk.train.adam"),
    (torch.optim.SGD, "this one fails with"),
    (lambda parameters: torch.optim.SGD(list(parameters), lr=0.1), "this one fails with"),
    (lambda model: model.parameters(), "this one returns generator"),
])  # fmt: skip
@pytest.mark.parametrize("of", [network, BatchNormNet])
def test_an_optimizer_is_a_function_of_the_model(optimizer, match, of):
    model = of()
    before = bits(model)
    with pytest.raises(ValueError, match=match):
        fit(model, *problem(), epochs=1, seed=0, optimizer=optimizer)
    assert torch.equal(bits(model), before)


def test_groups_may_go_by_name():
    model, before = network(), network()
    names = [name for name, _ in model.named_parameters()]
    fit(model, *problem(), epochs=1, seed=0, schedule=one_cycle, optimizer=lambda model: torch.optim.SGD(
        [{"params": [p], "lr": 0.1 if name == names[0] else 0.0} for name, p in model.named_parameters()]
    ))  # fmt: skip
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True)]
    assert moved == [name == names[0] for name in names]


def test_bad_input_says_what_is_wrong():
    images, labels = problem()
    with pytest.raises(ValueError, match="as many labels as images"):
        fit(network(), images, labels[:-1], epochs=1, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        fit(network(), images[:0], labels[:0], epochs=1, seed=0)
    with pytest.raises(ValueError, match="epochs and batch must be at least 1"):
        fit(network(), images, labels, epochs=0, seed=0)
    with pytest.raises(ValueError, match="lower the learning rate"):
        fit(network(), images, labels, epochs=20, seed=0, optimizer=sgd(1e12))
    for precision in ("float16", "half", None):
        with pytest.raises(ValueError, match=f"precision must be one of float32, bfloat16, got {precision!r}"):
            fit(network(), images, labels, epochs=1, seed=0, precision=precision)

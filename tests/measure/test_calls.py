import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spatialkit.measure import watching
from spatialkit.measure.calls import in_batches


def seen_by(model, x, layers=None):
    outputs = []
    with watching(model, lambda name, output: outputs.append((name, output.clone())), layers):
        model(x)
    return outputs


class Reuses(nn.Module):
    """Uses one ReLU twice, returns a tuple on the way, and works in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.lstm = nn.LSTM(3, 2, batch_first=True)

    def forward(self, x):
        x = self.relu(self.linear(x))
        x = self.relu(F.relu(x) - 1)
        return self.lstm(x)[0]


def test_sees_what_a_layer_put_out_although_the_next_one_works_in_place():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 50), nn.ReLU(inplace=True)), torch.randn(4, 3)
    (name, linear), (_, relu) = seen_by(model, x)
    assert name == "0"
    assert torch.equal(linear, F.linear(x, model[0].weight, model[0].bias))
    assert linear.min() < 0 <= relu.min()


def test_numbers_the_uses_of_a_module_anew_in_each_pass():
    model, x = Reuses(), torch.randn(2, 5, 3)
    names = []
    with watching(model, lambda name, output: names.append(name)):
        model(x)
        model(x)
    assert names == ["linear", "relu", "relu:2", "lstm"] * 2


def test_takes_the_first_tensor_of_a_tuple():
    outputs = dict(seen_by(Reuses(), torch.randn(2, 5, 3)))
    assert outputs["lstm"].shape == (2, 5, 2)


def test_watches_named_layers_and_single_uses_only():
    model, x = Reuses(), torch.randn(2, 5, 3)
    assert [name for name, _ in seen_by(model, x, ["relu:2", "linear"])] == ["linear", "relu:2"]
    assert [name for name, _ in seen_by(model, x, ["relu"])] == ["relu", "relu:2"]


def test_watches_a_network_that_is_one_layer():
    assert [name for name, _ in seen_by(nn.Linear(2, 2), torch.randn(1, 2))] == [""]


def test_leaves_no_hook_behind_even_after_an_error():
    model = Reuses()

    def fails(name, output):
        raise RuntimeError("seen enough")

    with pytest.raises(RuntimeError, match="seen enough"), watching(model, fails):
        model(torch.randn(1, 2, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_refuses_unknown_layers():
    with (
        pytest.raises(ValueError, match=r"no layer 'conv9'; its layers are linear, relu, lstm"),
        watching(Reuses(), print, ["conv9"]),
    ):
        pass


def test_batches_come_in_evaluation_mode_and_leave_every_mode_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    with in_batches(model, torch.randn(5, 2), 2) as parts:
        assert [len(model(part)) for part in parts] == [2, 2, 1]
        assert not model.training and not torch.is_grad_enabled()
    assert model.training and model[0].training and not model[1].training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("images, batch, message", [
    (torch.zeros(0, 2), 1, "at least one image"),
    ([1, 2], 1, "at least one image, got list"),
    (torch.zeros(2, 2), 0, "batch must be at least 1"),
])  # fmt: skip
def test_refuses_bad_input(images, batch, message):
    with pytest.raises(ValueError, match=message), in_batches(nn.Linear(2, 2), images, batch):
        pass

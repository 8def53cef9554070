"""Bytes that live at once: against counts done by hand."""

import torch
from torch import nn

from spatialkit.measure import peak_bytes

X = torch.randn(1000)  # 4000 bytes
SCALE = 2.0


def test_counts_what_lives_at_one_time_and_not_what_existed_before():
    def step():
        a = X * SCALE
        b = a.exp()  # a and b: two at once
        del a
        c = b[:500].view(50, 10)  # no memory of its own
        del b
        return [c * SCALE][:0]

    assert peak_bytes(step) == 8000


def test_what_is_returned_does_not_count():
    assert peak_bytes(lambda: [X.exp()]) == 0
    assert peak_bytes(lambda: [X.exp().exp()]) == 4000
    assert peak_bytes(lambda: None) == 0


def test_a_stored_backward_pass_holds_what_autograd_saves():
    """A chain of n tanh keeps its n results; of n linear layers of one unit per row, its n inputs."""
    for n in (1, 5):
        x = X.clone().requires_grad_()

        def step(x=x, n=n):
            y = x
            for _ in range(n):
                y = y.tanh()
            y.backward(torch.ones_like(X))
            return [x.grad]

        grown = peak_bytes(step) - n * 4000
        assert 4000 <= grown <= 3 * 4000  # the gradients on their way: of a result and of its input, and the ones


def test_gradients_returned_leave_the_activations():
    model = nn.Linear(1000, 1000, bias=False)  # 4,000,000 bytes of gradient

    def step():
        model.zero_grad()
        model(X).sum().backward()
        return [model.weight.grad]

    assert peak_bytes(step) < 20_000

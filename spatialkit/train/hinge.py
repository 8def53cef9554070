"""Training with the hinge loss far beyond interpolation, where most steps only shrink the weights.

An image beyond the margin (y f >= 1) has no gradient. Once a network interpolates, nearly all of a batch is of that
kind, and a step is a forward pass and a multiplication. Here the backward pass runs over the other images alone,
written out by hand; the steps are those of plain SGD on the whole batch, to rounding.

With ``look_ahead``, whole epochs in which no image has a gradient are not run at all: the weights they would end with
are known, and if all images are beyond the margin with these as with the present ones, they are taken over.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from spatialkit.lab import next_checkpoint, note_precision
from spatialkit.models.circular import CircularCNN
from spatialkit.train.loop import Loop, Steps

__all__ = ["fit_hinge"]


def fit_hinge(
    model: CircularCNN,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    seed: int,
    batch: int = 8,
    learning_rate: float = 0.01,
    ridge: float = 0.01,
    look_ahead: bool = False,
    measure: Callable[[CircularCNN], dict] | None = None,
    measure_at: Sequence[int] = (),
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """Plain SGD on ``mean max(0, 1 - y f(x)) + ridge sum w^2 / (H K)``, w all weights of convolutions, in place.

    The step is ``learning_rate * H``, as a mean-field output needs. Inside a run of the lab the state is saved every
    20 seconds, and a run that was killed resumes from there to the same bits (with one thread).

    Args:
        model: ReLU or tanh network; it stays on the CPU, in its precision.
        images: N x 1 x L, of the same precision.
        labels: +1 or -1, N.
        steps: Number of steps.
        seed: Seed of the order of images; every image once per epoch, in a new order.
        batch: Images per step; the last batch of an epoch may be smaller.
        learning_rate: Step per channel.
        ridge: Strength of the penalty.
        look_ahead: Skip quiet epochs (see the module). Pays where there are few images; the steps are the same unless
            an image has a gradient on the way from one quiet state to another.
        measure: Called with the model; its numbers join the record.
        measure_at: Steps after which to record; 0 is before training.
        checkpoint: File for the state; by default one that belongs to the lab's run.

    Returns:
        One row per record: ``step``; ``epoch``; ``interpolated``, the first epoch at whose end every image was beyond
        the margin when last seen (nan before); ``within margin``, the share of images that were not since the last
        record; and what ``measure`` gave.

    Raises:
        ValueError: If counts do not fit, labels are no signs, the activation is another, or outputs are not finite.

    References:
        Tomasini et al. (2023), section 4.3 and appendix B; the scaling of step and ridge from the authors' code.
    """
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"need as many labels as images and at least one, got {len(images)} and {len(labels)}")
    if not (labels.abs() == 1).all():
        raise ValueError("labels must be +1 or -1")
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be at least 1, got {steps} and {batch}")
    note_precision(str(images.dtype).removeprefix("torch."))
    descent = _HingeSteps(model, images, labels, learning_rate, ridge, look_ahead, measure)
    with torch.no_grad():
        return Loop(descent, len(images), batch, seed, measure_at, checkpoint or next_checkpoint()).run(steps)


class _HingeSteps(Steps):
    """Steps written out by hand, on images N x L x 1."""

    def __init__(self, model, images, labels, learning_rate, ridge, look_ahead, measure):
        if model.activation not in ("relu", "tanh"):
            raise ValueError(f"the backward pass is written for relu and tanh, not {model.activation!r}")
        self.model, self.images, self.labels = model, images.transpose(1, 2), labels.to(images)
        self.look_ahead, self.measure = look_ahead, measure
        self.gain, self.tanh = math.sqrt(model.kernel_size), model.activation == "tanh"
        self.width, depth = len(model.beta), len(model.weights)
        self.rate = learning_rate * self.width
        self.shrink = 1 - self.rate * 2 * ridge / (self.width * depth)
        self.weights = [w.data.flatten(1) for w in model.weights]  # H x F * C, sharing memory
        self.biases = [b.data for b in model.biases]
        self.interpolated, self.clean = math.nan, True
        self.seen, self.within = 0, 0  # images since the last record, and those of them within the margin
        self.reach = 1  # epochs to try to skip
        self.indices: dict[tuple, Tensor] = {}

    def begin_epoch(self, per_epoch: int, room: int) -> int:
        """Go as many epochs ahead as stay quiet; twice as far as the last time at most."""
        self.clean = True
        epochs = min(self.reach, (room - 1) // per_epoch)
        if not self.look_ahead or math.isnan(self.interpolated) or epochs < 1 or not self.is_quiet(1.0):
            return 0
        while epochs and not self.is_quiet(self.shrink ** (epochs * per_epoch)):
            epochs //= 2
        self.reach = max(1, 2 * epochs)
        for w in self.weights:
            w.mul_(self.shrink ** (epochs * per_epoch))
        self.seen += epochs * len(self.images)
        return epochs

    def end_epoch(self, epoch: int) -> None:
        if self.clean and math.isnan(self.interpolated):
            self.interpolated = float(epoch)

    def record(self, step: int, per_epoch: int) -> dict:
        share = self.within / self.seen if self.seen else math.nan
        row = {"epoch": step // per_epoch, "interpolated": self.interpolated, "within margin": share}
        self.seen = self.within = 0
        return row | (self.measure(self.model) if self.measure else {})

    def state(self) -> dict:
        names = ("interpolated", "clean", "seen", "within", "reach")
        return {"model": self.model.state_dict()} | {name: getattr(self, name) for name in names}

    def restore(self, state: dict) -> None:
        for name, value in self.model.state_dict().items():
            value.copy_(state["model"][name])  # in place: the flat views share this memory
        for name in state.keys() - {"model"}:
            setattr(self, name, state[name])

    def is_quiet(self, scale: float) -> bool:
        """Whether all images are beyond the margin with weights of convolutions times ``scale``."""
        return bool((self.labels * self.forward(self.images, scale)[0] >= 1).all())

    def forward(self, y: Tensor, scale: float = 1.0) -> tuple[Tensor, list, list, Tensor]:
        """Outputs for a batch N x L x 1; per layer windows and activations before the gain; the mean over the ring."""
        rows, outs, N = [], [], len(y)
        for w, b in zip(self.weights, self.biases, strict=True):
            x = self.unfolded(y)  # N * L_k x F * C
            z = torch.addmm(b, x, w.T, alpha=scale / math.sqrt(x.shape[1]))
            y = torch.tanh_(z) if self.tanh else torch.relu_(z)  # without the gain sqrt(F), which follows
            rows.append(x)
            outs.append(y)
            y = (self.gain * y).view(N, -1, self.width)
        mean = y.mean(dim=1)
        return mean @ self.model.beta.data / self.width + self.model.bias.data, rows, outs, mean

    def advance(self, step: int, chosen: Tensor, generator: torch.Generator) -> None:
        labels = self.labels[chosen]
        output, rows, outs, mean = self.forward(self.images[chosen])
        error = 1 - labels * output
        active = (error > 0).nonzero().flatten()
        self.seen += len(labels)
        if len(active):
            self.clean, self.within = False, self.within + len(active)
            self.backward(rows, outs, mean, labels, active, len(labels))
            return
        if not torch.isfinite(error).all():
            raise ValueError(f"the output is not finite at step {step}; lower the learning rate")
        for w in self.weights:
            w.mul_(self.shrink)

    def backward(self, rows, outs, mean, labels, active, N: int) -> None:
        """The step of SGD: gradients of the active images alone, and the ridge's."""
        beta, bias = self.model.beta.data, self.model.bias.data
        A = len(active)
        d_output = -labels[active] / N  # of the mean hinge loss
        length = len(outs[-1]) // N
        d_y = torch.outer(d_output, beta).div_(self.width * length)[:, None].expand(A, length, self.width)
        d_y = d_y.reshape(A * length, self.width)
        beta.sub_(d_output @ mean[active], alpha=self.rate / self.width)
        bias.sub_(d_output.sum(), alpha=self.rate)
        for k in range(len(self.weights) - 1, -1, -1):
            w, b = self.weights[k], self.biases[k]
            y, x = (t if A == N else t.view(N, -1, t.shape[1])[active].flatten(0, 1) for t in (outs[k], rows[k]))
            slope = (1 - y * y).mul_(self.gain) if self.tanh else (y > 0).to(y.dtype).mul_(self.gain)
            d_z = slope.mul_(d_y)
            scale = 1 / math.sqrt(x.shape[1])
            if k:
                d_y = self.folded(d_z, w, scale, A)
            w.addmm_(d_z.T, x, beta=self.shrink, alpha=-self.rate * scale)
            b.sub_(d_z.sum(dim=0), alpha=self.rate)

    def unfolded(self, y: Tensor) -> Tensor:
        """All windows of y, N x L x C, as rows."""
        N, L, C = y.shape
        if self.model.stride == self.model.kernel_size:
            return y.reshape(N * L // self.model.stride, self.model.kernel_size * C)
        return y.reshape(N * L, C).index_select(0, self.window(N, L, 1)).view(N * L, -1)

    def folded(self, d_z: Tensor, w: Tensor, scale: float, N: int) -> Tensor:
        """The gradient by the layer below, N * L x C, from that by z: the transpose of window and weights."""
        F, L = self.model.kernel_size, len(d_z) // N
        if self.model.stride == F:
            return (d_z @ w).mul_(scale).view(N * L * F, -1)
        turned = w.view(self.width, F, -1).transpose(0, 1).reshape(F * self.width, -1)  # rows: (f, c_out)
        return (d_z.index_select(0, self.window(N, L, -1)).view(N * L, -1) @ turned).mul_(scale)

    def window(self, N: int, L: int, sign: int) -> Tensor:
        """Index of the row below (sign 1), or of the row above (-1), for each row and place f in the window."""
        if (N, L, sign) not in self.indices:
            places = sign * (torch.arange(self.model.kernel_size) - self.model.offset)
            inside = (torch.arange(L)[:, None] + places) % L
            self.indices[N, L, sign] = (torch.arange(N)[:, None, None] * L + inside).flatten()
        return self.indices[N, L, sign]

"""Training by the gradients of a loss: what every experiment uses."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from spatialkit.lab import next_checkpoint, note_precision
from spatialkit.train.loop import Loop, Steps
from spatialkit.train.predicting import device_of, modes_kept
from spatialkit.train.recipes import adam, optimizer_of

__all__ = ["PRECISIONS", "fit"]

PRECISIONS = ("float32", "bfloat16")


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    batch: int = 64,
    optimizer: Callable[[nn.Module], Optimizer] = adam(1e-3),  # noqa: B008
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    measure: Callable[[nn.Module], dict] | None = None,
    measure_at: Sequence[int] | None = None,
    precision: str = "float32",
    device: str | None = None,
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """Train a model in place; the images stay on the device throughout.

    Inside a run of the lab, the state is saved every 20 seconds, and a run that was killed resumes from there to the
    same bits (on a CPU with one thread). Dropout draws from torch's own generator, which is seeded here and given back
    as it was. Afterwards every module is in the mode, training or evaluation, in which it was given.

    Args:
        model: Any network; it is moved to the device.
        images: N x C x H x W, floats.
        labels: N.
        epochs: Passes over the images.
        seed: Seed of the order of images, of dropout and of augmentation.
        batch: Images per step; the last batch of an epoch may be smaller.
        optimizer: Model -> torch optimiser, such as ``adam(1e-3)`` or ``sgd(0.1, momentum=0.9)``.
        schedule: Optimiser and total number of steps -> torch scheduler, stepped every batch.
        loss: Outputs and labels -> scalar.
        augment: Batch and generator -> batch, on the device.
        measure: Called with the model in evaluation mode; its numbers join the record.
        measure_at: Steps after which to record; 0 is before training. By default the end of
            every epoch. A step within an epoch has the mean loss since the last record.
        precision: ``"bfloat16"`` runs the forward pass of training steps, and with it their backward pass, in bfloat16
            where autocast does. Weights, outputs, loss and ``measure`` are in float32 all the same. Faster where the
            processor has units for it (`spatialkit.lab.matrix_units`), slower elsewhere.
        device: Where to train; see ``device_of``.
        checkpoint: File for the state; by default one that belongs to the lab's run.

    Returns:
        One row per record: step, epoch, loss (mean over the steps since the last record, nan at
        step 0), and what ``measure`` gave.

    Raises:
        ValueError: If counts do not fit, the precision is another, the optimiser is no function of the model, or the
            loss is no longer finite.
    """
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"need as many labels as images and at least one, got {len(images)} and {len(labels)}")
    if epochs < 1 or batch < 1:
        raise ValueError(f"epochs and batch must be at least 1, got {epochs} and {batch}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    place = device_of(device)
    model.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    descent = optimizer_of(model, optimizer)
    images = images.to(place).contiguous(memory_format=torch.channels_last)
    per_epoch = -(-len(images) // batch)
    due = range(per_epoch, per_epoch * epochs + 1, per_epoch) if measure_at is None else measure_at
    note_precision(precision)
    with (
        torch.random.fork_rng(),
        _safe_convolutions(model, place),
        torch.autocast(place.type, enabled=False),
        modes_kept(model),
    ):
        torch.manual_seed(seed)
        model.train()
        timing = schedule(descent, per_epoch * epochs) if schedule else None
        steps = _Gradients(
            model, images, labels.to(place), descent, timing, loss, augment, measure, precision == "bfloat16"
        )
        loop = Loop(steps, len(images), batch, seed, due, checkpoint or next_checkpoint(), place)
        return loop.run(per_epoch * epochs)


@contextlib.contextmanager
def _safe_convolutions(model: nn.Module, place: torch.device):
    """Without oneDNN where its AVX2 kernels write past their memory (PyTorch 2.13: the program aborts, or worse).

    That is the backward pass of 1 x 1 convolutions with a stride and fewer than 8 channels in, channels innermost.
    """
    strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and max(m.stride) > 1]
    narrow = any(m.in_channels // m.groups < 8 for m in strided)
    affected = narrow and place.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if not affected:
        yield
        return
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before)


@dataclass
class _Gradients(Steps):
    """Steps of an optimiser along the gradient of the loss."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    optimizer: Optimizer
    schedule: LRScheduler | None
    loss: Callable[[Tensor, Tensor], Tensor]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    measure: Callable[[nn.Module], dict] | None
    half: bool  # the forward pass in bfloat16
    n_losses: int = 0  # since the last record
    sum_of_losses: Tensor = field(init=False)

    def __post_init__(self):
        self.sum_of_losses = torch.zeros((), device=self.images.device)

    def advance(self, step: int, chosen: Tensor, generator: torch.Generator) -> None:
        x, y = self.images[chosen], self.labels[chosen]
        if self.augment is not None:
            x = self.augment(x, generator)
        loss = self.loss(self.outputs(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()
        self.sum_of_losses += loss.detach()
        self.n_losses += 1

    def outputs(self, x: Tensor) -> Tensor:
        if not self.half:
            return self.model(x)
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):  # a cache would outlive the step
            return self.model(x).float()

    def record(self, step: int, per_epoch: int) -> dict:
        loss = float(self.sum_of_losses / self.n_losses) if self.n_losses else float("nan")
        if self.n_losses and not torch.isfinite(self.sum_of_losses):
            raise ValueError(f"the loss is {loss} at step {step}; lower the learning rate")
        row = {"epoch": step / per_epoch, "loss": loss}
        if self.measure is not None:
            self.model.eval()
            with torch.no_grad():
                row |= self.measure(self.model)
            self.model.train()
        self.sum_of_losses.zero_()
        self.n_losses = 0
        return row

    def state(self) -> dict:
        on_gpu = self.sum_of_losses.is_cuda
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": _plain(self.schedule.state_dict()) if self.schedule else None,
            "loss": self.sum_of_losses,
            "n_losses": self.n_losses,
            "dropout": torch.get_rng_state(),
            "dropout on cuda": torch.cuda.get_rng_state(self.sum_of_losses.device) if on_gpu else None,
        }

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        moments = state["optimizer"]["state"]  # by number of the parameter
        moments = {int(i): {n: _channels_last(v) for n, v in of.items()} for i, of in moments.items()}
        self.optimizer.load_state_dict(state["optimizer"] | {"state": moments})
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])
        self.sum_of_losses.copy_(state["loss"])
        self.n_losses = state["n_losses"]
        torch.set_rng_state(state["dropout"])
        if state["dropout on cuda"] is not None:
            torch.cuda.set_rng_state(state["dropout on cuda"], self.sum_of_losses.device)


def _channels_last(value):
    """The layout in memory that a training's 4-d tensors have, so that the same sums round alike."""
    is_map = isinstance(value, Tensor) and value.ndim == 4
    return value.contiguous(memory_format=torch.channels_last) if is_map else value


def _plain(state: dict) -> dict:
    """The numbers of a scheduler's state; what it keeps besides (functions) is built anew."""
    kept = (bool, int, float, str, list, type(None))
    return {name: value for name, value in state.items() if isinstance(value, kept)}

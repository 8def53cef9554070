"""Training: the one loop that every experiment uses."""

import contextlib
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spatialkit.lab.context import next_checkpoint, note_precision
from spatialkit.train.checkpoints import load_checkpoint, save_checkpoint

__all__ = ["device_of", "error_rate", "fit", "one_cycle", "predict", "standardise"]

_CHECKPOINT_SECONDS = 20.0


def device_of(name: str | None = None) -> torch.device:
    """The named device, by default the GPU where there is one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def standardise(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Images as float32 with mean 0 and standard deviation 1 per channel of the training images.

    Args:
        train: Images, N x C x H x W, uint8 or float.
        *others: More images, moved and scaled by the same numbers (never by their own).

    Returns:
        All sets, the training images first, with the channels innermost in memory, which
        convolutions on two cores run 1.5 times as fast on.

    Raises:
        ValueError: If a set is no 4-d tensor or has other channels than the training images, or a channel of the
            training images is constant or not finite.
    """
    for images in (train, *others):
        if not isinstance(images, Tensor):
            raise ValueError(
                f"images must be a tensor N x C x H x W, got {type(images).__name__}: use torch.from_numpy"
            )
        if images.ndim != 4 or not len(train):
            raise ValueError(f"images must be N x C x H x W, got {tuple(images.shape)}")
        if images.shape[1] != train.shape[1]:
            raise ValueError(
                f"images must have the training images' {train.shape[1]} channels, got {tuple(images.shape)}"
            )
    floats = [images.float() for images in (train, *others)]
    mean = floats[0].mean(dim=(0, 2, 3), keepdim=True)
    deviation = floats[0].std(dim=(0, 2, 3), keepdim=True)
    if not deviation.isfinite().all():
        raise ValueError("the training images hold nan or inf, or are a single number per channel: nothing to scale by")
    if not (deviation > 0).all():
        raise ValueError("a channel of the training images is constant; standardising would divide by 0")
    return [((x - mean) / deviation).contiguous(memory_format=torch.channels_last) for x in floats]


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    batch: int = 64,
    optimizer: Callable = partial(torch.optim.Adam, lr=1e-3),
    schedule: Callable | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    measure: Callable[[nn.Module], dict] | None = None,
    measure_at: Sequence[int] | None = None,
    device: str | None = None,
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """Train a model in place; the images stay on the device throughout.

    Inside a run of the lab, the state is saved every 20 seconds at the end of an epoch, and a
    run that was killed resumes from there to the same bits (on a CPU with one thread). Dropout draws
    from torch's own generator, which is seeded here and given back as it was.

    Args:
        model: Any network; it is moved to the device.
        images: N x C x H x W, floats.
        labels: What ``loss`` takes beside the outputs; class indices, N.
        epochs: Passes over the images; every image once per pass, in a new order.
        seed: Seed of the order, of ``augment`` and of dropout.
        batch: Images per step; the last batch of an epoch may be smaller.
        optimizer: Parameters -> torch optimiser.
        schedule: Optimiser and total number of steps -> torch scheduler, stepped every batch.
        loss: Outputs and labels -> scalar.
        augment: Batch and generator -> batch, on the device.
        measure: Called with the model in evaluation mode; its numbers join the record.
        measure_at: Steps after which to record; 0 is before training. By default the end of
            every epoch. A step within an epoch has the mean loss since the last record.
        device: Where to train; see ``device_of``.
        checkpoint: File for the state; by default one that belongs to the lab's run.

    Returns:
        One row per record: step, epoch, loss (mean over the steps since the last record, nan at
        step 0), and what ``measure`` gave.

    Raises:
        ValueError: If counts do not fit, or the loss is no longer finite.
    """
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"need as many labels as images and at least one, got {len(images)} and {len(labels)}")
    if epochs < 1 or batch < 1:
        raise ValueError(f"epochs and batch must be at least 1, got {epochs} and {batch}")
    place = device_of(device)
    model.to(place, memory_format=torch.channels_last)
    images = images.to(place).contiguous(memory_format=torch.channels_last)
    labels = labels.to(place)
    per_epoch = -(-len(images) // batch)
    due = set(measure_at if measure_at is not None else range(per_epoch, per_epoch * epochs + 1, per_epoch))
    note_precision(getattr(model, "precision", "float32"))
    with torch.random.fork_rng(), _safe_convolutions(model, place):
        torch.manual_seed(seed)
        run = _Run(model, optimizer, schedule, seed, per_epoch * epochs, checkpoint or next_checkpoint())
        if run.step == 0 and 0 in due:
            run.record(0.0, measure)
        while run.step < per_epoch * epochs:
            order = torch.randperm(len(images), generator=run.generator).to(place)
            for chosen in order.split(batch):
                x, y = images[chosen], labels[chosen]
                if augment is not None:
                    x = augment(x, run.generator)
                run.advance(loss(model(x), y))
                if run.step in due:
                    run.record(run.step / per_epoch, measure)
            run.save_sometimes()
    return pd.DataFrame(run.history)


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


class _Run:
    """A training under way: everything that has to survive a kill."""

    def __init__(self, model, optimizer, schedule, seed, steps, path: Path | None):
        self.model, self.path = model, path
        self.optimizer = optimizer(model.parameters())
        self.schedule = schedule(self.optimizer, steps) if schedule else None
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.history = 0, []
        self.loss, self.n_losses = torch.zeros((), device=next(model.parameters()).device), 0
        self.saved = time.monotonic()
        if path is not None:
            self._load()
        model.train()

    def advance(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()
        self.loss += loss.detach()
        self.n_losses += 1
        self.step += 1

    def record(self, epoch: float, measure: Callable | None) -> None:
        loss = float(self.loss / self.n_losses) if self.n_losses else float("nan")
        if self.n_losses and not torch.isfinite(self.loss):
            raise ValueError(f"the loss is {loss} at step {self.step}; lower the learning rate")
        row = {"step": self.step, "epoch": epoch, "loss": loss}
        if measure is not None:
            self.model.eval()
            with torch.no_grad():
                row |= measure(self.model)
            self.model.train()
        self.history.append(row)
        self.loss.zero_()
        self.n_losses = 0

    def save_sometimes(self) -> None:
        if self.path is not None and time.monotonic() - self.saved > _CHECKPOINT_SECONDS:
            try:
                self.save()
            except OSError as error:  # the training is worth more than its checkpoint
                warnings.warn(f"no checkpoint: {error.strerror}; the training goes on", stacklevel=2)
            self.saved = time.monotonic()

    def save(self) -> None:
        """Everything that the next step depends on."""
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state(), "loss": self.loss}
        tensors |= {f"global {place}": state for place, state in _global_generators(self.loss.device).items()}
        layout = _flatten({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, tensors)
        plain = {
            "layout": layout,
            "schedule": _plain(self.schedule.state_dict()) if self.schedule else None,
            "step": self.step,
            "history": self.history,
            "n_losses": self.n_losses,
        }
        save_checkpoint(self.path, tensors, plain)

    def _load(self) -> None:
        found = load_checkpoint(self.path)
        if found is None:
            return
        plain = found[1]
        tensors = {name: _channels_last(value) for name, value in found[0].items()}
        state = _unflatten(plain["layout"], tensors)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(plain["schedule"])
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["global cpu"])
        if "global cuda" in tensors:
            torch.cuda.set_rng_state(tensors["global cuda"], self.loss.device)
        self.loss.copy_(tensors["loss"])
        self.step, self.history, self.n_losses = plain["step"], plain["history"], plain["n_losses"]


def _global_generators(device: torch.device) -> dict[str, Tensor]:
    """States of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _flatten(value, tensors: dict[str, Tensor]):
    """A nested state as JSON, its tensors replaced by their number in ``tensors``."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, tensors) for item in value]}
    return {"value": value}


def _unflatten(layout: dict, tensors: dict[str, Tensor]):
    (kind, value), *_ = layout.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "items":
        return {key: _unflatten(item, tensors) for key, item in value}
    return [_unflatten(item, tensors) for item in value] if kind == "list" else value


def _channels_last(tensor: Tensor) -> Tensor:
    """The layout in memory that a training's 4-d tensors have, so that the same sums round alike."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _plain(state: dict) -> dict:
    """The numbers of a scheduler's state; what it keeps besides (functions) is built anew."""
    kept = (bool, int, float, str, list, type(None))
    return {name: value for name, value in state.items() if isinstance(value, kept)}


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule for ``fit``: the learning rate rises to the optimiser's for 30 % of the steps, then falls to 0."""
    rate = optimizer.param_groups[0]["lr"]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, cycle_momentum=False)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch: int = 100) -> Tensor:
    """Outputs of a model in evaluation mode, N x outputs, on the CPU.

    The images stay as they are even if the network works in place on them, and each module keeps its mode.

    Raises:
        ValueError: If there are no images, or ``batch`` is below 1.
    """
    if not isinstance(images, Tensor) or not images.ndim or not len(images) or batch < 1:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"need a tensor with at least one image and batches of at least one, got {got} and {batch}")
    place = next(chain(model.parameters(), model.buffers()), images).device
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return torch.cat([model(part.to(place, copy=True)).cpu() for part in images.split(batch)])
    finally:
        for module, mode in training.items():
            module.training = mode


def error_rate(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 100) -> float:
    """Share of images whose largest output is not their label's, between 0 and 1.

    Raises:
        ValueError: If labels are not one per image, or outputs hold nan, of which none is largest.
    """
    if tuple(labels.shape) != (len(images),):
        raise ValueError(f"labels must be one per image, ({len(images)},), got {tuple(labels.shape)}")
    outputs = predict(model, images, batch)
    if outputs.isnan().any():
        raise ValueError("the network puts out nan, which is no answer: has its training diverged?")
    return float((outputs.argmax(dim=1) != labels.cpu()).float().mean())

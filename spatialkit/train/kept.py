"""Trained networks, kept as checkpoints: asked for by name, trained on demand."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from spatialkit.lab import places, settings
from spatialkit.lab.context import note_precision
from spatialkit.lab.fingerprint import fingerprint_of_module
from spatialkit.lab.ledger import same_module
from spatialkit.lab.provenance import now
from spatialkit.lab.store import canonical
from spatialkit.models import build
from spatialkit.train.checkpoints import load_checkpoint, save_checkpoint
from spatialkit.train.loop import device_of, fit, one_cycle
from spatialkit.train.problem import Problem

__all__ = ["RECIPES", "Recipe", "Trained", "trained"]


@dataclass(frozen=True)
class Recipe:
    """How to train: convolutional networks with SGD and momentum, fully connected ones with Adam."""

    rate: float  # largest learning rate of SGD
    nesterov: bool
    schedule: Callable | None
    schedule_of_adam: Callable | None
    decay: float = 5e-4  # weight decay of weights, not of biases and normalisations; none with Adam
    rate_of_adam: float = 0.1
    momentum: float = 0.9

    def options(self, name: str, rate: float | None) -> dict:
        """Optimiser and schedule of one architecture, as `spatialkit.train.fit` takes them."""
        if name.startswith("fc"):
            adam = partial(torch.optim.Adam, lr=rate or self.rate_of_adam)
            return {"optimizer": adam, "schedule": self.schedule_of_adam}
        return {"optimizer": partial(self._sgd, rate=rate or self.rate), "schedule": self.schedule}

    def _sgd(self, parameters, rate: float) -> torch.optim.Optimizer:
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, nesterov=self.nesterov)


def _cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


RECIPES = {
    "source": Recipe(rate=0.1, nesterov=False, schedule=_cosine, schedule_of_adam=None),
    "fast": Recipe(rate=0.05, nesterov=True, schedule=one_cycle, schedule_of_adam=one_cycle),
}


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network.

    Attributes:
        model: With the weights of the epoch of lowest validation error, in evaluation mode, on the CPU.
        history: One row per epoch: step, epoch, loss, validation error, test error (which nothing was chosen by).
    """

    model: nn.Module
    history: pd.DataFrame


def trained(
    name: str,
    problem: Problem,
    *,
    epochs: int,
    width: float = 1.0,
    recipe: str = "fast",
    rate: float | None = None,
    batch: int = 128,
    seed: int = 0,
) -> Trained:
    """A network of the zoo, trained; read from its checkpoint if there is one, else trained now and kept.

    ``trained("vgg11_bn", classification("cifar10"), epochs=25).model`` is all that is needed. A checkpoint belongs to
    its arguments and data: change one and another network is trained. Code that was not found equal to the one that
    made it (`spatialkit.lab.ledger`) and ``FRESH=1`` train it anew. A training that was killed goes on from where it
    was (`spatialkit.train.fit`). On a GPU it runs in bfloat16 where autocast does.

    Args:
        name: One of `spatialkit.models.ARCHITECTURES`.
        problem: What to learn, such as `spatialkit.train.classes` returns.
        epochs: Passes over the training images.
        width: Factor on the number of channels.
        recipe: ``"source"``, momentum 0.9 and a cosine from rate 0.1 to 0; or ``"fast"``, Nesterov's momentum and one
            cycle with rate 0.05 at its top, for a tenth of the epochs. Fully connected networks: Adam at 0.1, constant
            or in one cycle.
        rate: Largest learning rate, if not the recipe's.
        batch: Images per step.
        seed: Of the initial weights and the order of images.

    Raises:
        ValueError: If the recipe or another argument is unknown or out of range, or the loss is no longer finite.

    References:
        Tomasini et al. (2023), section 2, for the source's recipe; weight decay 5e-4 in the authors' code. The source
        keeps the epoch of lowest *test* error.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    given = {"name": name, "width": float(width), "recipe": recipe, "rate": rate and float(rate)}
    given |= {"epochs": epochs, "batch": batch, "seed": seed}
    model = build(name, problem.train[0].shape[1:], problem.outputs, width=width, seed=seed)
    model.to(memory_format=torch.channels_last)  # before and after a reload alike: the same sums round alike
    code = {__name__: fingerprint_of_module(__name__), **problem.code}
    path = _path({name: canonical(value) for name, value in given.items()}, problem)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        kept = _kept(path, code)
        if kept is None:
            options = RECIPES[recipe].options(name, rate)
            _train(model, problem, path, code, epochs=epochs, batch=batch, seed=seed, **options)
            kept = load_checkpoint(path)
    tensors, note = kept
    model.load_state_dict(tensors)
    note_precision(note["precision"])
    return Trained(model.cpu().eval(), pd.DataFrame(json.loads(note["history"])))


def _path(given: dict, problem: Problem) -> Path:
    digest = hashlib.sha256(json.dumps([given, problem.key], sort_keys=True).encode()).hexdigest()[:16]
    return places.out() / "checkpoints" / "networks" / f"{given['name']}-{digest}.safetensors"


def _kept(path: Path, code: dict[str, str]) -> tuple[dict[str, Tensor], dict] | None:
    """What is kept there, if present code or code that was found equal made it, and no fresh one is wanted."""
    found = load_checkpoint(path)
    if found is None or found[1]["date"] < settings.fresh_since():
        return None
    made = found[1]["code"]
    return found if all(same_module(name, made.get(name, ""), now) for name, now in code.items()) else None


def _train(model: nn.Module, problem: Problem, path: Path, code: dict[str, str], **options) -> None:
    """Train, keep the weights of the best epoch, write the checkpoint."""
    device = device_of().type
    whose = json.dumps([code, settings.fresh_since()], sort_keys=True)
    owner = hashlib.sha256(whose.encode()).hexdigest()[:8]
    best, state = (path.with_suffix(f".{kind}-{device}-{owner}") for kind in ("best", "training"))
    _remove_others(path, best, state)

    def measure(_) -> dict:
        row = {"validation error": problem.error(model, "validation"), "test error": problem.error(model, "test")}
        found = load_checkpoint(best)
        if found is None or row["validation error"] < found[1]["error"]:
            save_checkpoint(best, model.state_dict(), {"error": row["validation error"]})
        return row

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        """Also seeds torch's global generator, which dropout draws from, by the one that ``fit`` keeps and saves."""
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return problem.augment(images, generator) if problem.augment else images

    with torch.random.fork_rng():
        history = fit(
            _InHalfPrecision(model) if device == "cuda" else model,
            *problem.train,
            loss=problem.loss,
            augment=augment,
            measure=measure,
            checkpoint=state,
            **options,
        )
    note = {"history": history.to_json(orient="records", double_precision=15), "date": now(), "code": code}
    note["precision"] = "bfloat16" if device == "cuda" else "float32"
    save_checkpoint(path, load_checkpoint(best)[0], note)
    for done in (best, state):
        done.unlink(missing_ok=True)


def _remove_others(path: Path, *own: Path) -> None:
    """What other code left of an interrupted training."""
    for other in path.parent.glob(f"{path.stem}.*"):
        if other.suffix.startswith((".best", ".training")) and other not in own:
            other.unlink(missing_ok=True)


class _InHalfPrecision(nn.Module):
    """A network whose forward pass runs in bfloat16 where that is safe, and whose outputs are float32."""

    precision = "bfloat16"

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.model(images).float()

"""Trained networks, kept as checkpoints: asked for by name, trained on demand."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from spatialkit.lab import canonical, fingerprint_of_module, note_precision, now, places, same_module, settings
from spatialkit.lab.fingerprint import fingerprint
from spatialkit.models import build
from spatialkit.train.checkpoints import load_checkpoint, save_checkpoint
from spatialkit.train.gradients import fit
from spatialkit.train.predicting import device_of, predict
from spatialkit.train.problem import Problem
from spatialkit.train.recipes import RECIPES

__all__ = ["Trained", "trained"]


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
    network: str | Callable[..., nn.Module],
    problem: Problem,
    *,
    epochs: int,
    width: float = 1.0,
    recipe: str = "fast",
    learning_rate: float | None = None,
    batch: int = 128,
    seed: int = 0,
    precision: str = "float32",
) -> Trained:
    """A network, trained; read from its checkpoint if there is one, else trained now and kept.

    ``trained("vgg11_bn", classification("cifar10"), epochs=25).model`` is all that is needed. A checkpoint belongs to
    its arguments and data: change one and another network is trained. Code that was not found equal to the one that
    made it (`spatialkit.lab.ledger`) and ``FRESH=1`` train it anew. A training that was killed goes on from where it
    was (`spatialkit.train.fit`).

    Args:
        network: One of `spatialkit.models.ARCHITECTURES`, or a function that is called with the shape of an image
            (channels, rows, columns), the number of outputs, ``width=`` and ``seed=``, and returns a network. Its code
            counts, so it must stand in a file or a notebook and read nothing but its arguments.
        problem: What to learn, such as `spatialkit.train.classification` returns.
        epochs: Passes over the training images.
        width: Factor on the number of channels.
        recipe: ``"source"``, momentum 0.9 and a cosine from learning rate 0.1 to 0; or ``"fast"``, Nesterov's momentum
            and one cycle with 0.05 at its top, for a tenth of the epochs. The zoo's fully connected networks: Adam at
            0.1, constant or in one cycle.
        learning_rate: The largest, if not the recipe's.
        batch: Images per step.
        seed: Of the initial weights and the order of images.
        precision: ``"float32"`` or ``"bfloat16"``, see `spatialkit.train.fit`; errors are measured in float32.

    Raises:
        ValueError: If the recipe or another argument is unknown or out of range, the function cannot be told by its
            code or does not return a network of that many outputs, or the loss is no longer finite.

    References:
        Tomasini et al. (2023), section 2, for the source's recipe; weight decay 5e-4 in the authors' code. The source
        keeps the epoch of lowest *test* error.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    if learning_rate is not None and not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    own = _code_of(network)
    code = {__name__: fingerprint_of_module(__name__), **problem.code, **own}
    model = _built(network, problem, width, seed)
    name = getattr(network, "__name__", network)
    options = {"epochs": epochs, "batch": batch, "seed": seed, "precision": precision}
    given = {"network": name, "width": float(width), "recipe": recipe, **options}
    given["learning_rate"] = learning_rate and float(learning_rate)
    key = [{name: canonical(value) for name, value in given.items()}, own, problem.key]
    path = places.out() / "checkpoints" / "networks" / f"{name}-{_digest(key)[:16]}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        connected = isinstance(network, str) and network.startswith("fc")
        options |= RECIPES[recipe].options(connected, learning_rate)
        kept = _kept(path, code) or _train(model, problem, path, code, **options)
    model.load_state_dict(kept["weights"])
    note_precision(precision)
    return Trained(model.cpu().eval(), pd.DataFrame(kept["history"]))


def _code_of(network: str | Callable) -> dict[str, str]:
    """Name and fingerprint of a function; nothing for a name of the zoo, whose code this module reaches."""
    if isinstance(network, str):
        return {}
    if not isinstance(network, FunctionType) or network.__name__ == "<lambda>":
        raise ValueError(
            "network must be a name of the zoo or a function defined by def, called as network(image_shape, outputs, "
            f"width=..., seed=...), got {network!r}"
        )
    return {f"{network.__module__}.{network.__qualname__}": fingerprint(network)}


def _built(network: str | Callable[..., nn.Module], problem: Problem, width: float, seed: int) -> nn.Module:
    make = partial(build, network) if isinstance(network, str) else network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for functions that draw from torch's own generator
        model = make(tuple(problem.train[0].shape[1:]), problem.outputs, width=width, seed=seed)
    shape = tuple(predict(model, problem.train[0][:1]).shape) if isinstance(model, nn.Module) else type(model).__name__
    if shape != (1, problem.outputs):
        raise ValueError(f"network must return one with outputs of shape {(1, problem.outputs)} an image, got {shape}")
    # Before and after a reload alike: the same sums round alike.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _kept(path: Path, code: dict[str, str]) -> dict | None:
    """What is kept there, if present code or code that was found equal made it, and no fresh one is wanted."""
    found = load_checkpoint(path)
    if found is None or found["date"] < settings.fresh_since():
        return None
    return found if all(same_module(name, found["code"].get(name, ""), now) for name, now in code.items()) else None


def _train(model: nn.Module, problem: Problem, path: Path, code: dict[str, str], **options) -> dict:
    """Train, keep the weights of the best epoch, write the checkpoint; what it holds."""
    owner = f"{device_of().type}-{_digest([code, settings.fresh_since()])[:8]}"
    best, state = (path.with_suffix(f".{kind}-{owner}") for kind in ("best", "training"))
    _remove_others(path, best, state)

    def measure(_) -> dict:
        row = {"validation error": problem.error(model, "validation"), "test error": problem.error(model, "test")}
        found = load_checkpoint(best)
        if found is None or row["validation error"] < found["error"]:
            save_checkpoint(best, {"weights": model.state_dict(), "error": row["validation error"]})
        return row

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        """Also seeds torch's global generator, which dropout draws from, by the one that ``fit`` keeps and saves."""
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return problem.augment(images, generator) if problem.augment else images

    history = fit(
        model, *problem.train, loss=problem.loss, augment=augment, measure=measure, checkpoint=state, **options
    )
    found = load_checkpoint(best)
    assert found is not None  # the first epoch wrote it
    rows = json.loads(history.to_json(orient="records", double_precision=15))
    kept = {"weights": found["weights"], "history": rows, "date": now(), "code": code}
    save_checkpoint(path, kept)
    for done in (best, state):
        done.unlink(missing_ok=True)
    return kept


def _remove_others(path: Path, *own: Path) -> None:
    """What other code left of an interrupted training."""
    for other in path.parent.glob(f"{path.stem}.*"):
        if other.suffix.startswith((".best", ".training")) and other not in own:
            other.unlink(missing_ok=True)

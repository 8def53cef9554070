"""What each layer of a network puts out, seen at the moment it does."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["in_batches", "watching"]


@contextmanager
def watching(
    model: nn.Module, see: Callable[[str, Tensor], None], layers: Sequence[str] | None = None
) -> Iterator[None]:
    """Within the block, call ``see(name, output)`` each time a layer puts something out.

    The call comes before the next layer runs, so that one which works in place (``ReLU(inplace=True)``)
    cannot change what is seen; keep a copy, not the tensor, to look at it later. Of a layer that returns
    several things the first tensor counts. A module that the network uses several times is named ``relu``,
    ``relu:2``, ``relu:3`` in the order of its uses. Functions (``F.relu``) are no modules and stay unseen:
    name the module that contains them.

    Args:
        model: Any network.
        see: Takes a layer's name, as in ``model.named_modules()``, and its output.
        layers: Names of the modules to watch; by default all that contain no other. ``relu:2`` is the
            second use of ``relu`` alone.

    Raises:
        ValueError: If the network has no module of one of the names.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if layers is None:
        layers = [name for name, module in modules.items() if not list(module.children())]
        layers = layers or [""]  # the network is one layer itself
        modules[""] = model
    wanted = set(layers)
    bases = {name if name in modules else name.rpartition(":")[0] or name for name in layers}
    if unknown := sorted(bases - set(modules)):
        known = ", ".join(itertools.islice(modules, 8))
        raise ValueError(f"the network has no layer {', '.join(map(repr, unknown))}; its layers are {known}, ...")
    uses = Counter()

    def hook_of(base: str) -> Callable:
        def hook(module, inputs, output) -> None:
            uses[base] += 1
            name = base if uses[base] == 1 else f"{base}:{uses[base]}"
            tensor = _first_tensor(output)
            if tensor is not None and (base in wanted or name in wanted):
                see(name, tensor)

        return hook

    handles = [model.register_forward_pre_hook(lambda module, inputs: uses.clear())]
    handles += [modules[base].register_forward_hook(hook_of(base)) for base in modules if base in bases]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(output) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return next((found for part in output if (found := _first_tensor(part)) is not None), None)
    return None


@contextmanager
def in_batches(model: nn.Module, images: Tensor, batch: int) -> Iterator[Iterator[Tensor]]:
    """Batches of the images on the model's device, to be passed through it in evaluation mode, without gradient.

    Args:
        model: Any network; it is left in the mode it was in.
        images: What the network takes, first axis images.
        batch: Images at a time, at least 1.

    Raises:
        ValueError: If there are no images, or ``batch`` is below 1.
    """
    if not isinstance(images, Tensor) or images.ndim == 0 or len(images) == 0:
        raise ValueError(f"images must be a tensor with at least one image, got {_shape(images)}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    state = next(itertools.chain(model.parameters(), model.buffers()), images)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield (part.to(state.device) for part in images.split(batch))
    finally:
        for module, mode in training.items():
            module.training = mode


def _shape(images) -> str:
    return str(tuple(images.shape)) if isinstance(images, Tensor) else type(images).__name__

"""What each layer of a network puts out, seen at the moment it does."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Call", "first_tensor", "following", "in_batches", "modules_of", "unwrapped", "watching"]

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers that compile it or spread it over devices.

    Raises:
        ValueError: If it is no torch network.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inner: object = model
    while isinstance(inner, nn.Module):
        model = inner
        inner = model.module if isinstance(model, _PARALLEL) else getattr(model, "_orig_mod", None)
    return model


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by name, ``""`` the network itself, as `named_modules` of the network that is `unwrapped`.

    Compiled parts have the name of what they compile, a shared module all its names. Parametrizations (of weights)
    are no layers.
    """
    found = {}
    for name, module in unwrapped(model).named_modules(remove_duplicate=False):
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        if not hasattr(module, "_orig_mod") and "parametrizations" not in parts:
            found[".".join(parts)] = module
    return found


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of a module in a pass.

    Attributes:
        base: The module's name.
        use: How often it had been used in this pass, this time included.
        inner: Whether other modules ran within it.
        inputs: What it was given.
        output: What it returned.
    """

    base: str
    use: int
    inner: bool
    inputs: tuple
    output: object

    @property
    def name(self) -> str:
        """``relu``, then ``relu:2``, ``relu:3`` in the order of uses."""
        return self.base if self.use == 1 else f"{self.base}:{self.use}"


@dataclasses.dataclass
class _Inside:
    """A use of a module that has not ended yet."""

    name: str
    inputs: tuple
    inner: bool = False


@contextmanager
def following(model: nn.Module, see: Callable[[Call], None], bases: Sequence[str] | None = None) -> Iterator[nn.Module]:
    """Within the block, ``see`` gets each `Call` of the modules ``bases`` (all by default) before the next one runs.

    Also sees modules that are called through ``forward``, which passes hooks by. Compiled networks run uncompiled
    inside the block. Pass images through what the block yields, the network without its wrappers.
    """
    inside, modules = unwrapped(model), modules_of(model)
    names: dict[nn.Module, str] = {}
    for name in modules if bases is None else bases:
        names.setdefault(modules[name], name)
    uses: Counter[str] = Counter()  # in this pass
    called: Counter[str] = Counter()  # by `__call__`, whose forward has not begun
    stack: list[_Inside] = []
    undo: list[Callable[[], object]] = []

    def enter(name: str, inputs) -> None:
        stack.append(_Inside(name, inputs))

    def leave(name: str, output) -> None:
        while stack[-1].name != name:  # left by an exception that the network caught itself
            stack.pop()
        own = stack.pop()
        for outer in stack:
            outer.inner = True
        uses[name] += 1
        see(Call(name, uses[name], own.inner, own.inputs, output))

    def start(*_) -> None:
        for counts in (uses, stack, called):
            counts.clear()

    def before(name: str) -> Callable:
        def hook(module, inputs) -> None:
            called[name] += 1
            enter(name, inputs)

        return hook

    def around(name: str, forward: Callable) -> Callable:
        def called_directly_or_not(*inputs, **options):
            if called[name]:  # within __call__, whose hooks see what comes out in the end
                called[name] -= 1
                return forward(*inputs, **options)
            enter(name, inputs)
            output = forward(*inputs, **options)
            leave(name, output)
            return output

        return called_directly_or_not

    try:
        undo.append(inside.register_forward_pre_hook(start).remove)
        for module, name in names.items():
            undo.append(module.register_forward_pre_hook(before(name)).remove)
            after = lambda module, inputs, output, name=name: leave(name, output)  # noqa: E731
            undo.append(module.register_forward_hook(after).remove)
            if not isinstance(module, torch.jit.ScriptModule):
                undo.append(_replaced_forward(module, around(name, module.forward)))
        with torch.compiler.set_stance("force_eager"):
            yield inside
    finally:
        for step in reversed(undo):
            step()


def _replaced_forward(module: nn.Module, forward: Callable) -> Callable[[], None]:
    """Put another ``forward`` into a module; returns what puts the old one back."""
    own = vars(module).get("forward")
    vars(module)["forward"] = forward
    return lambda: vars(module).pop("forward") if own is None else vars(module).update(forward=own)


@contextmanager
def watching(
    model: nn.Module, see: Callable[[str, Tensor], None], layers: Sequence[str] | None = None
) -> Iterator[None]:
    """Within the block, call ``see(name, output)`` each time a layer puts something out.

    The call comes before the next layer runs, so that one which works in place (``ReLU(inplace=True)``)
    cannot change what is seen; keep a copy, not the tensor, to look at it later. Of a layer that returns
    several things the first tensor counts. A module that the network uses several times is named ``relu``,
    ``relu:2``, ``relu:3`` in the order of its uses. Functions (``F.relu``) are no modules and stay unseen:
    name the module that contains them. A compiled network runs uncompiled inside the block.

    Args:
        model: Any network.
        see: Takes a layer's name, as in ``model.named_modules()``, and its output.
        layers: Names of the modules to watch; by default all that contain no other. ``relu:2`` is the
            second use of ``relu`` alone.

    Raises:
        ValueError: If the network has no module of one of the names.
    """
    modules = modules_of(model)
    if layers is None:
        layers = [name for name, module in modules.items() if name and not _children(module)] or [""]
    wanted, bases = set(layers), bases_of(layers, modules)

    def seen(call: Call) -> None:
        tensor = first_tensor(call.output)
        if tensor is not None and (call.base in wanted or call.name in wanted):
            see(call.name, tensor)

    with following(model, seen, bases):
        yield


def bases_of(layers: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """The modules that named layers are uses of: ``relu`` for ``relu:2``.

    Raises:
        ValueError: If there is no module of one of the names.
    """
    bases = [name if name in modules else name.rpartition(":")[0] or name for name in layers]
    if unknown := sorted(set(bases) - set(modules)):
        known = ", ".join(itertools.islice(filter(None, modules), 8))
        raise ValueError(f"the network has no layer {', '.join(map(repr, unknown))}; its layers are {known}, ...")
    return list(dict.fromkeys(bases))


def _children(module: nn.Module) -> list[nn.Module]:
    return [child for name, child in module.named_children() if name != "parametrizations"]


def first_tensor(output, depth: int = 4) -> Tensor | None:
    """The first tensor in what a layer returned: in lists, mappings, dataclasses and attributes of objects, too."""
    if isinstance(output, Tensor):
        return output.dequantize() if output.is_quantized else output
    parts: Iterable[object]
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, list | tuple):
        parts = output
    elif isinstance(output, str | bytes | int | float | complex | nn.Module | type(None)) or callable(output):
        return None
    else:
        slots = [getattr(output, name, None) for name in getattr(type(output), "__slots__", ())]
        parts = [*getattr(output, "__dict__", {}).values(), *slots]
    found = (first_tensor(part, depth - 1) for part in parts) if depth else ()
    return next((tensor for tensor in found if tensor is not None), None)


@contextmanager
def in_batches(model: nn.Module, images: Tensor, batch: int) -> Iterator[Iterator[Tensor]]:
    """Batches of the images on the model's device, to be passed through it in evaluation mode, without gradient.

    The caller's generators end as they began, even if the network draws from them.

    Args:
        model: Any network; it is left in the mode it was in.
        images: What the network takes, first axis images. Batches are copies: a network may work in place on them.
        batch: Images at a time, at least 1.

    Raises:
        ValueError: If there are no images, or ``batch`` is below 1.
    """
    check_images(images)
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    state = next(itertools.chain(model.parameters(), model.buffers()), images)
    training = {module: module.training for module in model.modules()}
    model.eval()
    devices = [state.device.index] if state.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield (part.to(state.device, copy=True) for part in images.split(batch))
    finally:
        for module, mode in training.items():
            module.training = mode


def check_images(images, least: int = 1) -> None:
    """Raises ValueError unless ``images`` is a tensor with so many images, all of them finite."""
    if not isinstance(images, Tensor) or images.ndim == 0 or len(images) < least:
        number = {1: "one image", 2: "two images"}[least]
        raise ValueError(f"images must be a tensor with at least {number}, got {_shape(images)}")
    if images.numel() == 0:
        raise ValueError(f"images have no pixels: got {_shape(images)}")
    if images.is_floating_point() and not all(bool(part.isfinite().all()) for part in images.split(1000)):
        raise ValueError("images hold nan or inf: mask or repair them first")


def _shape(images) -> str:
    return str(tuple(images.shape)) if isinstance(images, Tensor) else f"{type(images).__name__}: use a torch tensor"

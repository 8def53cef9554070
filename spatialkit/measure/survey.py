"""Which layers of a network can be measured, and how: seen on a few images before the others pass.

Two small batches of different size pass first. A layer is measurable if what it puts out has an axis that grows with
the batch and holds the same numbers for the same image in both: then it sees every image once, and treats each by
itself.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spatialkit.measure.calls import Call, bases_of, first_tensor, following, in_batches, modules_of, unwrapped
from spatialkit.measure.grids import HALVES, Grid, find_grid, kind_of, with_halves

__all__ = ["Layer", "Survey", "asked_for", "survey"]

_RANDOM = "puts out other numbers when the same images pass again: switch dropout and other noise off"
_MIXING = "mixes the images of a batch: switch statistics over the batch off"
_NO_STATISTICS = "batch normalisation has no statistics yet: calibrate(model, images), or train"


@dataclass
class Layer:
    """One row of the survey: one use of a module, or all its uses in a pass if each sees some of the images.

    Attributes:
        name: As in `spatialkit.measure.calls`.
        base: The module's name.
        depth: Place in the order of outputs, from 1.
        why: Why it has no values; empty if it has some.
        note: What to know about its values; empty mostly.
        axis: The one that holds images.
        per_image: How many entries along it belong to one image.
        inner: Whether images are innermost along it.
        gathered: Whether the outputs of all uses are put together.
        grid: Its places, or why there are none.
    """

    name: str
    base: str
    depth: int = 0
    why: str = ""
    note: str = ""
    axis: int = 0
    per_image: int = 1
    inner: bool = False
    gathered: bool = False
    grid: Grid | str = ""

    def images_first(self, output: Tensor, n: int) -> Tensor:
        """What belongs to each of ``n`` images, ``(n, ...)``: a view.

        Raises:
            ValueError: If the output does not hold ``n`` images.
        """
        if output.ndim <= self.axis or output.shape[self.axis] != n * self.per_image:
            raise ValueError(f"puts out {tuple(output.shape)} for a batch of {n} images, unlike for a few")
        x = output.movedim(self.axis, 0) if self.axis else output
        if self.per_image == 1:
            return x
        return x.unflatten(0, (self.per_image, n)).transpose(0, 1) if self.inner else x.unflatten(0, (n, -1))


class Survey:
    """What can be measured of a network.

    Args:
        layers: In the order of their outputs.
        uses: How often each module was used in a pass.
        strict: Whether a layer without values is an error.
    """

    def __init__(self, layers: list[Layer], uses: Mapping[str, int], strict: bool):
        self.layers, self.uses, self.strict = layers, uses, strict
        for depth, layer in enumerate(layers, 1):
            layer.depth = depth
            if layer.why:
                self.fail(layer, layer.why)

    def fail(self, layer: Layer, why: str) -> None:
        """Note why a layer has no values; a ValueError if it was asked for by name."""
        layer.why = layer.why or why
        if self.strict:
            raise ValueError(f"layer {layer.name!r} {why}: leave it out")


def asked_for(
    model: nn.Module, layers: str | Sequence[str] | None, own_input: bool
) -> tuple[str | list[str] | None, bool]:
    """Which layers of the network are asked for, and whether the images themselves are, as ``input``.

    Args:
        model, layers: As for `survey`.
        own_input: Whether ``input`` may stand for the images.

    Raises:
        ValueError: Unless ``layers`` is None, ``"leaves"``, ``"blocks"`` or a list of names of modules.
    """
    modules = modules_of(model)
    if layers is None or (isinstance(layers, str) and layers in ("leaves", "blocks")):
        return layers, own_input and "input" not in modules
    if isinstance(layers, str) or not all(isinstance(name, str) for name in layers):
        raise ValueError(f'layers must be "leaves", "blocks" or a list of names, got {layers!r}')
    if len(layers) == 0:
        raise ValueError('no layers named: leave layers out for all, or pass "leaves", "blocks" or names')
    own = own_input and "input" not in modules and "input" in layers
    watched = [name for name in layers if not own or name != "input"]
    bases_of(watched, modules)
    return watched, own


def survey(
    model: nn.Module,
    images: Tensor,
    layers: str | Sequence[str] | None = None,
    places: bool = False,
    own_input: bool = False,
) -> Survey:
    """Look at a network with two batches of a few images.

    Args:
        model: Any network.
        images: First axis images, at least 1.
        layers: ``"leaves"`` or None: all modules in which no other runs. ``"blocks"``: all others but the network
            itself. Or names; a layer without values is then an error.
        places: Whether to look for the places of maps, too.
        own_input: Whether the images themselves are a layer, ``input``, unless a module bears that name: the first by
            default, or if it is among ``layers``.

    Raises:
        ValueError: If a layer is unknown or one asked for by name cannot be measured, if no module runs, or a batch
            normalisation mixes images.
    """
    watched, own = asked_for(model, layers, own_input)
    found = Survey([], {}, strict=True) if own and watched == [] else _modules(model, images, watched, places)
    if own:
        side = _sides(images)
        grid = Grid((2, 3), side) if side else f"images are {tuple(images.shape[1:])}, not maps"
        found.layers.insert(0, Layer("input", "input", grid=grid))
    return found


def _modules(model: nn.Module, images: Tensor, layers: str | list[str] | None, places: bool) -> Survey:
    """`survey` of the network's modules."""
    _check_statistics(model)
    modules, named = modules_of(model), layers if isinstance(layers, list) else []
    modules = {name: modules[name] for name in [*bases_of(named, modules), *modules]}

    def taken(call: Call) -> bool:
        if named:
            return call.base in named or call.name in named
        return call.inner and call.base != "" if layers == "blocks" else not call.inner

    side = _sides(images) if places and not images.is_complex() else None
    side = side if side and min(side) > 1 else None
    long, short = _two_batches(images, side is not None)
    try:
        many = _recorded(model, long, modules, taken)
    except RuntimeError as error:
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(
            f"the network does not take images of {kind} and {tuple(images.shape[1:])}: {error}"
        ) from error
    if any(output.note for output in many):
        warnings.warn(f"{_NO_STATISTICS}; layers behind it have untrained scales", UserWarning, stacklevel=5)
    found = list(_layers(many, _recorded(model, short, modules, taken, seed=1), len(long), len(short), side, places))
    if any(layer.why == _MIXING for layer in found):
        _blame_noise(found, many, _recorded(model, long, modules, taken, seed=2))
    silent = _silent(modules, {output.base for output in many}, layers)
    if missing := [n for n in named if n not in {x for o in found for x in (o.name, o.base)}]:
        raise ValueError(f"layer {', '.join(map(repr, missing))} puts out nothing: leave it out")
    hidden = isinstance(unwrapped(model), torch.jit.ScriptModule | torch.fx.GraphModule) and len(found) < 2
    if not named and (hidden or not found):
        raise ValueError(
            "none of the network's modules runs by itself, as in a traced or exported network, or one without blocks: "
            "pass the network that it was made of, or name layers"
        )
    return Survey(found + silent, {output.base: output.use for output in many}, strict=bool(named))


def _blame_noise(found: list[Layer], known: list[_Output], again: list[_Output]) -> None:
    """What puts out other numbers for the same batch does not mix its images, or not only: it is random."""
    of_known, of_again = _by_base(known), _by_base(again)
    for layer in found:
        pairs = [(a.tensor, b.tensor) for a, b in zip(of_again[layer.base], of_known[layer.base], strict=False)]
        if layer.why == _MIXING and not all(_same(a, b) for a, b in pairs if a is not None and b is not None):
            layer.why = _RANDOM


def _sides(images: Tensor) -> tuple[int, int] | None:
    """Rows and columns of images N x C x H x W."""
    return (images.shape[2], images.shape[3]) if images.ndim == 4 else None


@dataclass
class _Output:
    """What a use of a module put out; ``tensor`` is None if it was no tensor."""

    base: str
    name: str
    use: int
    tensor: Tensor | None
    kind: str | None
    note: str


def _recorded(
    model: nn.Module, batch: Tensor, modules: Mapping[str, nn.Module], taken: Callable, seed: int = 0
) -> list[_Output]:
    """Copies of what the layers put out for one batch, in order; a network that draws does so from ``seed``."""
    outputs: list[_Output] = []
    kinds: dict[int, tuple[str | None, Tensor | None]] = {}  # by id; the tensor is kept, so that no other takes its id
    note = ""

    def see(call: Call) -> None:
        nonlocal note
        module, tensor = modules[call.base], first_tensor(call.output)
        if tensor is not None:
            given = first_tensor(call.inputs)
            known, _ = kinds.get(id(given), (None, None))
            same = call.inner or tensor is given  # what an inner module put out, or passed through
            kind = kinds.get(id(tensor), (None, None))[0] if same else kind_of(module, given, tensor, known)
            kinds[id(tensor)] = kind, tensor
        if not note and _without_statistics(module):
            note = _NO_STATISTICS
        if taken(call):
            copied = None if tensor is None else tensor.clone()
            outputs.append(_Output(call.base, call.name, call.use, copied, kind if tensor is not None else None, note))

    with in_batches(model, batch, len(batch)) as parts, following(model, see, list(modules)) as inside:
        torch.manual_seed(seed)
        for part in parts:
            inside(part)
    return outputs


def _two_batches(images: Tensor, halves: bool) -> tuple[Tensor, Tensor]:
    """A few images, and fewer of the same."""
    few = images[:3] if len(images) > 2 else torch.cat([images, images[:1].flip(-1), images[:1].roll(1, -1)])[:3]
    if not halves:
        return few, few[:2]
    long = with_halves(few[:2])
    return long, long[:HALVES]


def _layers(many: list[_Output], few: list[_Output], n_many: int, n_few: int, side, places: bool) -> Iterator[Layer]:
    """The layers by what they put out for both batches, in order of their first outputs."""
    of_few, order, made = _by_base(few), {output.name: i for i, output in enumerate(many)}, []
    for base, long in _by_base(many).items():
        short = of_few[base]
        single = [_fit(a.tensor, b.tensor, n_many, n_few) for a, b in zip(long, short, strict=False)]
        if len(long) == len(short) and (len(long) == 1 or not all(isinstance(fit, str) for fit in single)):
            fits, gathered = list(zip(long, single, strict=True)), False
        else:
            whole = _joined(long)
            fit = _fit(whole, _joined(short), n_many, n_few)
            if isinstance(fit, str):
                fit = f"is used {len(long)} times for {n_many} images, and no output holds all of them"
            fits, gathered = [(_Output(base, base, 1, whole, long[0].kind, long[0].note), fit)], True
        for output, fit in fits:
            layer = Layer(output.name, base, gathered=gathered, note=output.note)
            if isinstance(fit, str):
                layer.why = fit
            else:
                layer.axis, layer.per_image, layer.inner = fit
                if places and output.tensor is not None:
                    layer.grid = find_grid(layer.images_first(output.tensor, n_many), output.kind, side, n_many)
            made.append((order[output.name], layer))
    yield from (layer for _, layer in sorted(made, key=lambda each: each[0]))


def _joined(outputs: list[_Output]) -> Tensor | None:
    tensors = [output.tensor for output in outputs if output.tensor is not None and output.tensor.ndim]
    alike = len(tensors) == len(outputs) and len({t.shape[1:] for t in tensors}) == 1
    return torch.cat(tensors) if alike else None


def _fit(long: Tensor | None, short: Tensor | None, n_long: int, n_short: int) -> tuple[int, int, bool] | str:
    """Axis of images, entries per image, and whether images are innermost in it; or why there is none."""
    if long is None or short is None:
        return "puts out no tensor"
    matches = False
    for axis in range(min(long.ndim, short.ndim)):
        others = long.movedim(axis, 0).shape[1:] == short.movedim(axis, 0).shape[1:]
        if not others or long.shape[axis] % n_long or long.shape[axis] // n_long * n_short != short.shape[axis]:
            continue
        matches, per_image = True, long.shape[axis] // n_long
        for inner in (False, True)[: 1 + (per_image > 1)]:
            layout = Layer("", "", axis=axis, per_image=per_image, inner=inner)
            if _same(layout.images_first(long, n_long)[:n_short], layout.images_first(short, n_short)):
                return axis, per_image, inner
    if matches:
        return _MIXING
    kind = f"puts out {str(long.dtype).removeprefix('torch.')} of {tuple(long.shape)} for {n_long} images"
    return f"{kind}, {tuple(short.shape)} for {n_short}: no axis is images"


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs agree, up to how sums are rounded in batches of different size."""
    if a.shape != b.shape:
        return False
    rough = torch.is_autocast_enabled(a.device.type) or (a.is_floating_point() and a.dtype.itemsize <= 2)
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.to(wide), b.to(wide)
    known = a.isfinite()
    if not torch.equal(known, b.isfinite()):
        return False
    a, b = a.where(known, 0), b.where(known, 0)
    return bool((a - b).norm() <= (0.05 if rough else 1e-3) * torch.maximum(a.norm(), b.norm()))


def _by_base(outputs: list[_Output]) -> dict[str, list[_Output]]:
    found = defaultdict(list)
    for output in outputs:
        found[output.base].append(output)
    return found


def _silent(modules: Mapping[str, nn.Module], ran: set[str], layers) -> list[Layer]:
    """Modules without others in them that did not run, nor serve in one that did."""
    if layers not in (None, "leaves"):
        return []
    silent = []
    for name, module in modules.items():
        parts = name.split(".")
        served = {".".join(parts[:i]) for i in range(len(parts) + 1)} & ran
        scripted = isinstance(module, torch.jit.ScriptModule)
        layer = not scripted and type(module).forward is not nn.Module.forward and not list(module.children())
        if name and not served and layer:
            silent.append(Layer(name, name, why="does not run in evaluation mode"))
    return silent


def _without_statistics(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None:
        return False
    mean, variance = module.running_mean, module.running_var
    return not bool(mean.any()) and variance is not None and bool((variance == 1).all())


def _check_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"batch normalisation {name!r} keeps no running statistics and would mix images with their perturbed "
                "versions: make it with track_running_stats=True and call calibrate(model, images)"
            )

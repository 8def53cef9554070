"""Spatial orderness of what every layer of a network puts out, in one pass over the images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from spatialkit.measure.calls import check_images, in_batches
from spatialkit.measure.order import OrdernessMeter, check_scale
from spatialkit.measure.survey import Layer, Survey, survey
from spatialkit.measure.tables import long_table
from spatialkit.measure.two_hop_paths import NEIGHBOURS

__all__ = ["MapMeter", "layer_orderness"]

_VALUES_AT_A_TIME = 120_000  # six buffers of them fit into a processor's cache
_ADDENDS = 256  # more would round too much in float32


def layer_orderness(
    model: nn.Module,
    images: Tensor,
    layers: str | Sequence[str] | None = None,
    scale: int = 1,
    neighbours: str = "4",
    batch: int = 100,
) -> pd.DataFrame:
    """Spatial orderness of every feature map of every layer, each pooled over the images.

    The images pass once, in evaluation mode; memory does not grow with their number. A few of them pass before, twice
    and in batches of two sizes: a layer has values only if it saw every image once, on its own. Maps may have their
    channels last, and tokens are folded back onto their grid, without class tokens. Within a training, pass it to
    ``fit`` as part of ``measure``.

    Args:
        model: Any network; it stays in the mode it is in. A compiled one runs uncompiled.
        images: What it takes, N x C x H x W.
        layers: ``"leaves"``, the default: all modules in which no other runs. ``"blocks"``: those in which others run,
            such as residual and transformer blocks, and stages. Or a list of names of modules (see
            `spatialkit.measure.calls`).
        scale, neighbours: As in `spatialkit.measure.order`.
        batch: Images at a time.

    Returns:
        One row per map, in the order of the layers' outputs, with the columns of `spatialkit.measure.tables`: ``map``
        from 0, ``measure`` orderness, ``value`` without unit, nan for a map that is constant on each image. Layers that
        cannot be measured have one row that says why. The source's value for a layer is the mean over its maps:
        ``table.groupby("layer", sort=False)["value"].mean()``.

    Raises:
        ValueError: If an argument is none of the above, a layer is unknown, a named one cannot be measured (``why``
            of the table says when), or no layer puts out maps of 3 x 3 pixels at this scale.

    References:
        "Investigating CNNs using Spatial Orderness" (BMVC 2019), section 4.2, and supplement E for
        distributions over maps.
    """
    _check(images, scale, neighbours)
    found = survey(model, images, layers, places=True)
    for layer in found.layers:
        if why := _unsuited(layer, scale):
            found.fail(layer, why)
    meters: dict[str, MapMeter | OrdernessMeter] = {}

    def see(layer: Layer, output: Tensor) -> None:
        maps = layer.grid.fold(output)
        if layer.name not in meters:
            fast = neighbours == "4" and scale == 1 and maps.dtype == torch.float32
            meters[layer.name] = MapMeter() if fast else OrdernessMeter(scale, neighbours)
        meters[layer.name].update(maps)

    if any(not layer.why for layer in found.layers):
        with in_batches(model, images, batch) as parts:
            found.read(parts, see)
    values = dict(_values(found, meters))
    if not values:
        reasons = next((f": layer {layer.name!r} {layer.why}" for layer in found.layers if layer.why), "")
        raise ValueError(f"no layer puts out maps of at least {3 * scale} x {3 * scale} pixels{reasons}")
    return long_table(row for layer in found.layers for row in _rows(layer, values.get(layer.name)))


def _values(found: Survey, meters: dict) -> Iterator[tuple[str, list[float]]]:
    """Orderness of the maps of each layer that has it."""
    for layer in found.layers:
        if not layer.why:
            try:
                yield layer.name, meters[layer.name].per_map().tolist()
            except ValueError as error:
                found.fail(layer, f"puts out what has no orderness ({error})")


def _rows(layer: Layer, values: list[float] | None) -> Iterator[dict]:
    of_layer = {"layer": layer.name, "depth": layer.depth, "measure": "orderness", "value": math.nan, "why": layer.why}
    if values is None:
        yield of_layer
    for number, value in enumerate(values or ()):
        why = "the map is constant on each image" if math.isnan(value) else layer.note
        yield of_layer | {"map": number, "value": value, "why": why}


def _unsuited(layer: Layer, scale: int) -> str:
    """Why a layer of the survey has no orderness; empty if it has."""
    if layer.why or isinstance(layer.grid, str):
        return layer.why or layer.grid
    h, w = layer.grid.side
    if min(h, w) // scale < 3:
        return f"puts out maps of {h} x {w} pixels; orderness at scale {scale} needs at least {3 * scale} x {3 * scale}"
    return ""


def _check(images, scale: int, neighbours: str) -> None:
    if neighbours not in NEIGHBOURS:
        raise ValueError(f"neighbours must be one of {', '.join(NEIGHBOURS)}; got {neighbours!r}")
    check_scale(scale)
    check_images(images)


class MapMeter:
    """Spatial orderness of each map (scale 1, 4-neighbours) of float32 batches, in few passes over them.

    As `spatialkit.measure.OrdernessMeter`, but quick on maps whose channels are innermost in memory, as
    convolutions put them out. Steps e_i lead from a pixel q to its d neighbours; their sum is the Laplacian
    at q. Over all two-hop paths with middle q::

        near = sum_q (d - 1) sum_i e_i^2
        far = sum_q sum_ij (e_i - e_j)^2 = sum_q 2 d sum_i e_i^2 - 2 (sum_i e_i)^2

    so that squared steps to the right and down and squared Laplacians are all that has to be added up.
    """

    def __init__(self):
        self._shape = None  # (H, W, C) of all maps

    def update(self, maps: Tensor) -> None:
        """Add maps, float32, shape ``(N, C, H, W)`` with C, H and W as in the first batch.

        Raises:
            ValueError: If the shape changes between batches.
        """
        x = maps.detach().permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
        if self._shape is None:
            self._start(x)
        if self._shape != x.shape[1:]:
            H, W, C = self._shape
            raise ValueError(f"all batches must be (N, {C}, {H}, {W}), got {tuple(maps.shape)}")
        for part in x.split(self._n):
            self._add(part)

    def per_map(self) -> Tensor:
        """Orderness of each map over all images so far, float64, shape ``(C,)``; nan where constant.

        Raises:
            ValueError: Without images, or if maps hold nan or inf, or values whose squares are too large.
        """
        if self._shape is None:
            raise ValueError("no images yet: call update(images) first")
        self._flush()
        H, W, _ = self._shape
        right, down, laplacian = self._totals
        d = right.new_full((H, W, 1), 4)
        for border in (d[0], d[-1], d[:, 0], d[:, -1]):
            border -= 1

        def weighted_steps(weight: Tensor) -> Tensor:  # sum_q weight(q) sum_i e_i^2: a step belongs to both its ends
            across = right * (weight[:, 1:] + weight[:, :-1])
            return across.sum((0, 1)) + (down * (weight[1:] + weight[:-1])).sum((0, 1))

        near = weighted_steps(d - 1)
        far = 2 * weighted_steps(d) - 2 * laplacian.sum((0, 1))
        if not far.isfinite().all():
            raise ValueError("maps hold nan or inf, or differences whose squares are too large for float32")
        return far / near - 1

    def _start(self, x: Tensor) -> None:
        self._shape = H, W, C = x.shape[1:]
        self._n = max(1, _VALUES_AT_A_TIME // x[0].numel()) if x.is_cpu else len(x)
        shapes = [(H, W - 1, C), (H - 1, W, C), (H, W, C)]  # steps to the right, steps down, Laplacians
        self._differences = [x.new_empty(self._n, *shape) for shape in shapes]
        self._squares = [x.new_zeros(self._n, *shape) for shape in shapes]
        self._totals = [x.new_zeros(shape, dtype=torch.float64) for shape in shapes]
        self._n_added = 0

    def _add(self, x: Tensor) -> None:
        differences = right, down, laplacian = [buffer[: len(x)] for buffer in self._differences]
        torch.sub(x[:, :, 1:], x[:, :, :-1], out=right)
        torch.sub(x[:, 1:], x[:, :-1], out=down)
        torch.sub(right[:, :, 1:], right[:, :, :-1], out=laplacian[:, :, 1:-1])
        laplacian[:, :, 0] = right[:, :, 0]
        torch.neg(right[:, :, -1], out=laplacian[:, :, -1])
        laplacian[:, :-1] += down
        laplacian[:, 1:] -= down
        for squares, difference in zip(self._squares, differences, strict=True):
            squares[: len(x)].addcmul_(difference, difference)
        self._n_added += 1
        if self._n_added == _ADDENDS:
            self._flush()

    def _flush(self) -> None:
        for total, squares in zip(self._totals, self._squares, strict=True):
            total += squares.sum(0, dtype=torch.float64)
            squares.zero_()
        self._n_added = 0

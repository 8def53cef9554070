"""Spatial orderness of what every layer of a network puts out, in one pass over the images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from spatialkit.measure.calls import check_images
from spatialkit.measure.grids import Grid
from spatialkit.measure.meters import measured
from spatialkit.measure.order import check_neighbours, check_scale, two_hop_means
from spatialkit.measure.survey import Layer

__all__ = ["LayerOrderness", "PathSums", "StepSums", "layer_orderness"]

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
    check_neighbours(neighbours)
    check_scale(scale)
    check_images(images)
    table = measured(model, images, layers, [LayerOrderness(scale, neighbours)], batch=batch)
    if table["map"].isna().all():
        reason = f": layer {table['layer'][0]!r} {table['why'][0]}" if len(table) else ""
        raise ValueError(f"no layer puts out maps of at least {3 * scale} x {3 * scale} pixels{reason}")
    return table


class LayerOrderness:
    """Orderness of every map, as a `spatialkit.measure.meters.Measure`.

    Args:
        scale, neighbours: As in `spatialkit.measure.order`.
    """

    places, blank = True, ({"measure": "orderness"},)

    def __init__(self, scale: int = 1, neighbours: str = "4"):
        self.scale, self.neighbours = scale, neighbours

    def __call__(self, layer: Layer) -> _Meter:
        if isinstance(layer.grid, str):
            raise ValueError(layer.grid)
        (h, w), least = layer.grid.side, 3 * self.scale
        if min(h, w) < least:
            raise ValueError(
                f"puts out maps of {h} x {w} pixels; orderness at scale {self.scale} needs at least {least} x {least}"
            )
        return _Meter(layer.grid, self.scale, self.neighbours)


class _Meter:
    """Orderness of each map of one layer over the clean images."""

    def __init__(self, grid: Grid, scale: int, neighbours: str):
        self.grid, self.scale, self.neighbours = grid, scale, neighbours
        self.sums: PathSums | StepSums | None = None

    def add(self, versions: Tensor, first: int) -> None:
        maps = self.grid.fold(versions[0])
        if self.sums is None:
            quick = self.neighbours == "4" and self.scale == 1 and maps.dtype == torch.float32
            self.sums = StepSums() if quick else PathSums(self.scale, self.neighbours)
        self.sums.update(maps)

    def rows(self) -> Iterator[dict]:
        if self.sums is None:
            raise ValueError("puts out nothing for these images")
        try:
            values = self.sums.per_map().tolist()
        except ValueError as error:
            raise ValueError(f"puts out what has no orderness ({error})") from error
        for number, value in enumerate(values):
            constant = {"why": "the map is constant on each image"} if math.isnan(value) else {}
            yield {"measure": "orderness", "map": number, "value": value, **constant}


class PathSums:
    """Two-hop means of each map, summed over images that come in batches.

    Args:
        scale, neighbours: As in `spatialkit.measure.order`.
    """

    def __init__(self, scale: int = 1, neighbours: str = "4"):
        self.scale, self.neighbours = scale, neighbours
        self._shape: tuple[int, ...] = ()  # (C, H, W) of all maps
        self._far = self._near = torch.zeros(())  # (C,)

    def update(self, maps: Tensor) -> None:
        """Add maps, shape ``(N, C, H, W)``, with C, H and W as in the first batch; a ValueError as `orderness`."""
        far, near = two_hop_means(maps, self.scale, self.neighbours)
        self._shape = _same_shape(self._shape, maps)
        self._far, self._near = self._far + far.sum(0), self._near + near.sum(0)

    def per_map(self) -> Tensor:
        """Orderness of each map over all images so far, float64, shape ``(C,)``; nan where constant."""
        return self._far / self._near - 1


def _same_shape(known: tuple[int, ...], maps: Tensor) -> tuple[int, ...]:
    """The shape of the first maps, ``(C, H, W)``, or a ValueError if these have another."""
    shape = tuple(maps.shape[1:])
    if known and known != shape:
        raise ValueError(f"all batches must be (N, {', '.join(map(str, known))}), got {tuple(maps.shape)}")
    return shape


class StepSums:
    """As `PathSums` for scale 1, 4-neighbours and float32, quick on maps whose channels are innermost in memory.

    Convolutions put out such maps. Steps e_i lead from a pixel q to its d neighbours; their sum is the Laplacian at q.
    Over all two-hop paths with middle q::

        near = sum_q (d - 1) sum_i e_i^2
        far = sum_q sum_ij (e_i - e_j)^2 = sum_q 2 d sum_i e_i^2 - 2 (sum_i e_i)^2

    so that squared steps to the right and down and squared Laplacians are all that has to be added up.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()  # (C, H, W) of all maps

    def update(self, maps: Tensor) -> None:
        """Add maps, float32, shape ``(N, C, H, W)`` with C, H and W as in the first batch, or else a ValueError."""
        x = maps.detach().permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
        if not self._shape:
            self._start(x)
        self._shape = _same_shape(self._shape, maps)
        for part in x.split(self._n):
            self._add(part)

    def per_map(self) -> Tensor:
        """Orderness of each map over all images so far, float64, shape ``(C,)``; nan where constant.

        Raises:
            ValueError: If maps hold nan or inf, or values whose squares are too large.
        """
        self._flush()
        _, H, W = self._shape
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
        H, W, C = x.shape[1:]
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
        laplacian[:, :-1].add_(down)  # unlike +=, which would copy the result onto itself
        laplacian[:, 1:].sub_(down)
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

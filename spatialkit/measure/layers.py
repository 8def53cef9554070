"""Spatial orderness of what every layer of a network puts out, in one pass over the images."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from spatialkit.measure.orderness import OrdernessMeter
from spatialkit.measure.two_hop_paths import NEIGHBOURS
from spatialkit.measure.watching import in_batches, watching

__all__ = ["MapMeter", "layer_orderness"]

_VALUES_AT_A_TIME = 120_000  # six buffers of them fit into a processor's cache
_ADDENDS = 256  # more would round too much in float32


def layer_orderness(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str] | None = None,
    scale: int = 1,
    neighbours: str = "4",
    batch: int = 100,
) -> pd.DataFrame:
    """Spatial orderness of every feature map of every layer, each pooled over the images.

    The images pass once, in evaluation mode; memory does not grow with their number. Within a training,
    pass it to ``fit`` as part of ``measure``.

    Args:
        model: Any network; it stays in the mode it is in.
        images: What it takes, N x C x H x W.
        layers: Names of modules; by default all that contain no other and put out maps of at least 3 x 3
            pixels at this scale (see `spatialkit.measure.watching`).
        scale, neighbours: As in `spatialkit.measure.orderness`.
        batch: Images at a time.

    Returns:
        One row per map, in the order of the layers' outputs: ``layer`` (name), ``map`` (from 0) and
        ``orderness``, nan for a map that is constant on each image. The source's value for a layer is the
        mean over its maps: ``table.groupby("layer", sort=False)["orderness"].mean()``.

    Raises:
        ValueError: If a layer is unknown, a named one puts out no N x C x H x W maps of 3 x 3 pixels at this
            scale, no layer does, or a map is not finite.

    References:
        "Investigating CNNs using Spatial Orderness" (BMVC 2019), section 4.2, and supplement E for
        distributions over maps.
    """
    if neighbours not in NEIGHBOURS:
        raise ValueError(f"neighbours must be one of {', '.join(NEIGHBOURS)}; got {neighbours!r}")
    meters = {}

    def see(name: str, output: Tensor) -> None:
        measurable = output.ndim == 4 and min(output.shape[-2:]) // scale >= 3
        if not measurable and layers is None:
            return
        if not measurable:
            raise ValueError(
                f"layer {name!r} puts out {tuple(output.shape)}; orderness at scale {scale} needs (N, C, H, W) "
                f"with at least {3 * scale} x {3 * scale} pixels: leave it out"
            )
        if name not in meters:
            fast = neighbours == "4" and scale == 1 and output.dtype == torch.float32
            meters[name] = MapMeter() if fast else OrdernessMeter(scale, neighbours)
        meters[name].update(output)

    with watching(model, see, layers), in_batches(model, images, batch) as parts:
        for part in parts:
            model(part)
    if not meters:
        raise ValueError(f"no layer puts out maps of at least {3 * scale} x {3 * scale} pixels")
    tables = [
        pd.DataFrame({"layer": name, "map": range(len(values := meter.per_map())), "orderness": values.cpu().numpy()})
        for name, meter in meters.items()
    ]
    return pd.concat(tables, ignore_index=True)


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

"""Which axes of a layer's output are the places of an image: maps, channels last, tokens.

A layer may put out maps ``(N, C, h, w)``, maps with channels last ``(N, h, w, C)``, tokens ``(N, L, C)`` that are
places row by row, perhaps beside class tokens, or ``(N, heads, L, C)`` inside attention. Shapes alone do not tell them
apart, so the network is asked: half of an image is replaced, once each on the left, right, top and bottom, and places
are the axes along which what changes moves with it::

    score = min over both axes of the images of    sum over the first half of that axis of p_left - p_right

with p the share of the squared change at each place: 1 where halves of the image act on halves of the map alone, 0
where an axis has nothing to do with places. Where a layer is so deep that all places see all of the image, types of
modules and shapes have to do, if they leave one choice only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["HALVES", "Grid", "find_grid", "kind_of", "with_halves"]

HALVES = 4  # left, right, top, bottom
_LEAST_SCORE = 0.05
_OTHER_TOKENS = (1, 2, 4, 5)  # class, distillation and register tokens

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.dropout.Dropout2d,
    nn.GroupNorm,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.LocalResponseNorm,
)
_EACH_NUMBER = tuple(
    value for name, value in vars(nn.modules.activation).items() if name in nn.modules.activation.__all__
)
_EACH_NUMBER = (*(t for t in _EACH_NUMBER if t is not nn.MultiheadAttention), nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Grid:
    """How an output with images first becomes maps.

    Attributes:
        axes: The axes of rows and columns, or the one of tokens.
        side: Rows and columns.
        first: The first token that is a place.
    """

    axes: tuple[int, ...]
    side: tuple[int, int]
    first: int = 0

    def fold(self, output: Tensor) -> Tensor:
        """``(N, C, h, w)``: a view where possible; axes that are no places become channels, in their order."""
        x = output.movedim(self.axes, tuple(range(-len(self.axes), 0)))
        if len(self.axes) == 1:
            n_places = math.prod(self.side)
            x = x[..., self.first : self.first + n_places].unflatten(-1, self.side)
        return x if x.ndim == 4 else x.flatten(1, -3) if x.ndim > 4 else x[:, None]


def with_halves(images: Tensor) -> Tensor:
    """The first two images, then the first with its left, right, top and bottom half replaced by noise."""
    x = images[:1]
    generator = torch.Generator().manual_seed(0)
    if x.is_floating_point():
        spread = x.double().std().nan_to_num(0).clamp(min=1e-3).item()
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64) * spread + x.double().mean().item()
    else:
        low, high = int(images.min()), int(images.max())
        noise = torch.randint(low, max(high, low + 1) + 1, x.shape, generator=generator)
    noise, (H, W) = noise.to(x), x.shape[-2:]
    row, column = torch.arange(H, device=x.device)[:, None], torch.arange(W, device=x.device)
    masks = column < W // 2, column >= (W + 1) // 2, row < H // 2, row >= (H + 1) // 2
    return torch.cat([images, *(torch.where(mask, noise, x) for mask in masks)])


def kind_of(module: nn.Module, given: Tensor | None, output: Tensor, known: str | None) -> str | None:
    """What the module's type says about the axes of its output: where its channels are, if anything.

    Args:
        module: What put it out.
        given: What came in.
        output: What it put out.
        known: The same about what came in, which modules that treat each number or place by itself hand on.

    Returns:
        ``"first"``: maps (N, C, h, w). ``"last"``: maps (N, h, w, C). ``"tail"``: channels are the last axis, whatever
        the others are. None: nothing.
    """
    if isinstance(module, _CHANNELS_FIRST) and output.ndim == 4:
        return "first"
    if type(module) in (nn.Linear, nn.LayerNorm, nn.MultiheadAttention):
        return "last" if known == "last" else "tail"
    if given is None or not isinstance(given, Tensor):
        return None
    if isinstance(module, _EACH_NUMBER):
        return known
    if given.ndim == 4 and given.data_ptr() == output.data_ptr():  # the same numbers seen another way
        for before, after, axes in (("first", "last", (0, 2, 3, 1)), ("last", "first", (0, 3, 1, 2))):
            turned = given.permute(axes)
            if known == before and (turned.shape, turned.stride()) == (output.shape, output.stride()):
                return after
    return None


def find_grid(output: Tensor, kind: str | None, side: tuple[int, int] | None, last: int) -> Grid | str:
    """The grid of an output with images first, or why there is none.

    Args:
        output: For a batch of `with_halves`, whose changed images are the last ``HALVES`` of the first ``last``.
        kind: As from `kind_of`.
        side: Rows and columns of the images; None if they have none, so that nothing was replaced.
        last: See above.
    """
    if kind in ("first", "last") and output.ndim >= 4:
        axes = (output.ndim - 2, output.ndim - 1) if kind == "first" else (output.ndim - 3, output.ndim - 2)
        return Grid(axes, (output.shape[axes[0]], output.shape[axes[1]]))
    if output.ndim < 3 or output.is_complex():
        return f"puts out {tuple(output.shape[1:])} for an image, no maps"
    if side is None:
        return "puts out something whose places cannot be told from channels: images are not (N, C, H, W)"
    possible = [
        grid for grid in _possible(tuple(output.shape), side) if kind != "tail" or output.ndim - 1 not in grid.axes
    ]
    scores = {grid: _score(grid.fold(output), last) for grid in possible}
    of_axes: dict[tuple[int, ...], float] = {}
    for grid in possible:
        of_axes[grid.axes] = max(scores[grid], of_axes.get(grid.axes, -1.0))
    followed = _followed(of_axes, output.shape, kind)
    if followed is None:
        return f"puts out {tuple(output.shape[1:])} for an image, of which no axes follow the places of the image"
    return max((grid for grid in possible if grid.axes == followed), key=lambda grid: round(scores[grid], 3))


def _followed(scores: dict[tuple[int, ...], float], shape: torch.Size, kind: str | None) -> tuple[int, ...] | None:
    """The axes that follow the image: by far the best score, else the only choice of a shape that looks like maps."""
    if not scores:
        return None
    best = max(scores, key=lambda axes: scores[axes])
    if scores[best] < _LEAST_SCORE:
        alone = len(scores) == 1 and (kind == "tail" or len(best) == 2)
        return best if alone else None
    rivals = [axes for axes in scores if axes != best and scores[axes] > scores[best] / 2]
    if all(len(axes) == len(best) == 1 and shape[axes[0]] == shape[best[0]] for axes in rivals):
        return min([best, *rivals])  # attention, from each token to each: by the one that looks
    return None


def _possible(shape: tuple[int, ...], side: tuple[int, int]) -> list[Grid]:
    """Grids whose sides are to each other as those of the images, up to rounding."""
    H, W = side
    found = [
        Grid((i, i + 1), (h, w))
        for i, (h, w) in enumerate(pairwise(shape[1:]), 1)
        if len(shape) > 3 and min(h, w) > 1 and abs(h * W - w * H) <= max(H, W)
    ]
    for axis, n in enumerate(shape[1:], 1):
        for others in (0, *_OTHER_TOKENS):
            if (fold := _folded(n - others, side)) and min(fold) > 2:
                found += [Grid((axis,), fold, first) for first in sorted({others, 0}, reverse=True)]
    return found


def _folded(n: int, side: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of n places, as for patches of one size, if there are such."""
    H, W = side
    h = round(math.sqrt(max(n, 0) * H / W))
    fits = h > 0 and n % h == 0 and abs(h * W - n // h * H) <= max(H, W) / 2
    return (h, n // h) if fits else None


def _score(maps: Tensor, last: int) -> float:
    """The equation of the module, for maps of a batch of `with_halves`."""
    changes = (maps[last - HALVES : last].double() - maps[:1].double()).square().sum(1)  # (4, h, w)
    total = changes.sum((1, 2), keepdim=True)
    if not bool((total > 0).all()) or not bool(total.isfinite().all()):
        return 0.0
    left, right, top, bottom = changes / total
    h, w = maps.shape[-2:]
    along_x = (left - right)[:, : w // 2].sum()
    along_y = (top - bottom)[: h // 2].sum()
    return float(torch.minimum(along_x, along_y))

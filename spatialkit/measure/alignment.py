"""Whether a transformation of feature maps undoes one of the images: the residual, and the best that any map can do.

With L the network, f an image, T_h what is done to it and T_g what is done to the feature map::

    r(T_g) = ||T_g L T_h f - L f|| / ||L f||,    (T F)(x) = F(T^-1 x)

both norms over all images, channels and pixels of the central disc. x = (x, y) in px from the centre, y down. 0: T_g
undoes T_h. 1 is also reached by a map that sends all features to 0. Centred, the mean of each channel is taken off L f
in the denominator: 1 is then reached by a map that sends all features to their means.

A network with stride may look from places whose centre is not that of the image: if pixel k of its maps belongs to
pixel s k + o of the image, of W pixels, T_h acts on maps of w pixels about a point that lies (W - 1 - 2 o) / (2 s) -
(w - 1) / 2 px right of their centre. For stride 2 and padding 1 under a 3 x 3 kernel, o = 0: a quarter of a pixel for
even W, 0 for odd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy import optimize
from torch import Tensor, nn
from tqdm import tqdm

from spatialkit.deform import from_polar, linear_transform, read_at, to_polar
from spatialkit.measure.calls import check_images
from spatialkit.measure.grids import Grid
from spatialkit.measure.meters import measured
from spatialkit.measure.survey import Layer

__all__ = ["Alignment", "alignment_residual", "best_alignment", "layer_alignment"]

_VALUES_AT_A_TIME = 2**24
_LEAST_PIXELS = 16


def alignment_residual(
    moved: Tensor,
    still: Tensor,
    matrices: Tensor,
    *,
    radius: float = 0.7,
    every: int = 1,
    centre: Sequence[float] = (0.0, 0.0),
    centred: bool = False,
) -> Tensor:
    """r(T_g) for one or many maps of the features, by bilinear interpolation.

    Three lines measure any feature maps, N x C x H x W::

        turn = rotation(30)
        moved, still = feature_maps(linear_transform(images, turn)), feature_maps(images)
        alignment_residual(moved, still, rotation(-30))

    `layer_alignment` does so for layers of a network by name. Beyond its border a feature map goes on with the border
    value.

    Args:
        moved: L T_h f, shape ``(N, C, H, W)``.
        still: L f, of the same shape.
        matrices: T_g, ``(2, 2)`` or ``(K, 2, 2)``, invertible.
        radius: Of the central disc over which the two are compared, in units of half the shorter side.
        every: Take each ``every``-th row and column of the disc only, for a quick look.
        centre: The point (x, y) about which T_g and the disc lie, in px from the centre of the maps (see the module).
        centred: Whether the means of channels are taken off L f in the denominator.

    Returns:
        No unit, shape ``()`` or ``(K,)``, float64. A network that puts out the same constant for all images has 0,
        unless that constant is 0 or centred: nan where both are 0 all over, infinite where only ``still`` is.

    Raises:
        ValueError: If shapes do not fit, features or matrices are not finite, or the disc is empty.
    """
    _check(moved, still)
    return _residual(moved, still, matrices, radius, every, centre, centred)


def _check(moved: Tensor, still: Tensor) -> None:
    if not isinstance(moved, Tensor) or not isinstance(still, Tensor) or moved.ndim != 4 or moved.shape != still.shape:
        got = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (moved, still)]
        raise ValueError(f"both must be feature maps (N, C, H, W) of one shape, got {got[0]} and {got[1]}")
    if not moved.is_floating_point() or not still.is_floating_point():
        raise ValueError(f"feature maps must be floating-point, got {moved.dtype} and {still.dtype}")
    if not (moved.isfinite().all() and still.isfinite().all()):
        raise ValueError("features hold nan or inf: no alignment can be compared with them")


def _residual(
    moved: Tensor, still: Tensor, matrices: Tensor, radius: float, every: int, centre: Sequence[float], centred: bool
) -> Tensor:
    """`alignment_residual` of features that were checked."""
    squares, target = _squares(moved, still, matrices, radius, every, centre)
    if centred:
        target = target - target.mean((0, 2), keepdim=True)
    return (squares / target.double().square().sum()).sqrt().reshape(matrices.shape[:-2])


def _squares(
    moved: Tensor, still: Tensor, matrices: Tensor, radius: float, every: int, centre: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """||T_g L T_h f - L f||^2 for each T_g, ``(K,)``, and L f on the disc, ``(N, C, P)``."""
    if matrices.shape[-2:] != (2, 2) or matrices.ndim > 3:
        raise ValueError(f"matrices must be (2, 2) or (K, 2, 2), got {tuple(matrices.shape)}")
    if not bool((torch.linalg.det(matrices.detach().double()).abs() > 0).all()):  # also where it is nan
        raise ValueError("matrices must be invertible and finite")
    H, W = still.shape[-2:]
    points, rows, columns = _disc(H, W, radius, every, centre)
    target = still[..., rows, columns]  # (N, C, P)
    flat = target.flatten(0, 1)
    back = torch.linalg.inv(matrices.to(points)).reshape(-1, 2, 2)
    about = torch.tensor(centre, dtype=torch.float64)
    squares = []
    for some in back.split(max(1, _VALUES_AT_A_TIME // target.numel())):
        sampled = read_at(moved.flatten(0, 1)[None], (points @ some.mT + about)[None])[0]  # (N * C, K, P)
        squares.append((sampled - flat[:, None]).double().square().sum(dim=(0, 2)))
    return torch.cat(squares), target


@dataclass(frozen=True)
class Alignment:
    """The best map that a search found.

    Attributes:
        matrix: T_g, ``(2, 2)``.
        residual: r(T_g), over the whole disc.
        on_grid: Coordinates of the best map of the grid, ``(4,)`` as in `spatialkit.deform.from_polar`.
        mirrored: Whether that one has a negative determinant.
        steps: Distance of neighbours in the grid along each coordinate, ``(4,)``.
    """

    matrix: Tensor
    residual: float
    on_grid: Tensor
    mirrored: bool
    steps: Tensor

    def steps_from(self, matrix: Tensor) -> float:
        """Largest distance, over the coordinates, of the best map of the grid from another map, in steps of the grid.

        Infinite if one is mirrored and the other is not.
        """
        other, mirrored = to_polar(matrix)
        if mirrored != self.mirrored:
            return float("inf")
        away = (self.on_grid - other).abs()
        away[0] = torch.minimum(away[0] % 360, 360 - away[0] % 360)
        return float((away / self.steps).max())


def best_alignment(
    moved: Tensor,
    still: Tensor,
    *,
    angles: Sequence[float] = tuple(range(-180, 180, 15)),
    stretches: Sequence[float] = tuple(np.linspace(-0.6, 0.6, 9)),
    mirrored: bool = True,
    radius: float = 0.7,
    every: int = 4,
    starts: Sequence[Tensor] = (),
    centre: Sequence[float] = (0.0, 0.0),
    centred: bool = False,
    progress: bool = False,
) -> Alignment:
    """The T_g with the smallest residual among all linear maps: a grid over all of them, then a local search.

    The grid is the product of ``angles`` and, for each of p, q and r of `spatialkit.deform.from_polar`, ``stretches``,
    with and without a reflection. Nelder and Mead's method goes on from the best of them, over the whole disc.

    Args:
        moved, still, radius, centre, centred: As for `alignment_residual`.
        angles: In degrees, evenly spaced.
        stretches: Logarithms of factors, evenly spaced.
        mirrored: Whether to try reflections, too.
        every: The grid sees each ``every``-th row and column of the disc, or more of them where these would be under
            16 pixels.
        starts: Further maps from which to search locally, such as the inverse of T_h.
        progress: Whether to show a bar.

    Raises:
        ValueError: As `alignment_residual`; with fewer than two angles or stretches; or if ``still`` is 0 all over.
    """
    _check(moved, still)
    if len(angles) < 2 or len(stretches) < 2:
        raise ValueError("a grid needs at least two angles and two stretches")
    if not still.any():
        raise ValueError("the features are 0 all over: nothing to align; is the network dead?")
    grid = torch.tensor(list(product(angles, stretches, stretches, stretches)), dtype=torch.float64)
    while every > 1 and _pixels_in_disc(*still.shape[-2:], radius, every, centre) < _LEAST_PIXELS:
        every -= 1
    found, sides = [], (False, True)[: 1 + mirrored]
    with tqdm(total=len(sides) + 1 + len(starts), disable=not progress, desc="best alignment") as bar:
        for flipped in sides:
            values = _residual(moved, still, from_polar(grid, flipped), radius, every, centre, centred)
            found.append((float(values.min()), flipped, grid[values.argmin()]))
            bar.update()
        _, flipped, best = min(found, key=lambda each: each[0])
        steps = torch.tensor([angles[1] - angles[0]] + [stretches[1] - stretches[0]] * 3, dtype=torch.float64)
        ends = []
        for start, side in [(best, flipped), *map(to_polar, starts)]:
            ends.append(_refined(moved, still, start, side, steps, radius, centre, centred))
            bar.update()
    residual, matrix = min(ends, key=lambda end: end[0])
    return Alignment(matrix, residual, best, flipped, steps)


def _refined(
    moved: Tensor,
    still: Tensor,
    start: Tensor,
    flipped: bool,
    steps: Tensor,
    radius: float,
    centre: Sequence[float],
    centred: bool,
) -> tuple[float, Tensor]:
    """Residual and map at the end of a local search over the four coordinates."""

    def residual(at):
        return float(_residual(moved, still, from_polar(at, flipped), radius, 1, centre, centred))

    simplex = np.vstack([start, *(start + 0.5 * torch.diag(steps))])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-6, "maxfev": 400}
    end = optimize.minimize(residual, start.numpy(), method="Nelder-Mead", options=options)
    return float(end.fun), from_polar(torch.from_numpy(end.x), flipped)


def _disc(H: int, W: int, radius: float, every: int, centre: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the disc in px from its centre ``(P, 2)``, and their rows and columns."""
    if not radius > 0 or every < 1:
        raise ValueError(f"radius must be above 0 and every at least 1, got {radius} and {every}")
    if len(centre) != 2 or not all(map(math.isfinite, centre)):
        raise ValueError(f"centre must be (x, y), in px from the centre of the maps; got {centre!r}")
    y, x = (
        torch.arange(side, dtype=torch.float64) - (side - 1) / 2 - at
        for side, at in zip((H, W), reversed(centre), strict=True)
    )
    inside = y[:, None] ** 2 + x**2 <= (radius * min(H, W) / 2) ** 2
    taken = torch.zeros_like(inside)
    taken[every // 2 :: every, every // 2 :: every] = True
    rows, columns = (inside & taken).nonzero(as_tuple=True)
    if not len(rows):
        raise ValueError(f"no pixel of {H} x {W} lies in the disc of radius {radius} at every {every}: enlarge it")
    return torch.stack([x[columns], y[rows]], -1), rows, columns


def _pixels_in_disc(*arguments) -> int:
    try:
        return len(_disc(*arguments)[1])
    except ValueError:
        return 0


def layer_alignment(
    model: nn.Module,
    images: Tensor,
    matrix: Tensor,
    layers: str | Sequence[str] | None = None,
    *,
    radius: float = 0.7,
    centre: Mapping[str, Sequence[float]] | None = None,
    centred: bool = False,
    batch: int = 16,
) -> pd.DataFrame:
    """r(T_g) of every layer of a network, for the T_g that undoes what is done to the images.

    The images pass once, each beside its transformed version, in evaluation mode.

    Args:
        model: Any network; it stays in the mode it is in.
        images: What it takes, N x C x H x W, float32 or float64.
        matrix: T_h, ``(2, 2)``, as by `spatialkit.deform.rotation`; T_g is its inverse.
        layers: As for `spatialkit.measure.layer_orderness`.
        radius, centred: As for `alignment_residual`.
        centre: By names of layers, as for `alignment_residual`; (0, 0) for all others.
        batch: Images at a time; as many transformed ones come with them.

    Returns:
        Columns of `spatialkit.measure.tables`: one row per layer and ``measure``: ``aligned`` (T_g) and ``not aligned``
        (the identity). Layers that cannot be measured say why.

    Raises:
        ValueError: As `alignment_residual` and `spatialkit.measure.layer_orderness`.
    """
    check_images(images)
    moved_images = partial(linear_transform, matrix=matrix)
    moved_images(images[:1])  # tells what does not fit before the network runs
    back = torch.linalg.inv(torch.as_tensor(matrix, dtype=torch.float64))
    alignment = LayerAlignment(torch.stack([back, torch.eye(2, dtype=torch.float64)]), radius, centre or {}, centred)
    transformed = {"transformed": lambda part, numbers, seed: moved_images(part)}
    return measured(model, images, layers, [alignment], transformed, batch=batch)


class LayerAlignment:
    """Alignment of every layer, as a `spatialkit.measure.meters.Measure`: of images and their transformed versions.

    Args:
        matrices: T_g and the identity, ``(2, 2, 2)``.
        radius, centre, centred: As for `layer_alignment`.
    """

    places = True

    def __init__(self, matrices: Tensor, radius: float, centre: Mapping[str, Sequence[float]], centred: bool):
        self.matrices, self.radius, self.centre, self.centred = matrices, radius, centre, centred
        self.blank = [
            {"normaliser": "centred" if centred else "", "measure": measure} for measure in ("aligned", "not aligned")
        ]

    def __call__(self, layer: Layer) -> _Meter:
        if isinstance(layer.grid, str):
            raise ValueError(layer.grid)
        return _Meter(self, layer.grid, self.centre.get(layer.name, (0.0, 0.0)))


class _Meter:
    """Sums over images of one layer: squares of what is left by both matrices, and those of the features."""

    def __init__(self, alignment: LayerAlignment, grid: Grid, centre: Sequence[float]):
        self.alignment, self.grid, self.centre = alignment, grid, centre
        self.sums: list = [0, 0, 0, 0]

    def add(self, versions: Tensor, first: int) -> None:
        still, moved = (self.grid.fold(version).double().cpu() for version in versions)
        _check(moved, still)
        squares, target = _squares(moved, still, self.alignment.matrices, self.alignment.radius, 1, self.centre)
        new = [squares, target.square().sum((0, 2)), target.sum((0, 2)), target.shape[0] * target.shape[2]]
        self.sums = [a + b for a, b in zip(self.sums, new, strict=True)]

    def rows(self) -> Iterator[dict]:
        squares, total, mean, n = self.sums
        length = (total - mean.square() / n).clamp(min=0).sum() if self.alignment.centred else total.sum()
        for row, square in zip(self.alignment.blank, squares, strict=True):
            if length > 0:
                yield row | {"value": float((square / length).sqrt())}
            else:
                yield row | {"value": math.nan, "why": "features have no length"}

"""How much of the image a layer sees: effective receptive fields, by the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from spatialkit.measure.calls import Call, check_images, first_tensor, following, in_batches
from spatialkit.measure.survey import Layer, survey
from spatialkit.measure.tables import long_table

__all__ = ["receptive_fields"]


def receptive_fields(
    model: nn.Module, images: Tensor, layers: str | Sequence[str] | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """Effective receptive field of the central unit of each layer, in px.

    With J the derivative of what the central place of a layer's maps holds (all its channels; all numbers, in a layer
    without places) by the image, the weight of a pixel is the sum of its squares in J, estimated by one random
    projection of the channels; the receptive field is the standard deviation of places under these weights, the root
    mean square of both axes. A uniform square of side s has sqrt((s^2 - 1) / 12).

    Args:
        model: Any network; it is left as it was.
        images: A few of what it takes, N x C x H x W, floating point; weights are summed over them.
        layers: As in `spatialkit.measure.response.sensitivity`.
        seed: Of the projections.

    Returns:
        One row per layer with the columns of `spatialkit.measure.tables`, ``measure`` receptive field; nan where no
        gradient reaches the image, as in a layer whose units are all off.

    Raises:
        ValueError: If images are no such maps, a layer is unknown, or one asked for by name cannot be measured.

    References:
        W. Luo, Y. Li, R. Urtasun and R. Zemel, Understanding the effective receptive field in deep convolutional
        neural networks (2016), who set the gradient of one channel to 1; here all channels take part.
    """
    check_images(images)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floating point, N x C x H x W, got {images.dtype} of {tuple(images.shape)}")
    found = survey(model, images, layers, places=True, own_input=True)
    values = _values(model, images, {layer.name: layer for layer in found.layers if not layer.why}, seed)
    rows = []
    for layer in found.layers:
        value = 0.0 if layer.base == "input" and "input" not in found.uses else values.get(layer.name, math.nan)
        row = {"layer": layer.name, "depth": layer.depth, "measure": "receptive field", "value": value}
        rows.append(row | ({"why": layer.why or "no gradient reaches the image"} if math.isnan(value) else {}))
    return long_table(rows)


def _values(model: nn.Module, images: Tensor, layers: Mapping[str, Layer], seed: int) -> dict[str, float]:
    """Receptive fields by layer, one backward pass each."""
    sums: dict[str, Tensor] = {}
    draw = torch.Generator().manual_seed(seed)

    def see(call: Call) -> None:
        layer, output = layers.get(call.name), first_tensor(call.output)
        if layer is None or layer.gathered or output is None or not output.requires_grad:
            return
        centre = _central(layer, output, len(images))
        projection = torch.randn(centre.shape[1], generator=draw).to(centre)
        sums[layer.name] = (centre @ projection).sum()  # at once: the next layer may work in place

    with in_batches(model, images, len(images)) as parts, torch.enable_grad():
        x = next(parts).requires_grad_()
        with following(model, see) as inside:
            inside(x * 1)  # the network may work in place
        return {name: _spread(total, x) for name, total in sums.items()}


def _central(layer: Layer, output: Tensor, n: int) -> Tensor:
    """What the central place holds of each image, ``(n, channels)``; all of it, without places."""
    own = layer.images_first(output, n)
    if not isinstance(layer.grid, str):
        maps = layer.grid.fold(own)
        own = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    return own.flatten(1)


def _spread(total: Tensor, x: Tensor) -> float:
    """Standard deviation of places under the squares of a gradient, in px; nan if it is 0 or there is none."""
    try:
        (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
    except RuntimeError:  # what was saved for it has been overwritten
        return math.nan
    if gradient is None:
        return math.nan
    weights = gradient.double().square().sum((0, 1))
    weights = weights / weights.sum()
    variances = []
    for axis in (0, 1):
        share = weights.sum(1 - axis)
        place = torch.arange(len(share)).to(share)
        variances.append(float((share * place**2).sum() - (share * place).sum() ** 2))
    return math.sqrt(max(sum(variances) / 2, 0.0)) if math.isfinite(sum(variances)) else math.nan

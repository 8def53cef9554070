"""Every measure of every layer of a network, in one call and one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from torch import Tensor, nn

from spatialkit.deform import Diffeomorphism
from spatialkit.measure.calls import check_images, modules_of
from spatialkit.measure.filters import frequency_content, laplacian_spectrum, total_variation
from spatialkit.measure.layers import LayerOrderness
from spatialkit.measure.meters import Measure, measured
from spatialkit.measure.perturbations import Deformation, Noise, Perturbation, Rotation, Translation
from spatialkit.measure.probes import Probe, check_labels
from spatialkit.measure.receptive import receptive_fields
from spatialkit.measure.response import Responses
from spatialkit.measure.tables import long_table

__all__ = ["measure_all"]

_PAIRS = 128
_KERNELS = ("total variation", "constant mode", "frequency content")


def measure_all(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    layers: str | Sequence[str] = "leaves",
    seed: int = 0,
    *,
    batch: int = 16,
) -> pd.DataFrame:
    """Every measure of every layer: what it holds of the places of pixels, and how it responds when they move.

    One pass over the images, each beside four perturbed versions, takes all that needs no gradient; effective receptive
    fields take a backward pass per layer for two images. ::

        table = sk.measure_all(model, images, labels)
        table.pivot_table(index="layer", columns="measure", values="value", sort=False)

    Args:
        model: Any network; it is left as it was.
        images: What it takes, N x C x H x H; at least 2.
        labels: Class of each image, for the linear probe; without them there is none.
        layers: As in `spatialkit.measure.response.sensitivity`.
        seed: Of all random numbers.
        batch: Images at a time; four perturbed versions of each come with them.

    Returns:
        The columns of `spatialkit.measure.tables`, layers in the order of their outputs, by ``measure``:

        - ``orderness`` of each map (see `layer_orderness`);
        - ``D``, ``G``, ``R``, ``cosine`` (see `sensitivity`), of a smooth deformation of 1 px in 32 (rms, cut-off 3),
          noise of its length, a shift by 1 px and a turn by 10 degrees: ``perturbation`` says which;
        - ``total variation``, ``constant mode`` (share of the energy, see `laplacian_spectrum`) and
          ``frequency content`` of kernels;
        - ``receptive field`` in px (see `spatialkit.measure.receptive`);
        - ``linear probe``: share of images that a linear classifier on the layer gets right (see
          `spatialkit.measure.probes`).

        What cannot be measured is a row whose ``why`` says why.

    Raises:
        ValueError: If there are under 2 images or they are not square, labels do not fit, a layer is unknown, or one
            asked for by name has none of the measures.
    """
    check_images(images, least=2)
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square, N x C x H x H, got {tuple(images.shape)}: crop or resize them")
    perturbations = _perturbations(images.shape[-1])
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    responses = Responses(perturbations, ("mean square", "cosine"), min(_PAIRS, len(images)), seed)
    measures: list[Measure] = [LayerOrderness(), responses]
    if labels is not None:
        measures.append(Probe(check_labels(labels, len(images)), seed))
    table = measured(model, images, layers, measures, perturbations, own_input=True, batch=batch, seed=seed)
    places = dict(table.drop_duplicates("layer")[["layer", "depth"]].itertuples(index=False, name=None))
    kernels = long_table(_of_kernels(model, places))
    fields = receptive_fields(model, images[:2], layers, seed=seed)
    return pd.concat([table, kernels, fields]).sort_values("depth", kind="stable", ignore_index=True)


def _perturbations(side: int) -> dict[str, Perturbation]:
    """By name; the first two make D, G and R."""
    family = Diffeomorphism.of_rms(side / 32, cutoff=3, size=side)
    return {
        "deformation": Deformation(family),
        "noise": Noise(like="deformation"),
        "translation": Translation(1.0),
        "rotation": Rotation(10.0),
    }


def _of_kernels(model: nn.Module, places: Mapping[str, int]) -> Iterator[dict]:
    """A row for each layer and measure of kernels."""
    modules = modules_of(model)
    for name, depth in places.items():
        values, why = _kernel_measures(modules.get(name) or modules.get(name.rpartition(":")[0]))
        for measure in _KERNELS:
            value = values.get(measure, math.nan)
            yield {"layer": name, "depth": depth, "measure": measure, "value": value, "why": why}


def _kernel_measures(module: nn.Module | None) -> tuple[dict[str, float], str]:
    """Values of a module's kernels, or why there are none."""
    weight = getattr(module, "weight", None)
    if callable(weight) and not isinstance(weight, Tensor):  # a quantised module's
        weight = weight()
    if not isinstance(weight, Tensor) or weight.ndim < 3:
        return {}, "has no kernels"
    kernel = weight.dequantize() if weight.is_quantized else weight
    try:
        share = float(laplacian_spectrum(kernel)["share"][0])
        return dict(zip(_KERNELS, (total_variation(kernel), share, frequency_content(kernel)), strict=True)), ""
    except ValueError as error:
        return {}, str(error)

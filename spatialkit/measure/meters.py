"""One pass over images in which any number of measures of every layer are taken.

A `Measure` makes a `Meter` for each layer; the meter sees what its layer puts out for some images, and for perturbed
versions of them, before the next layer runs, and gives rows of a table in the end. Meters keep sums, no images. One
that cannot go on raises a ValueError that says why; others of the same layer go on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from spatialkit.measure.calls import Call, first_tensor, following, in_batches
from spatialkit.measure.perturbations import Perturbation, perturbed
from spatialkit.measure.survey import Layer, Survey, asked_for, survey
from spatialkit.measure.tables import long_table

__all__ = ["Measure", "Meter", "measured"]


class Meter(Protocol):
    """One measure of one layer, while images pass."""

    def add(self, versions: Tensor, first: int) -> None:
        """Take what the layer puts out for some images, before the next layer runs.

        Args:
            versions: ``(1 + P, n, ...)``: for n images, then for each of their P perturbed versions in order.
            first: Place of the first of these images among all.

        Raises:
            ValueError: Why there will be no value.
        """

    def rows(self) -> Iterable[dict]:
        """Columns of `spatialkit.measure.tables` but ``layer`` and ``depth``; ``why`` only where undefined.

        Raises:
            ValueError: Why there is no value.
        """


class Measure(Protocol):
    """What is measured of every layer.

    Attributes:
        places: Whether it needs ``layer.grid``, the places of maps.
        blank: The rows of a layer that cannot be measured, without values.
    """

    @property
    def places(self) -> bool: ...
    @property
    def blank(self) -> Sequence[Mapping]: ...

    def __call__(self, layer: Layer) -> Meter:
        """A meter for a layer, or a ValueError that says why it has none."""


def measured(
    model: nn.Module,
    images: Tensor,
    layers: str | Sequence[str] | None,
    measures: Sequence[Measure],
    perturbations: Mapping[str, Perturbation] | None = None,
    *,
    own_input: bool = False,
    batch: int,
    seed: int = 0,
) -> pd.DataFrame:
    """All measures of every layer, the images passing once, each beside its perturbed versions, in evaluation mode.

    Args:
        model, images, layers: As for `spatialkit.measure.survey.survey`.
        measures: At least one.
        perturbations: By name, in the order in which meters see them (see `spatialkit.measure.perturbations`).
        own_input: Whether the images themselves are a layer, ``input``, too.
        batch: Images at a time; as many of each perturbation come with them.
        seed: Of what is random in perturbations.

    Returns:
        Layers in the order of their outputs, measures in their order within, as `spatialkit.measure.tables` says.

    Raises:
        ValueError: If a layer is unknown, one asked for by name has none of the measures, or a perturbation does not
            fit the images.
    """
    perturbations = perturbations or {}
    asked_for(model, layers, own_input)
    if perturbations:
        perturbed(images[:2], perturbations, seed)  # tells what does not fit before the network runs
    found = survey(model, images, layers, any(measure.places for measure in measures), own_input)
    readings = {layer.name: _Reading(layer, measures) for layer in found.layers}
    _settle(found, readings.values(), _Reading.check)
    first = 0

    def together(parts: Iterator[Tensor]) -> Iterator[Tensor]:
        """Images, then each of their perturbed versions."""
        nonlocal first
        for part in parts:
            yield _versions(part, perturbed(part, perturbations, seed, first)) if perturbations else part
            first += len(part)

    def see(layer: Layer, output: Tensor) -> None:
        readings[layer.name].add(output.unflatten(0, (1 + len(perturbations), -1)), first)

    if any(not layer.why for layer in found.layers):
        with in_batches(model, images, batch) as parts:
            _read(model, found, together(parts), see)
    _settle(found, readings.values(), _Reading.finish)
    return long_table(row for reading in readings.values() for row in reading.rows())


def _settle(found: Survey, readings: Iterable[_Reading], act: Callable[[_Reading], None]) -> None:
    for reading in readings:
        try:
            act(reading)
        except ValueError as error:
            found.fail(reading.layer, str(error))


def _versions(part: Tensor, changed: Mapping[str, Tensor]) -> Tensor:
    together = torch.cat([part, *changed.values()])
    last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
    return together.contiguous(memory_format=torch.channels_last) if last else together


class _Reading:
    """One layer and its meters; a string in place of a meter says why there is none."""

    def __init__(self, layer: Layer, measures: Sequence[Measure]):
        self.layer, self.measures = layer, measures
        self.meters: list[Meter | str] = [layer.why or _meter(measure, layer) for measure in measures]
        self.tables: list[list[dict]] = [[] for _ in measures]

    def add(self, versions: Tensor, first: int) -> None:
        """Raises ValueError when the last meter gives up, as does `finish`."""
        self._each(lambda i, meter: meter.add(versions, first))

    def finish(self) -> None:
        def take(i: int, meter: Meter) -> None:
            self.tables[i] = list(meter.rows())

        if not self.layer.why:
            self._each(take)

    def _each(self, act: Callable[[int, Meter], None]) -> None:
        for i, meter in enumerate(self.meters):
            if isinstance(meter, str):
                continue
            try:
                act(i, meter)
            except ValueError as error:
                self.meters[i] = str(error)
        self.check()

    def check(self) -> None:
        """Raises ValueError if no meter is left."""
        if all(isinstance(meter, str) for meter in self.meters):
            raise ValueError(self.meters[0])

    def rows(self) -> Iterator[dict]:
        """Rows of the table, once it is finished."""
        of_layer = {"layer": self.layer.name, "depth": self.layer.depth, "value": math.nan}
        for measure, meter, rows in zip(self.measures, self.meters, self.tables, strict=True):
            why = meter if isinstance(meter, str) else self.layer.why or self.layer.note
            yield from ({**of_layer, "why": why, **row} for row in rows or measure.blank)


def _meter(measure: Measure, layer: Layer) -> Meter | str:
    try:
        return measure(layer)
    except ValueError as error:
        return str(error)


def _read(model: nn.Module, found: Survey, batches: Iterable[Tensor], see: Callable[[Layer, Tensor], None]) -> None:
    """Pass batches; ``see`` gets what each layer puts out for each of them, images first, before the next runs.

    A ValueError that ``see`` raises says why the layer has no values.
    """
    by_name = {layer.name: layer for layer in found.layers}
    images = by_name.get("input") if "input" not in found.uses else None
    bases = {layer.base: None for layer in found.layers if not layer.why and layer is not images}
    seen: set[str] = set()
    gathered: dict[str, list[Tensor]] = defaultdict(list)
    n = 0

    def show(layer: Layer, output: Tensor) -> None:
        try:
            see(layer, layer.images_first(output, n))
            seen.add(layer.name)
        except ValueError as error:
            found.fail(layer, str(error))

    def look(call: Call) -> None:
        layer = by_name.get(call.base)
        if layer is None or not layer.gathered:
            layer = by_name.get(call.name)
        output = first_tensor(call.output)
        if call.use > found.uses[call.base] and not (layer and layer.gathered):
            for other in found.layers:
                if other.base == call.base:
                    found.fail(other, f"is used more often for {n} images than for a few")
        elif layer is not None and output is not None and not layer.why:
            if layer.gathered:
                gathered[layer.name].append(output.clone())
            else:
                show(layer, output)

    with following(model, look, list(bases)) as inside:
        for part in batches:
            n = len(part)
            if images is not None and not images.why:
                show(images, part)
            if bases:
                inside(part)
            for name, outputs in gathered.items():
                show(by_name[name], torch.cat(outputs, by_name[name].axis))
            for layer in found.layers:
                if not layer.why and layer.name not in seen:
                    found.fail(layer, "puts out something for some batches only")
            seen.clear()
            gathered.clear()

"""How strongly representations respond to perturbed versions of images that are at hand."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

__all__ = ["paired_sensitivity"]


@torch.no_grad()
def paired_sensitivity(
    represent: Callable[[Tensor], Sequence[Tensor]],
    images: Tensor,
    perturbed: Mapping[str, Tensor | Sequence[Tensor]],
    *,
    batch: int = 256,
) -> pd.DataFrame:
    """Response of every layer to given perturbed images, relative to how much images differ in it.

    With f a layer's representation, x_i the images and x'_i their perturbed versions, for each layer and kind::

        mean_i ||f(x'_i) - f(x_i)||^2 / mean_(i != j) ||f(x_i) - f(x_j)||^2

    `spatialkit.measure.response` draws perturbations itself and finds layers by name; this one is for functions of
    small images whose perturbations can be listed in full, and sums in float64. Versions pass one after another, so
    that memory does not grow with their number, as it does where all pass beside the image.

    Args:
        represent: Images -> representations, one per layer, first axis images.
        images: First axis images; at least 2.
        perturbed: By name, images of the same shape in the same order, or several such versions to average over.
        batch: Images at a time.

    Returns:
        One row per layer: ``layer`` from 1 on, a column per name (no unit), and ``norm``, the mean of ||f(x_i)||^2.
        nan where all images are alike.

    Raises:
        ValueError: If there are under 2 images, or shapes differ.

    References:
        Tomasini et al. (2023), eq. 1. Pairs of an image with itself are left out; the authors' code counts them.
    """
    versions = {name: [v] if isinstance(v, Tensor) else list(v) for name, v in perturbed.items()}
    if len(images) < 2:
        raise ValueError(f"a normaliser needs at least two images, got {len(images)}")
    for name, several in versions.items():
        if not several or any(v.shape != images.shape for v in several):
            raise ValueError(f"{name!r} must hold images of shape {tuple(images.shape)}, at least once")
    meters: list[_Layer] = []
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        clean = [f.flatten(1).double() for f in represent(images[part])]
        meters = meters or [_Layer(f, versions) for f in clean]
        for meter, f in zip(meters, clean, strict=True):
            meter.add(f)
        for name, several in versions.items():
            for version in several:
                for meter, f, g in zip(meters, clean, represent(version[part]), strict=True):
                    meter.response[name] += float((g.flatten(1).double() - f).square().sum()) / len(several)
    return pd.DataFrame([{"layer": k} | meter.row() for k, meter in enumerate(meters, 1)])


class _Layer:
    """Sums over images for one layer."""

    def __init__(self, first: Tensor, names: Iterable[str]):
        self.reference = first.mean(dim=0)  # near all images, so that no large numbers cancel
        self.total = torch.zeros_like(self.reference)
        self.n, self.squares, self.norm = 0, 0.0, 0.0
        self.response = dict.fromkeys(names, 0.0)

    def add(self, f: Tensor) -> None:
        centred = f - self.reference
        self.n += len(f)
        self.total += centred.sum(dim=0)
        self.squares += float(centred.square().sum())
        self.norm += float(f.square().sum())

    def row(self) -> dict[str, float]:
        spread = 2 / (self.n - 1) * (self.squares - float(self.total.square().sum()) / self.n)
        known = spread > 1e-12 * max(self.norm / self.n, 1e-300)
        of_one = {name: r / self.n / spread if known else float("nan") for name, r in self.response.items()}
        return of_one | {"norm": self.norm / self.n}

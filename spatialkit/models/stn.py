"""Classifiers with a spatial transformer at the input, at depth, or with early layers that serve both."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spatialkit.models.transformer import SpatialTransformer, compose, resample

__all__ = ["STN", "same_size"]


class STN(nn.Module):
    """Three blocks of convolution, pooling and ReLU, a linear layer, and a transformer somewhere.

    Variants, with X from 0 to 3 blocks:

    - ``none``: the classifier alone.
    - ``CX``: the localisation network sees the maps after block X, and *these maps* are transformed.
    - ``SLX``: it sees the same maps, but the *image* is transformed and classified from the start: the first X
      blocks are shared. Always as many parameters as CX.
    - ``DLX``: as SLX with a copy of the first X blocks of its own, nothing shared.
    - with ``x2`` behind it (``C0x2``): two steps of alignment by the same network. Their matrices are composed, and the
      original is resampled by the product, so that the image is not blurred twice.

    Convolutions keep the size (zero padding); the first two blocks halve it, the third does not, so that a map is left
    to be transformed. The localisation network max-pools what it sees until at most ``inputs`` numbers are
    left, then has three hidden layers with ReLU.

    Args:
        side: Of the square images, px.
        variant: See above.
        widths: Channels of the blocks.
        kernels: Sides of their kernels, odd.
        hidden: Units per hidden layer of the localisation network.
        inputs: See above.
        kind: Transformations; see `spatialkit.models.transformer.KINDS`.
        classes: Number of outputs.
        channels: Of the images.
        seed: Of the initial weights; blocks and linear layer start alike for all variants.

    Raises:
        ValueError: If there is no such variant, or sizes do not fit.

    References:
        Finnveden et al., "Understanding when spatial transformer networks do not support invariance" (2020),
        arXiv:2004.11678: variants, localisation network (3 x 32 units) and pooling before ReLU. There MNIST has two
        blocks (kernels 9 and 7 without padding, 64 channels); the third is ours, for a C3.
    """

    def __init__(
        self,
        side: int,
        variant: str,
        *,
        widths: Sequence[int] = (64, 64, 64),
        kernels: Sequence[int] = (9, 7, 3),
        hidden: int = 32,
        inputs: int = 1000,
        kind: str = "affine",
        classes: int = 10,
        channels: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        found = re.fullmatch(r"none|(C|SL|DL)([0-3])(x[1-9])?", variant)
        if not found or (found[1] in ("SL", "DL") and found[2] == "0"):
            raise ValueError(
                f"variant must be none, C0 to C3, SL1 to SL3, DL1 to DL3 (or C0x2 and so on), got {variant!r}"
            )
        if side < 4 or len(widths) != 3 or len(kernels) != 3 or min(*widths, hidden, inputs, channels) < 1:
            raise ValueError(f"need 4 px, 3 widths, 3 kernels and counts above 0; got {side=}, {widths=}, {kernels=}")
        if not all(k % 2 for k in kernels):
            raise ValueError(f"kernels must be odd to keep the size, got {kernels}")
        self.shape = (channels, side, side)
        self.family, self.depth = found[1] or "none", int(found[2] or 0)
        self.steps = int((found[3] or "x1")[1:])
        if self.family == "C" and self.depth > 0 and self.steps > 1:
            raise ValueError(f"steps compose at the input only (C0x2, SL2x2), got {variant!r}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = _blocks(channels, widths, kernels)
            half = (side + 1) // 2
            side_of = [side, half, (half + 1) // 2, (half + 1) // 2]  # after 0, 1, 2, 3 blocks
            self.classify = nn.Sequential(nn.Flatten(), nn.Linear(widths[2] * side_of[3] ** 2, classes))
            self.own = _blocks(channels, widths, kernels)[: self.depth] if self.family == "DL" else None
            self.transformer = None
            if self.family != "none":
                seen = [channels, *widths][self.depth]
                network = _localisation(seen, side_of[self.depth], hidden, inputs)
                self.transformer = SpatialTransformer(network, hidden, kind)

    def matrix(self, images: Tensor) -> Tensor:
        """Where the transformer looks, N x 2 x 3, at the images or at the maps at its depth.

        Raises:
            ValueError: If this is the classifier alone.
        """
        if self.transformer is None:
            raise ValueError("the classifier alone has no transformer, and so no matrix")
        early = self.blocks[: self.depth] if self.own is None else self.own
        total = self.transformer.matrix(early(images))
        for _ in range(self.steps - 1):
            seen = resample(images, total, self.transformer.align_corners)
            total = compose(total, self.transformer.matrix(early(seen)))
        return total

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes.

        Raises:
            ValueError: If images are not of the network's channels and side.
        """
        if tuple(images.shape[1:]) != self.shape:
            wanted = "N x {} x {} x {}".format(*self.shape)
            raise ValueError(f"this network takes images {wanted}, got {tuple(images.shape)}: see channels and side")
        if self.transformer is None:
            return self.classify(self.blocks(images))
        if self.family == "C" and self.depth > 0:
            maps = self.transformer(self.blocks[: self.depth](images))
            return self.classify(self.blocks[self.depth :](maps))
        aligned = resample(images, self.matrix(images), self.transformer.align_corners)
        return self.classify(self.blocks(aligned))

    def parameter_groups(self, learning_rate: float, multiplier: float) -> list[dict]:
        """For an optimiser: localisation (with an own copy of blocks) at ``multiplier`` times the learning rate."""
        localising = [m for m in (self.transformer, self.own) if m is not None]
        slow = [p for module in localising for p in module.parameters()]
        known = {id(p) for p in slow}
        rest = [p for p in self.parameters() if id(p) not in known]
        groups = [{"params": rest, "lr": learning_rate}, {"params": slow, "lr": learning_rate * multiplier}]
        return [group for group in groups if group["params"]]


def same_size(side: int, variant: str, budget: int, **sizes) -> dict:
    """Sizes with which a variant has as near as possible to ``budget`` parameters.

    The localisation network's hidden layers are fitted; the classifier alone has none, and gets a wider third
    block.

    Args:
        side, variant, **sizes: As for `STN`, without ``hidden``.
        budget: Parameters in all.

    Returns:
        Keyword arguments for `STN`.

    Raises:
        ValueError: If no size comes within a tenth of the budget.
    """
    widths = list(sizes.get("widths", (64, 64, 64)))

    def sized(step: int) -> dict:
        if variant == "none":
            return {**sizes, "widths": [*widths[:2], step]}
        return {**sizes, "hidden": step}

    def count(step: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in STN(side, variant, **sized(step)).parameters())

    above = bisect.bisect_left(range(1, 4096), budget, key=count) + 1
    best = min({max(above - 1, 1), above}, key=lambda step: abs(count(step) - budget))
    if abs(count(best) - budget) > 0.1 * budget:
        raise ValueError(f"{variant} with {sizes} has no size near {budget} parameters; the nearest has {count(best)}")
    return sized(best)


def _blocks(channels: int, widths: Sequence[int], kernels: Sequence[int]) -> nn.Sequential:
    """Convolution, pooling and ReLU, three times; no pooling in the third."""
    blocks = nn.Sequential()
    for number, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        block = nn.Sequential(nn.Conv2d(channels, width, kernel, padding=kernel // 2))
        if number < 2:
            block.append(nn.MaxPool2d(2, ceil_mode=True))
        blocks.append(block.append(nn.ReLU()))
        channels = width
    return blocks


def _localisation(channels: int, side: int, hidden: int, inputs: int) -> nn.Sequential:
    """Max-pooling until at most ``inputs`` numbers are left, then three hidden layers."""
    network = nn.Sequential()
    while channels * side**2 > inputs and side > 1:
        network.append(nn.MaxPool2d(2, ceil_mode=True))
        side = -(-side // 2)
    network.append(nn.Flatten())
    units = channels * side**2
    for _ in range(3):
        network.extend([nn.Linear(units, hidden), nn.ReLU()])
        units = hidden
    return network

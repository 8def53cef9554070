"""The random numbers behind displacement fields: a seed gives the same ones on every device.

They are drawn on the CPU in float64 and then moved, field after field, so that the first fields do not depend on
how many follow.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

__all__ = ["normals", "precise", "uniforms", "whole_number"]

_NORMALS_AT_ONCE = 16  # torch.randn makes them in blocks of 16 and draws the last 16 anew if a block is not full


def normals(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Independent standard normal deviates, float64, shape ``(n, *shape)``.

    Raises:
        ValueError: If ``n`` is under 1, or ``seed`` under 0 or not under 2^64.
    """
    count = whole_number("n", n) * math.prod(shape)
    whole_blocks = -(-count // _NORMALS_AT_ONCE) * _NORMALS_AT_ONCE
    drawn = torch.randn(whole_blocks, generator=_generator(seed), dtype=torch.float64, device="cpu")
    return drawn[:count].view(n, *shape)


def uniforms(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Independent deviates, uniform from -1 to 1, float64, shape ``(n, *shape)``.

    Raises:
        ValueError: As `normals`.
    """
    drawn = torch.rand(whole_number("n", n), *shape, generator=_generator(seed), dtype=torch.float64, device="cpu")
    return drawn.mul_(2).sub_(1)


def precise(deviates: Tensor) -> Tensor:
    """Deviates in the precision for matrix products: their own on the CPU, float64 on a GPU.

    There, float32 products may be rounded to fewer bits (TF32, autocast), which would move pixels; float64 never is.
    """
    return deviates.double() if deviates.is_cuda else deviates


def whole_number(name: str, value: int, least: int = 1) -> int:
    """``value`` as an int, or a ValueError that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}")
    return number


def _generator(seed: int) -> torch.Generator:
    if (seed := whole_number("seed", seed, least=0)) >= 2**64:
        raise ValueError(f"seed must be under 2^64, got {seed}")
    return torch.Generator("cpu").manual_seed(seed)

"""Block swapping: images that keep their content up to a scale and lose its order above."""

from __future__ import annotations

import operator

import numpy as np
import torch
from torch import Tensor

__all__ = ["block_swap", "pad_to_multiple"]

_AT_ONCE = 2048  # images gathered together: bounds the memory beside input and output


def block_swap(images: Tensor | np.ndarray, block: int, swaps: int, seed: int, overwrite: bool = False) -> Tensor:
    """Exchange randomly chosen pairs of blocks, one pair after another, in each image by itself.

    Each image is cut into ``block x block`` squares. Each of ``swaps`` steps draws two of them, uniformly and
    independently (when both are the same one, nothing happens), and exchanges them. The first images get the
    same swaps however many follow; their channels move together.

    Args:
        images: Shape ``(N, C, H, W)``, any dtype. Sides that are no multiple of ``block`` are padded first
            (see ``pad_to_multiple``), without swaps too, so that all conditions share one frame.
        block: Side of a block, in pixels.
        swaps: Number of steps for each image.
        seed: Of the draws, 0 or more; the same on every platform and device.
        overwrite: Instead of exchanging them, overwrite the first block by the second: content is lost.

    Returns:
        A new tensor, same dtype and device, ``(N, C, H', W')`` with ``H'`` and ``W'`` padded.

    Raises:
        ValueError: If ``images`` is empty or not 4-d, ``block`` is under 1 or over a side of the images, or
            ``swaps`` or ``seed`` is negative.

    References:
        "Investigating CNNs using Spatial Orderness" (BMVC 2019), section 4.1: N_s swaps of k x k blocks,
        with blocks that span the image. The text does not say how blocks of 6 span the 28 pixels of MNIST
        (here: 28 is padded to 30), whether a pair may coincide (here: it may, one time in as many as there
        are blocks), or whether images share their swaps (here: they do not); the last two are as in code
        that the first author released. That code keeps no copy of the first block, and so overwrites where
        the text exchanges: ``overwrite=True``.
    """
    images = _checked(images, block)
    swaps, seed = operator.index(swaps), operator.index(seed)
    if swaps < 0 or seed < 0:
        raise ValueError(f"swaps and seed must be 0 or more, got {swaps} and {seed}")

    N, C, H, W = images.shape
    rows, columns = -(-H // block), -(-W // block)
    rng = np.random.Generator(np.random.PCG64(seed))
    swapped = images.new_empty(N, C, rows * block, columns * block)
    for start in range(0, N, _AT_ONCE):
        part = pad_to_multiple(images[start : start + _AT_ONCE], block)
        source = _source_blocks(rng, len(part), rows * columns, swaps, overwrite)
        swapped[start : start + _AT_ONCE] = _gather(part, torch.from_numpy(source).to(images.device), block)
    return swapped


def pad_to_multiple(images: Tensor | np.ndarray, block: int) -> Tensor:
    """Zeros around the images, up to the next multiple of ``block`` on each axis.

    As many on both sides; an odd one goes to the bottom or the right. Images that need none come back as they
    are, not copied.

    Args:
        images: Shape ``(N, C, H, W)``, any dtype.
        block: Side of a block, in pixels.

    Raises:
        ValueError: If ``images`` is empty or not 4-d, or ``block`` is under 1 or over a side of the images.
    """
    images = _checked(images, block)
    N, C, H, W = images.shape
    more_rows, more_columns = -H % block, -W % block
    if more_rows == more_columns == 0:
        return images
    top, left = more_rows // 2, more_columns // 2
    padded = images.new_zeros(N, C, H + more_rows, W + more_columns)
    padded[:, :, top : top + H, left : left + W] = images
    return padded


def _checked(images: Tensor | np.ndarray, block: int) -> Tensor:
    if not isinstance(images, Tensor):
        images = torch.from_numpy(np.array(images))  # a copy: it may be read-only or run backwards
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images must be (N, C, H, W) and not empty, got {tuple(images.shape)}")
    if not 1 <= operator.index(block) <= min(images.shape[-2:]):
        raise ValueError(f"a block of {block} px does not fit images of {tuple(images.shape[-2:])} px")
    return images


def _source_blocks(rng: np.random.Generator, n_images: int, n_blocks: int, swaps: int, overwrite: bool) -> np.ndarray:
    """Which block of its image ends at each place, in reading order: ``(N, n_blocks)``.

    Draws image after image, hence the first images do not depend on how many follow.
    """
    pairs = rng.integers(n_blocks, size=(n_images, swaps, 2), dtype=np.int64)
    source = np.tile(np.arange(n_blocks), (n_images, 1))
    each = np.arange(n_images)
    for a, b in pairs.transpose(1, 2, 0):  # one step of all images
        in_a, in_b = source[each, a], source[each, b]
        source[each, a] = in_b
        if not overwrite:
            source[each, b] = in_a
    return source


def _gather(images: Tensor, source: Tensor, block: int) -> Tensor:
    """Images whose place ``p`` shows block ``source[n, p]`` of image ``n``."""
    N, C, H, W = images.shape
    rows, columns = H // block, W // block
    blocks = images.reshape(N, C, rows, block, columns, block).permute(0, 2, 4, 1, 3, 5)
    first = torch.arange(N, device=images.device)[:, None] * (rows * columns)  # of each image, counted through
    taken = blocks.reshape(N * rows * columns, -1).index_select(0, (first + source).flatten())
    return taken.view(N, rows, columns, C, block, block).permute(0, 3, 1, 4, 2, 5).reshape(N, C, H, W)

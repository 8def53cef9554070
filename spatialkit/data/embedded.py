"""Two small image sets that scikit-learn brings along: no file, no network."""

from __future__ import annotations

import hashlib

import numpy as np

from spatialkit.data.files import Content

__all__ = ["PHOTOGRAPHS", "WORDS", "read_crops", "read_digits", "whole_photographs"]

WORDS = "embedded in scikit-learn"
PHOTOGRAPHS = ("china", "flower")
_N_TEST_DIGITS = 500  # the last ones, of 1797
_SIDE = 32  # px, of a crop


def read_digits(split: str) -> tuple[Content, str]:
    """Digits of 8 x 8 pixels, 0..16 stretched to 0..255, and the SHA-256 of the whole set's pixels."""
    from sklearn.datasets import load_digits  # here: the import takes seconds

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    is_test = np.arange(len(images)) >= len(images) - _N_TEST_DIGITS
    return _take(images, digits.target, is_test == (split == "test")), _sha256(images)


def read_crops(split: str) -> tuple[Content, str]:
    """Crops of the photographs, side by side from the top left, and the SHA-256 of all crops.

    The label says which photograph; crops count through both, in reading order, and every fifth is for test.
    """
    crops = [_crops(image) for image in whole_photographs()]
    images = np.concatenate(crops)
    labels = np.repeat(np.arange(len(crops)), [len(c) for c in crops])
    is_test = np.arange(len(images)) % 5 == 4
    return _take(images, labels, is_test == (split == "test")), _sha256(images)


def whole_photographs() -> list[np.ndarray]:
    """``china`` and ``flower``, each (3, H, W) uint8."""
    from sklearn.datasets import load_sample_images

    return [np.ascontiguousarray(image.transpose(2, 0, 1)) for image in load_sample_images().images]


def _crops(image: np.ndarray) -> np.ndarray:
    """All whole squares, in reading order: (C, H, W) -> (rows * columns, C, side, side)."""
    C, H, W = image.shape
    rows, columns = H // _SIDE, W // _SIDE
    grid = image[:, : rows * _SIDE, : columns * _SIDE].reshape(C, rows, _SIDE, columns, _SIDE)
    return grid.transpose(1, 3, 0, 2, 4).reshape(-1, C, _SIDE, _SIDE)


def _take(images: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Content:
    return Content(images[chosen], labels[chosen], np.flatnonzero(chosen))


def _sha256(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()

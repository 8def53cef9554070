"""Scale detection: are two active pixels near each other, or in the same patch?"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "PointImages",
    "ScaleDetection",
    "all_pairs",
    "move_points",
    "scale_detection",
    "scale_labels",
    "two_points",
]


@dataclass(frozen=True)
class PointImages:
    """Images of two active pixels.

    Attributes:
        images: N x 1 x L in one dimension, N x 1 x H x W in two; float32 (see `two_points`).
        labels: +1 (near, or the same patch) or -1; N, float32.
        positions: Pixel indices of both points, N x 2 x dimensions, int64; in two dimensions (row, column).
    """

    images: Tensor
    labels: Tensor
    positions: Tensor


@dataclass(frozen=True)
class ScaleDetection:
    """The training and the test set of one task; they share no image."""

    train: PointImages
    test: PointImages


def scale_detection(
    task: int = 1,
    size: int = 32,
    xi: float = 14.0,
    gap: float = 2.0,
    dimensions: int = 2,
    n_train: int = 1024,
    n_test: int | None = 2000,
    seed: int = 0,
) -> ScaleDetection:
    """A balanced training and test set, drawn without replacement from all pairs of positions.

    The source's settings: two dimensions, size 32, xi 14, gap 2, 1024 images; in one dimension, task 1 with size 32,
    xi 11, gap 4, 48 images, and task 2 with size 128, xi 32, 1024 images.

    Args:
        task: 1 or 2, see `scale_labels`.
        size: Pixels per side.
        xi: Characteristic scale, in px; for task 2 a whole number.
        gap: Full width of the gap around xi, in px (task 1 alone).
        dimensions: 1 (a ring of pixels) or 2 (a square with borders).
        n_train: Training images, half of each class.
        n_test: Test images, half of each class; None: as many as the rarer class allows.
        seed: Of the draw.

    Raises:
        ValueError: If numbers are odd or not positive, there are too few pairs, or `scale_labels` refuses the task.

    References:
        Tomasini et al. (2023), sections 3 and 4.3, Fig C1. That classes are balanced is in the authors' code alone;
        the text says nothing of it. The code leaves out all points (i, i) in two dimensions; here they take part.
    """
    if n_train < 2 or n_train % 2 or (n_test is not None and (n_test < 2 or n_test % 2)):
        raise ValueError(f"n_train and n_test must be even and at least 2, got {n_train} and {n_test}")
    positions = all_pairs(size, dimensions)
    labels = scale_labels(positions, task, size, xi, gap)
    generator = torch.Generator().manual_seed(seed)
    of_class = []
    for label in (1, -1):
        members = (labels == label).nonzero().flatten()
        of_class.append(members[torch.randperm(len(members), generator=generator)])
    room = min(map(len, of_class)) - n_train // 2
    wanted = room if n_test is None else n_test // 2
    if not 0 < wanted <= room:
        raise ValueError(
            f"{n_train} training and {n_test or 2} test images need more than the {len(of_class[0])} and "
            f"{len(of_class[1])} pairs of the two classes"
        )
    sets = []
    for start, stop in ((0, n_train // 2), (n_train // 2, n_train // 2 + wanted)):
        chosen = torch.cat([members[start:stop] for members in of_class])
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        points = positions[chosen]
        sets.append(PointImages(two_points(points, size, dimensions), labels[chosen], points))
    return ScaleDetection(*sets)


def all_pairs(size: int, dimensions: int) -> Tensor:
    """All unordered pairs of different pixels, n (n - 1) / 2 x 2 x dimensions for n pixels, in reading order.

    Raises:
        ValueError: If ``dimensions`` is neither 1 nor 2, or there are under two pixels.
    """
    _check(size, dimensions)
    n = size**dimensions
    pairs = torch.combinations(torch.arange(n), 2)
    if dimensions == 1:
        return pairs[..., None]
    return torch.stack([pairs // size, pairs % size], dim=-1)


def scale_labels(positions: Tensor, task: int, size: int, xi: float, gap: float = 0.0) -> Tensor:
    """+1, -1, or 0 for a pair of points inside the gap; N, float32.

    Task 1, with d the distance of the two points: +1 if d < xi - gap / 2, -1 if d >= xi + gap / 2. In one dimension d
    is the shorter way round the ring, in two it is Euclidean. Task 2: +1 if both points lie in the same of the patches
    of side xi that tile the image from pixel 0 on, -1 if not.

    Args:
        positions: N x 2 x dimensions, integers in 0 ... size - 1.
        task: 1 or 2.
        size: Pixels per side.
        xi: Characteristic scale, in px.
        gap: Full width of the gap, in px; without a meaning in task 2.

    Raises:
        ValueError: If there is no such task, xi is not positive, the gap is negative, xi is no divisor of the size
            (task 2), or positions do not fit.

    References:
        Tomasini et al. (2023), section 3. On which side the bounds fall, and that task 1 lives on a ring in one
        dimension, is in the authors' code; there the same patch has the label -1.
    """
    _check_positions(positions, size)
    if task not in (1, 2):
        raise ValueError(f"task must be 1 or 2, got {task}")
    if not xi > 0 or gap < 0:
        raise ValueError(f"xi must be positive and gap at least 0, got {xi} and {gap}")
    if task == 2:
        if xi != int(xi) or size % int(xi):
            raise ValueError(f"patches of {xi} px do not tile {size} px")
        patches = positions // int(xi)
        same = (patches[:, 0] == patches[:, 1]).all(dim=-1)
        return torch.where(same, 1.0, -1.0)
    apart = (positions[:, 0] - positions[:, 1]).abs()
    if positions.shape[-1] == 1:
        apart = torch.minimum(apart, size - apart)
    square = apart.square().sum(dim=-1)  # an integer: no rounding decides a label
    near, far = xi - gap / 2, xi + gap / 2
    labels = torch.zeros(len(positions))
    labels[square >= far**2] = -1.0
    if near > 0:
        labels[square < near**2] = 1.0
    return labels


def two_points(positions: Tensor, size: int, dimensions: int = 2) -> Tensor:
    """Images of two active pixels on an empty background, float32.

    The mean square of the pixels is 1: ``||x||^2`` is the number of pixels n, so that an active pixel has the value
    sqrt(n / 2), in one dimension the source's sqrt(L / 2). Two points on one pixel add up.

    Args:
        positions: N x 2 x dimensions, integers in 0 ... size - 1.
        size: Pixels per side.
        dimensions: 1 for images N x 1 x L, 2 for N x 1 x H x W.

    Raises:
        ValueError: If positions do not fit.

    References:
        Tomasini et al. (2023), section 4, "Setup", for one dimension. For two the text is silent and the authors' code
        takes n / 2, so that the mean of the pixels is 1; ours carries the norm over.
    """
    _check(size, dimensions)
    _check_positions(positions, size)
    if positions.shape[-1] != dimensions:
        raise ValueError(f"positions of {positions.shape[-1]} coordinates do not fit {dimensions} dimensions")
    n = size**dimensions
    flat = positions[..., 0] if dimensions == 1 else positions[..., 0] * size + positions[..., 1]
    images = torch.zeros(len(positions), n, device=positions.device)
    images.scatter_add_(1, flat, torch.full(flat.shape, (n / 2) ** 0.5, device=positions.device))
    return images.view(-1, 1, *[size] * dimensions)


def move_points(
    positions: Tensor,
    size: int,
    generator: torch.Generator,
    *,
    stay: bool = False,
    border: str | None = None,
    patch: int | None = None,
    label: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Positions after each point has moved by one pixel, to a neighbour drawn at random.

    Neighbours are the 2 beside a point in one dimension and the 8 around it in two (the source does not say whether
    diagonal ones count). Points move independently, and may meet.

    Args:
        positions: N x 2 x dimensions, integers in 0 ... size - 1; left as they are.
        size: Pixels per side.
        generator: Of the moves, on the CPU.
        stay: Whether staying in place is one more possibility, as likely as each neighbour.
        border: "ring": what leaves on one side enters on the other; "clip": it stops at the border, each coordinate
            by itself. By default a ring in one dimension, clipped in two.
        patch: If given, a point that would leave its patch of this side, tiled from pixel 0 on, stays in place.
        label: If given, a function of positions; where the label changes, both points stay in place.

    Raises:
        ValueError: If positions do not fit, or ``border`` is none of these.

    References:
        Tomasini et al. (2023): section 3 moves each point to one of its neighbours or leaves it, with equal
        probabilities (``stay=True``); section 4 moves it left or right with probability 1/2. The authors' code for one
        dimension clips, and undoes moves across the border of a patch of side xi (``border="clip", patch=xi``).
    """
    _check_positions(positions, size)
    dimensions = positions.shape[-1]
    border = border or ("ring" if dimensions == 1 else "clip")
    if border not in ("ring", "clip"):
        raise ValueError(f"border must be 'ring' or 'clip', got {border!r}")
    steps = [s for s in itertools.product((-1, 0, 1), repeat=dimensions) if stay or any(s)]
    drawn = torch.randint(len(steps), positions.shape[:2], generator=generator)
    moved = positions + torch.tensor(steps)[drawn].to(positions.device)
    moved = moved % size if border == "ring" else moved.clamp(0, size - 1)
    if patch is not None:
        left = (moved // patch != positions // patch).any(dim=-1, keepdim=True)
        moved = torch.where(left, positions, moved)
    if label is not None:
        changed = label(moved) != label(positions)
        moved = torch.where(changed[:, None, None], positions, moved)
    return moved


def _check(size: int, dimensions: int) -> None:
    if dimensions not in (1, 2):
        raise ValueError(f"dimensions must be 1 or 2, got {dimensions}")
    if size < 2:
        raise ValueError(f"size must be at least 2 px, got {size}")


def _check_positions(positions: Tensor, size: int) -> None:
    if positions.ndim != 3 or positions.shape[1] != 2 or positions.shape[2] not in (1, 2):
        raise ValueError(f"positions must be N x 2 x dimensions, dimensions 1 or 2, got {tuple(positions.shape)}")
    if positions.is_floating_point() or (len(positions) and not 0 <= positions.min() <= positions.max() < size):
        raise ValueError(f"positions must be integers between 0 and {size - 1}")

"""How long displacement fields and warps take, against one image at a time and against other libraries.

    python benchmarks/deformation.py [--repeats 15] [--csv times.csv]

Random float32 images with 3 channels: 256 of 32 px and 32 of 224 px. Diffeomorphisms have rms 1 px, splines the
sizes of their source (3 x 3 points and 2 px, 5 x 5 points and 10 px). "Ours" draws the fields anew each time. All are
timed in turn in one process, with the same threads, and the best of all turns counts; what goes image by image runs on
fewer images and in fewer turns. Times are per image, and ratios to the first row of the same block. On Linux, freed
memory is kept: to fetch it anew from the system can take longer than a warp.
"""

import argparse
import ctypes
import importlib
import importlib.util
import itertools
import math
import sys

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _timing import best_times
from scipy.interpolate import RBFInterpolator

from spatialkit._torchvision import torchvision
from spatialkit.deform import Diffeomorphism, ThinPlateSpline, warp

v2 = importlib.import_module(f"{torchvision.__name__}.transforms.v2")  # by way of the package's safe import
N_IMAGES = {32: 256, 224: 32}
N_ONE_BY_ONE = {32: 16, 224: 2}  # of these, by methods that take them one at a time
SPLINES = {32: ThinPlateSpline(3, 2), 224: ThinPlateSpline(5, 10)}
SEEDS = itertools.count()


def one_image_at_a_time(images: torch.Tensor, family: Diffeomorphism) -> None:
    """What a plain implementation for single images does: modes, sums and four reads, for each image anew."""
    n, c = images.shape[-1], family.cutoff
    for image in images:
        k = torch.arange(1, c + 1)
        squares = k[:, None] ** 2 + k**2
        weights = torch.where(squares < (c + 0.5) ** 2, squares.float().rsqrt(), 0)
        sines = torch.sin(math.pi * torch.linspace(0, 1, n)[:, None] * k)
        size = n * math.sqrt(family.temperature)
        dx, dy = (size * torch.einsum("ij,xi,yj->yx", torch.randn(c, c) * weights, sines, sines) for _ in range(2))
        ticks = torch.arange(n)
        x, y = (ticks + dx).clamp(0, n - 1), (ticks[:, None] + dy).clamp(0, n - 1)
        left, above = x.floor().long(), y.floor().long()
        right, below = (left + 1).clamp(max=n - 1), (above + 1).clamp(max=n - 1)
        tx, ty = x - left, y - above
        upper = (1 - tx) * image[:, above, left] + tx * image[:, above, right]
        lower = (1 - tx) * image[:, below, left] + tx * image[:, below, right]
        (1 - ty) * upper + ty * lower


def lattice(side: int, size: int) -> np.ndarray:
    """Points (x, y) in px, row after row, border included: ``(side^2, 2)``."""
    ticks = np.linspace(0, size - 1, side)
    return np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)


def scipy_fields(family: ThinPlateSpline, n: int, size: int, rng: np.random.Generator) -> None:
    """Fields of SciPy, one spline per image."""
    for _ in range(n):
        scipy_fields_at_once(family, 1, size, rng)


def scipy_fields_at_once(family: ThinPlateSpline, n: int, size: int, rng: np.random.Generator) -> None:
    """Fields of SciPy, one spline with as many values as the batch has displacements."""
    points, pixels = lattice(family.grid, size), lattice(size, size)
    shifts = rng.uniform(-family.max_shift, family.max_shift, (len(points), 2 * n))
    RBFInterpolator(points, shifts, kernel="thin_plate_spline")(pixels)


def skimage_splines(images: np.ndarray, family: ThinPlateSpline, rng: np.random.Generator) -> None:
    """Fields and warps of scikit-image, one image at a time."""
    from skimage.transform import ThinPlateSplineTransform
    from skimage.transform import warp as skimage_warp

    points = lattice(family.grid, images.shape[1])
    for image in images:
        spline = ThinPlateSplineTransform()
        spline.estimate(points, points + rng.uniform(-family.max_shift, family.max_shift, points.shape))
        skimage_warp(image, spline, order=1, mode="edge")


def diffeomorphism_tasks(images: torch.Tensor, cutoff: int) -> tuple[dict, dict]:
    """Batched methods and those that go image by image; each with its number of images."""
    n, size = len(images), images.shape[-1]
    family = Diffeomorphism.of_rms(1.0, cutoff, size)
    elastic = v2.ElasticTransform()
    places = torch.rand(n, size, size, 2) * 2 - 1
    places = places * 0.01 + F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), images.shape, align_corners=True)
    few = images[: N_ONE_BY_ONE[size]]
    batched = {
        "ours, sample and warp": lambda: warp(images, family.sample(n, size, next(SEEDS))),
        "ours, sample": lambda: family.sample(n, size, next(SEEDS)),
        "grid_sample alone": lambda: F.grid_sample(images, places, padding_mode="border", align_corners=True),
    }
    one_by_one = {
        "one image at a time": lambda: one_image_at_a_time(few, family),
        "ours, one image at a time": lambda: [warp(i[None], family.sample(1, size, next(SEEDS))) for i in few],
        "ElasticTransform, one field per batch": lambda: elastic(images),
        "ElasticTransform, one field per image": lambda: [elastic(image) for image in few],
    }
    return (
        {name: (task, n) for name, task in batched.items()},
        {name: (task, n if "per batch" in name else len(few)) for name, task in one_by_one.items()},
    )


def spline_tasks(images: torch.Tensor) -> tuple[dict, dict]:
    """As `diffeomorphism_tasks`."""
    n, size, rng = len(images), images.shape[-1], np.random.default_rng(0)
    family, n_few = SPLINES[size], N_ONE_BY_ONE[size]
    few = images[:n_few].permute(0, 2, 3, 1).numpy()
    batched = {
        "ours, sample": (lambda: family.sample(n, size, next(SEEDS)), n),
        "ours, sample and warp": (lambda: warp(images, family.sample(n, size, next(SEEDS))), n),
    }
    one_by_one = {
        "SciPy, fields per image": (lambda: scipy_fields(family, n_few, size, rng), n_few),
        "SciPy, fields of a batch": (lambda: scipy_fields_at_once(family, n, size, rng), n),
    }
    if importlib.util.find_spec("skimage"):
        one_by_one["scikit-image, per image, with warp"] = (lambda: skimage_splines(few, family, rng), n_few)
    return batched, one_by_one


def keep_freed_memory() -> None:
    """Have glibc reuse freed memory, for all methods alike."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_trim_threshold, 2**30)
        libc.mallopt(m_mmap_threshold, 2**30)


def best_times_per_image(tasks: dict, repeats: int) -> dict:
    """Shortest wall time of each task in seconds, divided by its number of images; the first turn warms up."""
    calls = {name: task for name, (task, _) in tasks.items()}
    best_times(calls, 1)
    return {name: seconds / tasks[name][1] for name, seconds in best_times(calls, repeats).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="turns of the batched tasks")
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()

    keep_freed_memory()
    rows = []
    for size, n in N_IMAGES.items():
        images = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
        blocks = {f"diffeomorphisms, cut-off {c}": diffeomorphism_tasks(images, c) for c in (3, 15)}
        blocks["splines"] = spline_tasks(images)
        for block, (batched, one_by_one) in blocks.items():
            seconds = best_times_per_image(batched, arguments.repeats)
            seconds |= best_times_per_image(one_by_one, max(1, arguments.repeats // 5))
            ours = next(iter(seconds.values()))
            rows += [
                {
                    "fields": block,
                    "size (px)": size,
                    "batch": n,
                    "threads": torch.get_num_threads(),
                    "method": method,
                    "time per image (us)": round(1e6 * s, 1),
                    "time / first row": round(s / ours, 2),
                }
                for method, s in seconds.items()
            ]

    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
